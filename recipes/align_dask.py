"""Aligns the photos of a data set on a cluster, as `fv.align_folder` does.

    python recipes/align_dask.py PHOTOS TARGET
    python recipes/align_dask.py PHOTOS TARGET --scheduler tcp://10.0.0.1:8786

Started again, it goes on where it was stopped. `recipes/cluster.py` says how
to start a cluster; without one, this machine's cores do the work.
"""

import functools
import pathlib

import cluster

import facevae_keras as fv


def main(arguments=None):
    parser = cluster.parser_of(__doc__)
    parser.add_argument("source", help="folder of photos")
    parser.add_argument("target", help="folder for the aligned ones")
    parser.add_argument("--layout", default="celeba", help="or wiki")
    arguments = parser.parse_args(arguments)
    with cluster.connect(arguments.scheduler, arguments.workers) as client:
        engine = functools.partial(cluster.results_by_shards, client)
        outcomes = fv.align_folder(
            pathlib.Path(arguments.source).resolve(),
            pathlib.Path(arguments.target).resolve(),
            arguments.layout,
            engine=engine,
        )
    print(outcomes["outcome"].value_counts().to_string())


if __name__ == "__main__":
    main()
