"""A patch critic: detail that no feature asks for.

FaceNet's features and squared differences leave a decoder free to paint skin
and hair smooth: where a strand could be here or there, its mean is the safest
image. A critic is trained beside the decoder to score patches of photos above
patches of reconstructions, and the decoder to raise its own score (Larsen et
al. 2016, arXiv 1512.09300; patches and the balance of the gradients as in
Esser et al. 2021, arXiv 2012.09841).
"""

import keras
import numpy as np
from keras import layers, ops

from facevae_keras.backends import several_gradients, step
from facevae_keras.layers import RGB_MEAN, RGB_VARIANCE, fine_brightness
from facevae_keras.vae import FaceVAE

# The score's gradient passes through what is finer than a Gaussian blur of this
# deviation, in pixels, and only through its brightness. Shapes and colors are
# left to the other losses. With a score that depends on colors, too, noses got
# yellow blotches, and lips turned magenta.
DETAIL_DEVIATION = 2.5
# Pixels along the edges of an image that the critic does not see. A critic that
# sees them makes the decoder draw lines along the edges.
BORDER = 4
_MEMORY = 0.98  # of the running means of the gradients' norms


def patch_critic(image_size):
    """A network that scores patches of 70x70 pixels.

    Four 4x4 convolutions with spectral normalization (each kernel, as a matrix,
    divided by its largest singular value; Miyato et al. 2018, arXiv
    1802.05957), so that scores can't get steeper and steeper; and a last one
    without it.

    Args:
        image_size: height and width of the images, in pixels; a multiple of 8.

    Returns:
        Functional model, RGB images 0..255 (n, image_size, image_size, 3) to
        scores (n, image_size / 8, image_size / 8, 1).
    """
    images = keras.Input((image_size, image_size, 3), name="images")
    x = layers.Normalization(
        mean=RGB_MEAN, variance=RGB_VARIANCE, name="standardize"
    )(images)
    for number, (filters, strides) in enumerate(
        [(32, 2), (64, 2), (96, 2), (96, 1)], start=1
    ):
        convolution = layers.Conv2D(filters, 4, strides, padding="same")
        x = layers.SpectralNormalization(convolution, name=f"Critic_{number}")(
            x
        )
        x = layers.LeakyReLU(0.2, name=f"Critic_{number}-activation")(x)
    scores = layers.Conv2D(
        1, 4, padding="same", dtype="float32", name="Critic_5"
    )(x)
    return keras.Model(images, scores, name="critic")


