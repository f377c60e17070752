"""Attribute vectors of any number of photos, on several cores or machines.

    python recipes/attribute_vectors_dask.py CELEBA SUMS.npz
    python recipes/attribute_vectors_dask.py CELEBA SUMS.npz \
        --vae run/vae.keras --scheduler tcp://10.0.0.1:8786

CELEBA is a folder of photos with `list_attr_celeba.txt`. The vectors are
`fv.AttributeSums.load("SUMS.npz").vectors()`. `recipes/cluster.py` says how to
start a cluster; without one, there are worker processes on this machine.

Photos go to the workers by shards, whose sums stay in the folder SUMS_shards.
Started again, the program computes what is missing there, or what has changed:
a photo, a label, the VAE, the crop. The sums equal those that one process
computes, `fv.sum_attributes`, to the last bit, if it runs on the same kind of
processor with as many threads (`TF_NUM_INTRAOP_THREADS`); else latent
variables differ by some 1e-6.
"""

import hashlib
import pathlib
import sys
import warnings

import cluster
from tqdm import tqdm

import facevae_keras as fv
from facevae_keras.data import ATTRIBUTE_FILE

# 32 batches. A batch that ends elsewhere would change the last bits.
SHARD = 32 * 128


def sum_attributes(client, celeba, target, vae, crop=0.8, shard=SHARD):
    """`fv.sum_attributes` of all photos of a folder, on the workers.

    Args:
        client: `distributed.Client`.
        celeba: folder of photos with `list_attr_celeba.txt`.
        target: the sums' file, `NAME.npz`. The shards' are beside it, in
            `NAME_shards/`, and the VAE, where the workers find it.
        vae: a `FaceVAE`.
        crop: see `fv.read_photo`.
        shard: photos that a worker is given at a time, a multiple of 128.

    Returns:
        `fv.AttributeSums`.
    """
    # Workers may have other working folders.
    celeba = pathlib.Path(celeba).resolve()
    target = pathlib.Path(target).resolve()
    if target.suffix != ".npz":
        raise ValueError(f"{target}: expected the name of a file NAME.npz")
    images = fv.find_images(celeba)
    attributes = fv.read_attributes(celeba / ATTRIBUTE_FILE)
    rows = attributes.index.get_indexer(images.index)
    labelled = (rows >= 0).sum()
    if not labelled:
        raise ValueError(
            f"{celeba}: expected labels of its photos in {ATTRIBUTE_FILE}, "
            "found those of others"
        )
    folder = target.with_name(f"{target.stem}_shards")
    vae_file = _save_vae(vae, folder)
    # No shard of less than a half: it may hold damaged files only.
    starts = [i * shard for i in range(max(1, round(len(images) / shard)))]
    parts = map(slice, starts, [*starts[1:], len(images)])
    jobs = (
        (
            str(vae_file),
            images["path"].iloc[part],
            attributes.iloc[rows[part][rows[part] >= 0]],
            crop,
        )
        for part in parts
    )
    sums = fv.AttributeSums(attributes.columns, vae.latent_dim)
    with tqdm(
        total=len(images), desc="summing", unit="photo", file=sys.stdout
    ) as progress:
        for count, found in cluster.results(client, cluster.sum_shard, jobs):
            sums += found
            progress.update(count)
    sums.save(target)
    if sums.count < labelled:
        warnings.warn(
            f"{labelled - sums.count} of {labelled} photos can't be read and "
            f"were left out: delete {folder} to try them again",
            stacklevel=2,
        )
    return sums


def _save_vae(vae, folder):
    """Saves a VAE under a name that follows from its weights."""
    digest = hashlib.sha256(f"{fv.__version__} {vae.get_config()}".encode())
    for weight in vae.encoder.get_weights():
        digest.update(weight.tobytes())
    file = folder / f"vae_{digest.hexdigest()[:32]}.keras"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        vae.save(file)
    return file


def main(arguments=None):
    parser = cluster.parser_of(__doc__)
    parser.add_argument("celeba", help="folder of photos and labels")
    parser.add_argument("sums", help="file for the sums, NAME.npz")
    parser.add_argument(
        "--vae",
        default="celeba_dfc_vae",
        help="a name or file, see fv.load_vae",
    )
    parser.add_argument("--crop", type=float, default=0.8)
    arguments = parser.parse_args(arguments)
    vae = fv.load_vae(arguments.vae)
    with cluster.connect(arguments.scheduler, arguments.workers) as client:
        sums = sum_attributes(
            client, arguments.celeba, arguments.sums, vae, arguments.crop
        )
    print(f"{sums.count} photos, {len(sums.attributes)} attributes")


if __name__ == "__main__":
    main()
