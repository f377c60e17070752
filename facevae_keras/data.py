"""Photo folders and labels: what is in a data set, and its split."""

import codecs
import pathlib
import re

import numpy as np
import pandas as pd

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
ATTRIBUTE_FILE = "list_attr_celeba.txt"
IDENTITY_FILE = "identity_CelebA.txt"


def find_images(folder):
    """Finds the photos of a data set.

    Three layouts are understood:

    - *flat*: the photos lie in the folder itself;
    - *CelebA*: the folder holds `list_attr_celeba.txt` or
      `identity_CelebA.txt`, and the photos lie in folders beside it, such as
      `img_align_celeba/`, with file names that are unique among them;
    - *identities* (CASIA-WebFace): one folder per person.

    Args:
        folder: path of the folder.

    Returns:
        `pandas.DataFrame` indexed by file name (`000001.jpg`; with identity
        folders `PERSON/001.jpg`), sorted, with two columns of strings: `path`
        and `identity`. Identities come from the folder names, or from
        `identity_CelebA.txt` in the folder or in the one that it lies in; they
        are missing (None) where nobody knows them.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: two photos of a CelebA folder have the same name.

    Example:

    >>> fv.find_images("celeba").loc["000001.jpg", "identity"]
    '2880'
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = _image_files(folder)
    names = [file.name for file in files]
    identities = None
    if not files:
        files = [
            file
            for inner in sorted(folder.iterdir())
            if inner.is_dir()
            for file in _image_files(inner)
        ]
        names = [file.name for file in files]
        if not any(
            (folder / name).exists() for name in (ATTRIBUTE_FILE, IDENTITY_FILE)
        ):
            identities = [file.parent.name for file in files]
            names = [f"{file.parent.name}/{file.name}" for file in files]
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}) in it or "
            "in its folders, found none"
        )
    images = pd.DataFrame(
        {"path": [str(file) for file in files], "identity": identities},
        index=pd.Index(names, name="filename"),
        dtype=object,
    ).sort_index()
    if not images.index.is_unique:
        twice = images.index[images.index.duplicated()][0]
        raise ValueError(
            f"{folder}: file names must be unique, found {twice} twice "
            f"({', '.join(images.loc[twice, 'path'])})"
        )
    if identities is None:
        known = _read_identities(folder)
        images["identity"] = [known.get(name) for name in images.index]
    return images


def _image_files(folder):
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
        and file.is_file()
        and not file.name.startswith("unfinished_")  # of a killed process
    ]


def _read_identities(folder):
    for place in (folder, folder.parent):
        if (place / IDENTITY_FILE).exists():
            return _read_identity_file(place / IDENTITY_FILE)
    return {}


def _read_identity_file(path):
    identities = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            name, identity = line.split()
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected a file name and a person, "
                f"found {line.strip()[:80]!r}"
            ) from None
        if identities.setdefault(name, identity) != identity:
            raise ValueError(f"{path}, line {number}: {name} a second time")
    return identities


def _read_lines(path):
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error})") from error


def split_images(images, validation_fraction=0.1, seed=666):
    """Splits photos into training and validation, no person in both.

    Args:
        images: the DataFrame from `find_images`. Photos of the same identity
            stay together; a photo without identity counts as a person.
        validation_fraction: least share of the photos to hold out, between 0
            and 1.
        seed: the same seed gives the same split.

    Returns:
        Two DataFrames like `images`: training and validation.

    Raises:
        ValueError: not enough persons to have some in both.

    Example:

    >>> training, validation = fv.split_images(fv.find_images("celeba"))
    """
    persons = images["identity"].where(
        images["identity"].notna(), "file " + images.index.to_series()
    )
    counts = persons.value_counts(sort=False)
    order = np.random.default_rng(seed).permutation(len(counts))
    held_out = counts.iloc[order].cumsum().shift(fill_value=0)
    held_out = held_out.index[held_out < validation_fraction * len(images)]
    in_validation = persons.isin(held_out)
    if in_validation.all() or not in_validation.any():
        raise ValueError(
            f"cannot hold out {validation_fraction:.0%} of {len(images)} "
            f"photos of {len(counts)} persons: training and validation both "
            "need at least one person"
        )
    return images[~in_validation], images[in_validation]


def read_attributes(path):
    """Reads CelebA's attribute file.

    Args:
        path: `list_attr_celeba.txt`: the number of photos, the names of the
            attributes, then per photo its file name and -1 or 1 for each.

    Returns:
        `pandas.DataFrame` indexed by file name, one int8 column of -1 / 1 per
        attribute.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not as described; names line, expected, found.

    Example:

    >>> fv.read_attributes("celeba/list_attr_celeba.txt")["Smiling"].mean()
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected CelebA's attribute file, found none"
        )
    lines = _read_lines(path)
    if len(lines) < 3 or not re.fullmatch(r"\s*\d{1,9}\s*", lines[0]):
        raise ValueError(
            f"{path}: expected the number of photos in line 1, the names of "
            "the attributes in line 2 and a photo in each line from 3 on"
        )
    attributes = lines[1].split()
    if len(set(attributes)) < len(attributes):
        raise ValueError(f"{path}, line 2: an attribute is named twice")
    rows, names = [], set()
    for number, line in enumerate(lines[2:], start=3):
        if not line.strip():
            continue
        row = line.split()
        if row[0] in names:
            raise ValueError(f"{path}, line {number}: {row[0]} a second time")
        if len(row) != len(attributes) + 1:
            raise ValueError(
                f"{path}, line {number}: expected a file name and "
                f"{len(attributes)} values, found {len(row) - 1} values"
            )
        if not set(row[1:]) <= {"-1", "1"}:
            raise ValueError(
                f"{path}, line {number}: expected values of -1 or 1, found "
                + " ".join(sorted(set(row[1:]) - {"-1", "1"}))
            )
        rows.append(row)
        names.add(row[0])
    if len(rows) != int(lines[0]):
        raise ValueError(
            f"{path}: line 1 says {lines[0].strip()} photos, found {len(rows)}"
        )
    return pd.DataFrame(
        np.array([row[1:] for row in rows], dtype="int8"),
        index=pd.Index([row[0] for row in rows], name="filename"),
        columns=attributes,
    )