class PatchCriticVAE(FaceVAE):
    """A `FaceVAE` whose decoder also learns from a patch critic.

    Args:
        share: length of the score's gradient, as a part of that of the other
            losses' gradient, both at the kernel of the last convolution of
            `judged_layers`; running means of some 50 steps.
        warm_up_steps: steps before the score counts. The critic is trained
            from the first one.
        largest_weight: limit of the score's weight. Where the score's gradient
            is small, `share` alone would amplify noise.
        decoder_rate: the decoder's learning rate as a part of the critic's. A
            slow decoder does not run away from what the critic knows (Heusel
            et al. 2017, arXiv 1706.08500). The encoder keeps the critic's rate.
        judged_layers: the score's gradient changes only the layers of the
            decoder whose names begin so: a string, or a tuple of several;
            `""`: all.
        **kwargs: as for `FaceVAE`.

    Raises:
        ValueError: no layer of the decoder with weights has such a name.

    `save` writes encoder and decoder alone, as a `FaceVAE`. Metrics
    `score_loss` (the negative mean score of the reconstructions), `critic_loss`
    (2 where all scores are 0) and `score_weight` (that of the last step;
    missing under TensorFlow where a launch has several steps) join those of
    `FaceVAE`.

    Example:

    >>> vae = fv.PatchCriticVAE("residual_vae")
    >>> vae.compile(keras.optimizers.Adam(4e-4, beta_1=0.5), loss=loss)
    >>> vae.fit(batches, steps_per_epoch=1600)
    """

    def __init__(
        self,
        *args,
        share=0.5,
        warm_up_steps=150,
        largest_weight=np.inf,
        decoder_rate=1.0,
        judged_layers="",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.share = share
        self.warm_up_steps = warm_up_steps
        self.largest_weight = largest_weight
        self.decoder_rate = decoder_rate
        self.judged_layers = judged_layers
        if not self._judged_variables():
            names = [layer.name for layer in self.decoder.layers]
            raise ValueError(
                "judged_layers: no layer of the decoder with weights begins "
                f"with {judged_layers!r}; there are {', '.join(names)}"
            )
        self.critic = patch_critic(self.image_size - 2 * BORDER)
        # Running means: of the other losses' gradient, and of the score's.
        self.norms = keras.Variable(
            np.zeros(2), dtype="float32", trainable=False, name="norms"
        )
        self._trackers += [
            keras.metrics.Mean(name=name)
            for name in ("score_loss", "critic_loss")
        ]

    def compute_losses(self, photos, training):
        """The losses of `FaceVAE`, then the critic's.

        Returns:
            The three scalars of `FaceVAE.compute_losses`; the negative mean
            score of the reconstructions, for the decoder; the hinge loss, for
            the critic.
        """
        images, reconstructions, losses = self.reconstruct_drawn(
            photos, training
        )
        detail = fine_brightness(reconstructions, DETAIL_DEVIATION)
        # The reconstructions themselves, but a gradient through the detail.
        judged = detail + ops.stop_gradient(reconstructions - detail)
        inner = ops.concatenate([images, judged])[
            :, BORDER:-BORDER, BORDER:-BORDER
        ]
        scores = self.critic(inner, training=training)
        of_photos, of_reconstructions = ops.split(scores, 2)
        critic_loss = ops.mean(ops.relu(1.0 - of_photos)) + ops.mean(
            ops.relu(1.0 + of_reconstructions)
        )
        return *losses, -ops.mean(of_reconstructions), critic_loss

    @step
    def train_step(self, photos):
        """One step of training: of encoder and decoder, and of the critic."""
        critic = self.critic.trainable_variables
        decoder = self.decoder.trainable_variables
        others = [*self.encoder.trainable_variables, *decoder]
        judged = self._judged_variables()
        losses, (gradients, of_score, of_critic) = several_gradients(
            self, photos, [(0, others), (3, judged), (4, critic)]
        )
        gradients = dict(zip(map(id, others), gradients, strict=True))
        weight = self._score_weight(
            [gradients[id(x)] for x in judged], of_score
        )
        for variable, gradient in zip(judged, of_score, strict=True):
            gradients[id(variable)] += weight * gradient
        # Adam's steps don't depend on the length of a gradient, so the step
        # itself is shortened.
        before = [ops.copy(variable) for variable in decoder]
        self.optimizer.apply(
            [*gradients.values(), *of_critic], [*others, *critic]
        )
        for variable, old in zip(decoder, before, strict=True):
            variable.assign(old + self.decoder_rate * (variable - old))
        self.track_losses(losses, photos)
        return {**self.loss_results(), "score_weight": weight}

    def _judged_variables(self):
        return [
            variable
            for layer in self.decoder.layers
            if layer.name.startswith(self.judged_layers)
            for variable in layer.trainable_variables
        ]

    def _score_weight(self, of_others, of_score):
        """The score's weight, a scalar; see `share` and `largest_weight`.

        Args:
            of_others, of_score: gradients of the other losses and of the
                score, by the variables of `judged_layers`.
        """
        last = max(n for n, x in enumerate(of_score) if len(x.shape) == 4)
        now = ops.stack(
            [
                ops.sqrt(ops.sum(ops.square(gradient[last])))
                for gradient in (of_others, of_score)
            ]
        )
        first = self.optimizer.iterations == 0
        means = ops.where(
            first, now, _MEMORY * self.norms + (1.0 - _MEMORY) * now
        )
        self.norms.assign(means)
        counts = self.optimizer.iterations >= self.warm_up_steps
        weight = ops.minimum(
            self.share * means[0] / means[1], self.largest_weight
        )
        return ops.where(counts, weight, 0.0)
