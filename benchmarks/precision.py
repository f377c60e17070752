"""Does the default precision learn as well as float32?

    python benchmarks/precision.py --data ../shared/celeba \
        --facenet ../shared/facenet/20180402-114759

The same 300 steps from the same seed: everything in float32; FaceNet as
`fv.fastest_precision()` says (the default); the VAE like that, too. Each is
then judged in float32 on held-out faces. A second float32 run from another
seed shows how much chance alone changes.
"""

import argparse
import pathlib
import tempfile

import keras

import facevae_keras as fv


def train(photos, arguments, facenet, loss_precision, vae_precision, seed):
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(vae_precision)
    vae = fv.FaceVAE(beta=arguments.beta)
    keras.config.set_dtype_policy("float32")
    loss = fv.PerceptualLoss(
        facenet, image_size=arguments.size, precision=loss_precision
    )
    rate = fv.warm_up_cosine(1e-3, arguments.steps, 50)
    vae.compile(keras.optimizers.Adam(rate), loss=loss)
    vae.fit(
        fv.photo_batches(photos, 32, flip=True, seed=seed),
        steps_per_epoch=arguments.steps,
        shuffle=False,
        verbose=0,
    )
    return vae


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of photos; drawn faces without")
    parser.add_argument("--facenet", default="seeded")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=67)
    parser.add_argument("--beta", type=float, default=3.0)
    parser.add_argument("--photos", type=int, default=3000)
    arguments = parser.parse_args()

    folder = arguments.data
    if folder is None:
        folder = pathlib.Path(tempfile.mkdtemp()) / "faces"
        fv.write_synthetic_dataset(folder, arguments.photos, seed=1)
    images = fv.find_images(folder)
    images = images.sample(arguments.photos, random_state=1)
    training, held_out = fv.split_images(images)
    photos, _ = fv.load_photos(training["path"], arguments.size, crop=0.8)
    judged, _ = fv.load_photos(held_out["path"], arguments.size, crop=0.8)
    facenet = fv.load_facenet(arguments.facenet)
    judge = fv.PerceptualLoss(
        facenet, image_size=arguments.size, precision="float32"
    )

    fastest = fv.fastest_precision()
    print("| FaceNet | VAE | seed | held-out loss | of float32's |")
    print("| --- | --- | --- | --- | --- |")
    first = None
    for loss_precision, vae_precision, seed in (
        ("float32", "float32", 1),
        (fastest, "float32", 1),
        (fastest, fastest, 1),
        ("float32", "float32", 2),
    ):
        vae = train(
            photos, arguments, facenet, loss_precision, vae_precision, seed
        )
        exact = fv.FaceVAE(beta=arguments.beta)
        exact.set_weights(vae.get_weights())
        exact.compile(loss=judge)
        keras.utils.set_random_seed(3)  # the same noise for all
        loss = exact.evaluate(judged, verbose=0, return_dict=True)["loss"]
        first = first or loss
        print(
            f"| {loss_precision} | {vae_precision} | {seed} | {loss:.1f} | "
            f"{loss / first:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
