"""Makes what ships of what notebooks 01 and 02, or celeba_128.py, left.

    python recipes/ship.py run/dfc_vae celeba_dfc_vae CELEBA

writes `celeba_dfc_vae.keras` and `celeba_dfc_vae.h5` to
`facevae_keras/pretrained/`. Weights are rounded to half precision and latent
variables to 1/128, so that they compress to half of their size; both stay
float32. Where the folder CELEBA says who is on a photo, the HDF5 file gets
that too, as `identities`.
"""

import hashlib
import pathlib
import sys
import zipfile

import numpy as np

import facevae_keras as fv
from facevae_keras.files import pretrained_file


def _rounded(weights):
    """To half precision, but for values beyond its range."""
    with np.errstate(over="ignore"):
        half = weights.astype("float16").astype("float32")
    return np.where(np.isfinite(half), half, weights)


def write_compressed(model, target):
    """Saves a model whose weights are rounded to half precision."""
    for layer in model.layers:
        layer.set_weights([_rounded(w) for w in layer.get_weights()])
    saved = target.with_name("saved_" + target.name)
    model.save(saved)
    with (
        zipfile.ZipFile(saved) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_BZIP2) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    saved.unlink()


def ship_attributes(source, target, images=None):
    latents, attributes, vectors = fv.load_attributes(source)
    if images is not None:
        attributes["identity"] = images.loc[attributes.index, "identity"]
    fv.save_attributes(
        target, np.round(latents * 128) / 128, attributes, vectors
    )


def write_checksums():
    """Lists what ships as `sha256sum` does; loading compares with it."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(pretrained_file("").iterdir())
        if file.suffix in (".h5", ".keras")
    ]
    pretrained_file("SHA256SUMS").write_text("".join(lines))


def ship(run_dir, name, celeba=None):
    """Writes what ships of a run, as the top of this file says."""
    write_compressed(
        fv.load_vae(run_dir / "vae.keras"), pretrained_file(f"{name}.keras")
    )
    images = fv.find_images(celeba) if celeba else None
    ship_attributes(
        run_dir / "attribute_vectors.h5", pretrained_file(f"{name}.h5"), images
    )
    write_checksums()
    for file in map(pretrained_file, (f"{name}.keras", f"{name}.h5")):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    ship(pathlib.Path(sys.argv[1]), *sys.argv[2:])
