"""A step of training, of evaluation and of inference, for each Keras backend.

The mathematics is `FaceVAE.compute_losses`, the same for all. Here is only what
differs: how a backend differentiates, and who keeps the state. Each class is
the part of `FaceVAE` that one backend needs; `TrainingSteps` is the one for the
backend of this process.

A step gets either photos, (n, height, width, 3), or indices, (steps, n), of
photos that `FaceVAE.keep_on_device` has put beside the model: several steps of
training in one launch, without the host in between.
"""

import functools

import keras


def _inputs(data):
    return keras.utils.unpack_x_y_sample_weight(data)[0]


class _AnySteps:
    def draw_noise(self, shape):
        """Standard normal noise of shape (n, latent_dim)."""
        return keras.random.normal(shape, seed=self.seed_generator)

    def test_step(self, data):
        photos = _inputs(data)
        losses = self.compute_losses(photos, training=False)
        self.track_losses(losses, photos)
        return self.loss_results()


class TensorFlowSteps(_AnySteps):
    """TensorFlow: variables keep the state, a tape the gradients."""

    def train_step(self, data):
        import tensorflow as tf

        inputs = _inputs(data)
        if len(inputs.shape) == 4:
            self._train_on(inputs)
        else:

            def step(number):
                self._train_on(self.photos_on_device(inputs[number]))
                return (number + 1,)

            count = tf.shape(inputs)[0]
            tf.while_loop(lambda number: number < count, step, [0])
        return self.loss_results()

    def _train_on(self, photos):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            losses = self.compute_losses(photos, training=True)
            # The optimizer adds up the gradients of all devices.
            devices = tf.distribute.get_strategy().num_replicas_in_sync
            total = losses[0] / devices
        gradients = tape.gradient(total, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.track_losses(losses, photos)

    def draw_noise(self, shape):
        """Normal noise; each of several devices gets its part of one draw."""
        import tensorflow as tf

        count, latent_dim = shape
        devices = tf.distribute.get_strategy().num_replicas_in_sync
        if devices == 1:
            return super().draw_noise(shape)
        noise = super().draw_noise((devices * count, latent_dim))
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return noise[number * count : (number + 1) * count]

    @staticmethod
    def infer(model, inputs):
        """What a functional model, compiled, makes of a batch."""
        import tensorflow as tf

        if not hasattr(model, "compiled_call"):
            # One trace for every number of images.
            images = tf.TensorSpec((None, *inputs.shape[1:]), inputs.dtype)
            model.compiled_call = tf.function(
                lambda inputs: model(inputs, training=False),
                input_signature=[images],
            )
        return model.compiled_call(inputs)


class JaxSteps(_AnySteps):
    """JAX: state goes in and comes out, nothing is changed in place."""

    def train_step(self, state, data):
        import jax

        inputs = _inputs(data)
        if len(inputs.shape) == 4:
            state = self._train_on(state, inputs)
        else:

            def step(state, indices):
                with self._scope(state[0], state[1]):
                    photos = self.photos_on_device(indices)
                return self._train_on(state, photos), None

            state, _ = jax.lax.scan(step, state, inputs)
        return self._stateless_results(state[-1]), state

    def _train_on(self, state, photos):
        import jax

        trainable, non_trainable, optimizer, metrics = state

        def total_loss(trainable):
            losses, changed = self._stateless_losses(
                trainable, non_trainable, photos, training=True
            )
            return losses[0], (losses, changed)

        gradients, (losses, non_trainable) = jax.grad(total_loss, has_aux=True)(
            trainable
        )
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        metrics = self._stateless_track(metrics, losses, photos)
        return trainable, non_trainable, optimizer, metrics

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        photos = _inputs(data)
        losses, non_trainable = self._stateless_losses(
            trainable, non_trainable, photos, training=False
        )
        metrics = self._stateless_track(metrics, losses, photos)
        return self._stateless_results(metrics), (
            trainable,
            non_trainable,
            metrics,
        )

    def _scope(self, trainable, non_trainable):
        variables = self.trainable_variables + self.non_trainable_variables
        values = [*trainable, *non_trainable]
        return keras.StatelessScope(zip(variables, values, strict=True))

    def _stateless_losses(self, trainable, non_trainable, photos, training):
        with self._scope(trainable, non_trainable) as scope:
            losses = self.compute_losses(photos, training)
        return losses, [
            scope.get_current_value(variable)
            for variable in self.non_trainable_variables
        ]

    def _stateless_track(self, metrics, losses, photos):
        pairs = zip(self.metrics_variables, metrics, strict=True)
        with keras.StatelessScope(pairs) as scope:
            self.track_losses(losses, photos)
        return [
            scope.get_current_value(variable)
            for variable in self.metrics_variables
        ]

    def _stateless_results(self, metrics):
        pairs = zip(self.metrics_variables, metrics, strict=True)
        with keras.StatelessScope(pairs):
            return self.loss_results()

    @staticmethod
    @functools.cache
    def _inference():
        import jax

        @functools.partial(jax.jit, static_argnums=0)
        def infer(model, trainable, non_trainable, inputs):
            outputs, _ = model.stateless_call(
                trainable, non_trainable, inputs, training=False
            )
            return outputs

        return infer

    @staticmethod
    def infer(model, inputs):
        """What a functional model, compiled, makes of a batch."""
        trainable = [variable.value for variable in model.trainable_variables]
        non_trainable = [
            variable.value for variable in model.non_trainable_variables
        ]
        return JaxSteps._inference()(model, trainable, non_trainable, inputs)


class TorchSteps(_AnySteps):
    """PyTorch: variables keep the state, and their own gradients."""

    def train_step(self, data):
        inputs = _inputs(data)
        if len(inputs.shape) == 4:
            self._train_on(inputs)
        else:
            for indices in inputs:
                self._train_on(self.photos_on_device(indices))
        return self.loss_results()

    def _train_on(self, photos):
        import torch

        self.zero_grad()
        losses = self.compute_losses(photos, training=True)
        losses[0].backward()
        gradients = [
            variable.value.grad for variable in self.trainable_variables
        ]
        with torch.no_grad():
            self.optimizer.apply(gradients, self.trainable_variables)
            self.track_losses(losses, photos)

    @staticmethod
    def infer(model, inputs):
        """What a functional model makes of a batch."""
        import torch

        with torch.no_grad():
            return model(inputs, training=False)


TrainingSteps = {
    "tensorflow": TensorFlowSteps,
    "jax": JaxSteps,
    "torch": TorchSteps,
}[keras.backend.backend()]
