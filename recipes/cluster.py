"""What the programs for a cluster share: Dask's workers, and jobs for them.

Workers on this machine need nothing. For others, start on one machine

    dask scheduler

and on each of them, with this package installed,

    dask worker tcp://SCHEDULER:8786 --nthreads 1 --nworkers 4

All have to see photos and results under the same paths.
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import os
import pathlib

import distributed
import keras

import facevae_keras as fv

# Of a job, after an error; the network may be what failed. A job whose worker
# is lost is given to another one, and doesn't count among these.
RETRIES = 2
# Short jobs that are one for Dask, which needs a millisecond for each.
SHARD = 128


def parser_of(description):
    """Arguments that say where the workers are."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scheduler", help="address of a cluster that runs")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes on this machine, where there is no --scheduler",
    )
    return parser


@contextlib.contextmanager
def connect(scheduler=None, workers=1):
    """Worker processes: those of a cluster, or new ones on this machine.

    Args:
        scheduler: address of the cluster's scheduler, or None.
        workers: number of new ones.

    Yields:
        `distributed.Client`.
    """
    if scheduler:
        client = distributed.Client(scheduler)
    else:
        client = distributed.Client(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            # Dask would stop a worker that needs more than its share of the
            # machine's memory, and wait for it forever.
            memory_limit=0,
        )
    with client:
        if scheduler:
            client.upload_file(__file__)
        yield client


def results(client, function, jobs):
    """Calls a function on the workers, once for each job.

    Args:
        client: `distributed.Client`.
        function: has no side effect but files that a second call leaves as
            they are: it is called again when its worker is lost.
        jobs: iterable of tuples, the function's arguments. The scheduler gets
            a few at a time, so that there may be any number.

    Yields:
        What it returns, as it comes, in any order.

    Raises:
        Exception: what the function raised, at each of its tries.
        distributed.KilledWorker: a job that several workers were lost with.
    """
    jobs = iter(jobs)
    running = distributed.as_completed(loop=client.loop)
    while True:
        # A second one for each, so that no worker waits for the next. More
        # workers may come, and for a while there may be none.
        wanted = max(1, 2 * sum(client.nthreads().values()))
        for job in itertools.islice(jobs, max(0, wanted - running.count())):
            future = client.submit(function, *job, retries=RETRIES, pure=False)
            running.add(future)
        if running.is_empty():
            return
        yield next(running).result()


def results_by_shards(client, function, jobs):
    """`results` for short jobs, a list of them: `SHARD` at a time."""
    shards = (
        (function, jobs[start : start + SHARD])
        for start in range(0, len(jobs), SHARD)
    )
    for found in results(client, call_for_each, shards):
        yield from found


def call_for_each(function, jobs):
    return [function(*job) for job in jobs]


@functools.cache
def load_vae(file):
    """`fv.load_vae`, once in each worker."""
    keras.config.disable_interactive_logging()  # so many progress bars
    return fv.load_vae(file)


def sum_shard(vae_file, paths, attributes, crop):
    """What a worker does: number of photos of a shard, and their sums."""
    digest = hashlib.sha256(f"{vae_file} {crop} ".encode())
    digest.update(attributes.to_csv().encode())
    for name, path in paths.items():
        status = os.stat(path)
        stamp = f"{name} {path} {status.st_size} {status.st_mtime_ns}\n"
        digest.update(stamp.encode(errors="surrogateescape"))
    file = pathlib.Path(vae_file).with_name(f"{digest.hexdigest()[:32]}.npz")
    if file.exists():
        return len(paths), fv.AttributeSums.load(file)
    sums = fv.sum_attributes(load_vae(vae_file), paths, attributes, crop)
    sums.save(file)
    return len(paths), sums
