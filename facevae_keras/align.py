"""Faces found in any photo, and brought into CelebA's frame or the wiki's."""

import functools
import json
import os
import pathlib
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import threadpoolctl
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from facevae_keras.data import (
    ATTRIBUTE_FILE,
    IDENTITY_FILE,
    find_images,
    read_attributes,
)
from facevae_keras.detector import detect_faces, output_network, standardize
from facevae_keras.files import written_whole

# CelebA's aligned photos: width and height, and where left eye, right eye and
# the middle of the mouth are, counted from 0 at the middle of the first pixel.
FRAME_SIZE = 178, 218
FRAME_POINTS = np.array([(69.745, 111.0), (107.237, 111.0), (88.432, 152.514)])
# The square of this frame (left, top, side) in which MTCNN's last network finds
# them best: of 24 squares, on 150 photos that were turned and aligned back.
FRAME_SQUARE = 40, 75.5, 98

POINTS = "left_eye", "right_eye", "nose", "mouth_left", "mouth_right"
COLUMNS = ["left", "top", "right", "bottom", "score"] + [
    f"{point}_{axis}" for point in POINTS for axis in "xy"
]
# Of 3,916 photos of CelebA as they were taken three had a score below 0.93, the
# lowest 0.81; faces that were not upright reached 0.98.
LEAST_SCORE = 0.8
SURE_SCORE = 0.99
# By how much a face in a turned photo must score higher than one in the photo
# as it is: most photos are upright. (One of them, 187769, scores 0.945 and,
# upside down, 0.955.)
TURNED_MARGIN = 0.02

# Faces are looked for in the photo at the first of these widths (or heights)
# and, if there are none, at the second.
SEARCH_SIDES = 640, 2048
# Photos are scaled down to this width or height at most when they are read.
LARGEST_SIDE = 4096
# Photos with more pixels are refused: a small file can claim any number. JPEG
# files may have more of them, as they are decoded at a part of their size.
LARGEST_PHOTO = 50_000_000
# What Pillow may open: for some other formats it starts other programs.
FORMATS = "JPEG", "PNG", "BMP", "WEBP"

# In the target of `align_folder`: what became of each photo, and the same line
# by line until all are done.
TABLE = "alignment.csv"
JOURNAL = "unfinished_alignment.jsonl"

TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}


def find_faces(photo):
    """Finds the faces in a photo, turned to any side.

    Args:
        photo: path of an image file (JPEG, PNG, BMP or WebP) or an open one,
            `PIL.Image.Image`, or uint8 array (height, width, 3).

    Returns:
        `pandas.DataFrame` with a row per face, the best one first: large and
        near the center of the photo. Columns: the box `left`, `top`, `right`,
        `bottom`; `score`, 0 to 1; and `x` and `y` of five points: `left_eye_x`,
        `left_eye_y`, `right_eye_…`, `nose_…`, `mouth_left_…`, `mouth_right_…`.
        Left and right are those of the upright face as one sees it. All in
        pixels of the photo after it was turned as its EXIF data says, counted
        from 0 at the middle of the first pixel. No face, no row.

    Raises:
        FileNotFoundError: no such file.
        OSError: the photo can't be read, or has too many pixels.
        ImportError: the extra `[align]` is not installed.

    Example:

    >>> fv.find_faces("me.jpg")[["left_eye_x", "left_eye_y"]]
    """
    image, size = read_any_photo(photo)
    boxes, scores, points = _search(image)
    scale = np.divide(size, image.size)
    boxes = boxes * np.tile(scale, 2) - 0.5
    points = (points * scale - 0.5).reshape(-1, 10)
    return pd.DataFrame(
        np.column_stack([boxes, scores, points]), columns=COLUMNS
    )


def align_face(photo, layout="celeba", size=182, margin=44):
    """Cuts the best face out of a photo, upright.

    Args:
        photo: see `find_faces`, which also says which face is the best.
        layout: "celeba": turned, scaled and shifted so that eyes and mouth are
            where they are in CelebA's aligned photos. "wiki": the face's box,
            as the wiki's programs cut it: not turned (but by quarters), not
            aligned.
        size: width and height of the wiki's layout.
        margin: by how many pixels of the photo the wiki's layout makes the box
            wider and higher.

    Returns:
        uint8 array, RGB: (218, 178, 3), or (size, size, 3) with the wiki's
        layout.

    Raises:
        FileNotFoundError: no such file.
        OSError: the photo can't be read, or has too many pixels.
        ValueError: there is no face in the photo; no such layout.
        ImportError: the extra `[align]` is not installed.

    Example:

    >>> fv.align_face("me.jpg").shape
    (218, 178, 3)
    """
    _check_layout(layout, size, margin)
    image, photo_size = read_any_photo(photo)
    boxes, _, points = _search(image)
    if not len(boxes):
        raise ValueError(f"{_name(photo)}: expected a face, found none")
    margin = margin * image.width / photo_size[0]
    return _cut(image, boxes[0], points[0], layout, size, margin)


def align_file(source, target, layout="celeba", size=182, margin=44):
    """Aligns one photo file: the step of `align_folder`, for any scheduler.

    Args:
        source: path of the photo.
        target: path of the aligned photo: JPEG, PNG, BMP or WebP by its
            suffix. Written whole or not at all, and not where there is no face.
        layout, size, margin: see `align_face`.

    Returns:
        A dictionary of what became of it: `outcome` ("aligned", "no face" or
        "unreadable"); `faces`, how many there are; `left`, `top`, `right`,
        `bottom` and `score` of the one that was taken, as in `find_faces`;
        `reason` why it is unreadable. None and "" where they don't apply.

    Raises:
        OSError: the target can't be written.
        ValueError: no such layout.
        ImportError: the extra `[align]` is not installed.
    """
    _check_layout(layout, size, margin)
    row = {"outcome": "aligned", "faces": 0}
    row |= dict.fromkeys(COLUMNS[:5]) | {"reason": ""}
    try:
        image, photo_size = read_any_photo(source)
    except OSError as error:
        return row | {"outcome": "unreadable", "reason": str(error)}
    boxes, scores, points = _search(image)
    if not len(boxes):
        return row | {"outcome": "no face"}
    scale = np.divide(photo_size, image.size)
    face = _cut(image, boxes[0], points[0], layout, size, margin / scale[0])
    _write_photo(target, face)
    box = boxes[0] * np.tile(scale, 2) - 0.5
    row |= dict(zip(COLUMNS, (*box.tolist(), float(scores[0])), strict=False))
    return row | {"faces": len(boxes)}


def align_folder(
    source, target, layout="celeba", size=182, margin=44, engine=None
):
    """Aligns all photos of a data set, on all processor cores.

    The result is a data set of the same form: the photos in the same folders
    under the same names and, where the source has them, `list_attr_celeba.txt`
    and `identity_CelebA.txt` with those that were aligned. Where it was stopped
    it goes on when it is called again, and tries again what was unreadable. To
    have a photo aligned anew, delete the aligned one.

    Args:
        source: folder of photos, in one of the layouts of `find_images`.
        target: folder for the aligned ones: none yet, an empty one, or one
            from an earlier call with the same layout.
        layout, size, margin: see `align_face`.
        engine: what aligns the photos elsewhere than on this machine's cores:
            a function of a function and a list of tuples of arguments for it,
            that gives the results in any order, as they come.
            `recipes/align_dask.py` has one for a cluster.

    Returns:
        `pandas.DataFrame` indexed by file name as `find_images(source)`, of
        what became of each photo: `outcome` ("aligned", "no face" or
        "unreadable"); `faces`, how many there are; `left`, `top`, `right`,
        `bottom` and `score` of the one that was taken, as in `find_faces`;
        `reason` why it is unreadable; `layout`. The same is in `alignment.csv`
        in the target. A warning gives the number of those not aligned.

    Raises:
        FileNotFoundError: no such source, or no image in it.
        ValueError: the source's labels are damaged; the target is in the
            source, holds something else, or was made with another layout.
        OSError: the target can't be written.
        ImportError: the extra `[align]` is not installed.

    Example:

    >>> outcomes = fv.align_folder("photos", "aligned")
    >>> outcomes["outcome"].value_counts()
    """
    _check_layout(layout, size, margin)
    if layout == "wiki":
        name = f"wiki {size} {margin}"
    else:
        name = layout
    source, target = pathlib.Path(source), pathlib.Path(target)
    images = find_images(source)
    attributes = _source_attributes(source, images)
    targets = {
        photo: target / pathlib.Path(path).relative_to(source)
        for photo, path in images["path"].items()
    }
    rows = _earlier_rows(source, target, name)
    missing = [
        photo
        for photo in images.index
        if photo not in rows
        or rows[photo]["outcome"] == "unreadable"
        or (rows[photo]["outcome"] == "aligned" and not targets[photo].exists())
    ]
    jobs = [
        (
            {"filename": photo, "layout": name},
            images.at[photo, "path"],
            str(targets[photo]),
            layout,
            size,
            margin,
        )
        for photo in missing
    ]
    run = engine or _on_all_cores
    target.mkdir(parents=True, exist_ok=True)
    with open(target / JOURNAL, "a", encoding="utf-8") as journal:
        journal.write("\n")  # a line before may be broken off
        journal.flush()
        progress = tqdm(
            run(_align_row, jobs),
            "aligning",
            total=len(images),
            initial=len(images) - len(missing),
            unit="photo",
            file=sys.stdout,
            mininterval=1,
        )
        for row in progress:
            journal.write(json.dumps(row) + "\n")
            journal.flush()
            rows[row.pop("filename")] = row
    outcomes = pd.DataFrame(
        [rows[photo] for photo in images.index],
        index=images.index,
        columns=["outcome", "faces", *COLUMNS[:5], "reason", "layout"],
    ).astype(dict.fromkeys(COLUMNS[:5], float) | {"faces": int})
    _finish(target, outcomes, images, attributes)
    return outcomes


def _on_all_cores(function, jobs):
    # Starting a process takes as long as some hundred photos.
    processes = min(joblib.cpu_count(), 1 + len(jobs) // 200)
    # One photo a batch: what is not in the journal is aligned again.
    parallel = joblib.Parallel(
        processes, batch_size=1, return_as="generator_unordered"
    )
    return parallel(joblib.delayed(function)(*job) for job in jobs)


def _align_row(row, *arguments):
    return row | align_file(*arguments)


def _source_attributes(source, images):
    """The labels of the photos; None where there are none."""
    # Photos that lie in the folder itself may have them in the one above.
    flat = pathlib.Path(images["path"].iloc[0]).parent == source
    for folder in (source, source.parent) if flat else (source,):
        if (folder / ATTRIBUTE_FILE).exists():
            return read_attributes(folder / ATTRIBUTE_FILE)
    return None


def _earlier_rows(source, target, layout):
    """What earlier calls noted of each photo, by file name."""
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{target}: expected a folder outside of {source}")
    rows = {}
    if (target / TABLE).exists():
        table = pd.read_csv(
            target / TABLE,
            index_col="filename",
            dtype={"filename": str, "reason": str},
            encoding_errors="surrogateescape",
        )
        rows = table.fillna({"reason": ""}).to_dict("index")
    if (target / JOURNAL).exists():
        for line in (target / JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # broken off by a kill
                continue
            rows[row.pop("filename")] = row
    elif not rows and target.is_dir() and any(target.iterdir()):
        raise ValueError(
            f"{target}: expected an empty folder, or one from an earlier call "
            f"(with {TABLE}), found other files"
        )
    for row in rows.values():
        if row["layout"] != layout:
            raise ValueError(
                f"{target}: expected photos of the layout {layout!r}, found "
                f"those of {row['layout']!r} from an earlier call: take "
                "another folder"
            )
    return rows


def _finish(target, outcomes, images, attributes):
    """Writes labels and table, and tidies up."""
    aligned = outcomes.index[outcomes["outcome"] == "aligned"]
    identities = images.loc[aligned, "identity"].dropna()
    in_folders = aligned.str.contains("/").any()
    if attributes is not None:
        attributes = attributes.loc[attributes.index.isin(aligned)]
        with written_whole(target / ATTRIBUTE_FILE) as path:
            lines = [str(len(attributes)), " ".join(attributes.columns)]
            lines += [
                f"{name} " + " ".join(f"{value:2d}" for value in values)
                for name, values in zip(
                    attributes.index, attributes.to_numpy(), strict=True
                )
            ]
            path.write_text("\n".join(lines) + "\n")
    if len(identities) and not in_folders:
        with written_whole(target / IDENTITY_FILE) as path:
            path.write_text(
                "".join(
                    f"{name} {person}\n" for name, person in identities.items()
                )
            )
    with written_whole(target / TABLE) as path:
        outcomes.to_csv(path, errors="surrogateescape")
    (target / JOURNAL).unlink()
    for unfinished in target.rglob("*.part"):
        unfinished.unlink(missing_ok=True)
    counts = outcomes["outcome"].value_counts()
    lost = counts.drop("aligned", errors="ignore")
    if len(lost):
        warnings.warn(
            f"{lost.sum()} of {len(outcomes)} photos were not aligned ("
            + ", ".join(f"{n} {outcome}" for outcome, n in lost.items())
            + f"): see {target / TABLE}",
            stacklevel=3,
        )


def _write_photo(path, pixels):
    """Writes a photo whole or not at all.

    Until it is whole its name has no image's suffix, so that nobody takes it
    for a photo of the data set.
    """
    path = pathlib.Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in FORMATS:
        raise ValueError(f"{path}: expected a suffix of {', '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(pixels).save(unfinished, image_format, quality=95)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_layout(layout, size, margin):
    if layout not in ("celeba", "wiki"):
        raise ValueError(f'layout is "celeba" or "wiki", found {layout!r}')
    if size < 1 or margin < 0:
        raise ValueError(
            "expected a size of at least 1 and a margin of at least 0, found "
            f"{size} and {margin}"
        )


def _name(photo):
    if isinstance(photo, np.ndarray | Image.Image):
        return "the photo"
    return getattr(photo, "name", photo)


def read_any_photo(photo):
    """Reads a photo of any size and mode.

    Args:
        photo: see `find_faces`.

    Returns:
        RGB image, at most `LARGEST_SIDE` wide and high, and width and height of
        the photo itself; both turned as its EXIF data says.
    """
    try:
        if isinstance(photo, np.ndarray):
            photo = Image.fromarray(photo)
        if isinstance(photo, Image.Image):
            return _load(photo, photo.size)
        with Image.open(photo, formats=FORMATS) as image:
            size = image.size
            image.draft("RGB", (LARGEST_SIDE // 2, LARGEST_SIDE // 2))
            return _load(image, size)
    except FileNotFoundError:
        raise
    except Exception as error:
        # Damaged files make Pillow fail in too many ways to list.
        raise OSError(f"{_name(photo)}: no readable photo ({error})") from error


def _load(image, size):
    if image.width * image.height > LARGEST_PHOTO:
        raise ValueError(
            f"expected at most {LARGEST_PHOTO:,} pixels, found "
            f"{size[0]:,} x {size[1]:,}"
        )
    if image.getexif().get(ExifTags.Base.Orientation, 1) > 4:
        size = size[::-1]
    if image.mode in ("1", "P", "PA"):  # these can't be scaled well
        image = image.convert("RGBA")
    if max(image.size) > LARGEST_SIDE:
        image = ImageOps.contain(image, (LARGEST_SIDE, LARGEST_SIDE))
    return _to_rgb(ImageOps.exif_transpose(image)), size


def _to_rgb(image):
    if image.mode.startswith("I"):  # gray, 16 bits
        pixels = np.clip(np.asarray(image), 0, 65535) // 257
        image = Image.fromarray(pixels.astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _search(image):
    """Finds the faces of an image, turned to any side.

    Returns:
        Boxes (n, 4), scores (n,) and points (n, 5, 2) as from `detect_faces`,
        the best face first.
    """
    # On a busy machine threads take several times as long for such products.
    with _thread_pools().limit(limits=1, user_api="blas"):
        boxes, scores, points = _search_all_sides(image)
    order = np.argsort(-_prominence(boxes, image.size), kind="stable")
    return boxes[order], scores[order], points[order]


# Looking for them takes milliseconds.
_thread_pools = functools.cache(threadpoolctl.ThreadpoolController)


def _search_all_sides(image):
    best = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
    for longest in SEARCH_SIDES:
        small = image.copy()
        small.thumbnail((longest, longest))
        for turns in (0, 1, 3, 2):
            found = _search_upright(image, small, turns)
            margin = TURNED_MARGIN if turns and len(best[1]) else 0
            if found[1].max(initial=0) > best[1].max(initial=0) + margin:
                best = found
            if best[1].max(initial=0) > SURE_SCORE:
                break
        if len(best[1]) or small.size == image.size:
            break
    return best


def _search_upright(image, small, turns):
    """The faces that are upright after so many quarter turns to the left.

    Args:
        image: where the faces' points are to be found.
        small: the same image, scaled down, where the faces are looked for.
        turns: 0 to 3.
    """
    boxes, _, points = detect_faces(
        small.transpose(TURNS[turns]) if turns else small
    )
    scale = np.divide(image.size, small.size)
    corners = _turn_back(boxes.reshape(-1, 2, 2), turns, small.size) * scale
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    points = _turn_back(points, turns, small.size) * scale
    points, scores = _refine_points(image, points)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        # Two finds of one face now have nearly the same points.
        shifts = points[kept].mean(axis=1) - points[i].mean(axis=0)
        shortest = np.linalg.norm(shifts, axis=1).min(initial=np.inf)
        eyes_apart = np.linalg.norm(points[i, 1] - points[i, 0])
        if scores[i] > LEAST_SCORE and shortest > eyes_apart:
            kept.append(i)
    return boxes[kept], scores[kept], points[kept]


def _turn_back(points, turns, size):
    """Points of an image that was turned, as points of the image itself."""
    width, height = size
    x, y = points[..., 0], points[..., 1]
    x, y = [(x, y), (width - y, x), (width - x, height - y), (y, height - x)][
        turns
    ]
    return np.stack([x, y], axis=-1)


def _prominence(boxes, size):
    """What facenet takes the highest of: a large box near the center."""
    sides = boxes[:, 2:] - boxes[:, :2]
    offsets = (boxes[:, 2:] + boxes[:, :2] - size) / 2
    return np.prod(sides, axis=1) - 2 * np.sum(offsets**2, axis=1)


def _refine_points(image, points):
    """Finds the points of each face once more, where they are found best.

    Each face is turned upright and scaled, and the last network sees it and
    its mirror image. That takes a third off the error of the points, and what
    is no upright face gets a low score.

    Returns:
        Points (n, 5, 2), of the image as before, and scores (n,).
    """
    left, top, side = FRAME_SQUARE
    scale = 48 / side
    to_square = np.array(
        [(scale, 0, -scale * left), (0, scale, -scale * top), (0, 0, 1)]
    )
    to_patches = [to_square @ _similarity(face) for face in points]
    patches = np.zeros((len(points), 48, 48, 3), "uint8")
    for patch, to_patch in zip(patches, to_patches, strict=True):
        patch[:] = warp(image, to_patch, (48, 48))
    scores, _, found = output_network(standardize(patches))
    mirrored_scores, _, mirrored = output_network(
        standardize(patches[:, :, ::-1])
    )
    mirrored = mirrored[:, [1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
    found = 48 * (found + mirrored) / 2
    for face, to_patch in zip(found, to_patches, strict=True):
        face[:] = _apply(np.linalg.inv(to_patch), face)
    return found, (scores + mirrored_scores) / 2


def _cut(image, box, points, layout, size, margin):
    """See `align_face`; the margin is in pixels of this image."""
    if layout == "celeba":
        return warp(image, _similarity(points), FRAME_SIZE)
    start = np.maximum(box[:2] - margin / 2, 0).astype(int)
    end = np.minimum(box[2:] + margin / 2, image.size).astype(int)
    end = np.maximum(end, start + 1)
    face = image.crop((*start.tolist(), *end.tolist()))
    face = face.resize((size, size), Image.Resampling.BILINEAR)
    across, down = points[1] - points[0]
    turns = round(np.arctan2(down, across) / (np.pi / 2)) % 4
    return np.asarray(face.transpose(TURNS[turns]) if turns else face)


def _similarity(points):
    """The turn, scale and shift that bring a face into CelebA's frame.

    Args:
        points: array (5, 2), as from `detect_faces`.

    Returns:
        Matrix (3, 3) from pixels of the image to those of the frame, both
        counted from the upper left corner; least squares.
    """
    # Eyes and middle of the mouth. The nose moves as the head turns.
    found = np.vstack([points[:2], points[3:].mean(axis=0)]) @ (1, 1j)
    wanted = (FRAME_POINTS + 0.5) @ (1, 1j)
    centered = found - found.mean()
    turn = np.vdot(centered, wanted) / np.vdot(centered, centered)
    shift = wanted.mean() - turn * found.mean()
    return np.array(
        [
            (turn.real, -turn.imag, shift.real),
            (turn.imag, turn.real, shift.imag),
            (0, 0, 1),
        ]
    )


def _apply(matrix, points):
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def warp(image, matrix, size):
    """Draws a part of an image anew: turned, scaled and shifted.

    Args:
        image: RGB image. Beyond its edges they are repeated.
        matrix: array (3, 3), from its pixels to those of the result, both
            counted from the upper left corner.
        size: width and height of the result.

    Returns:
        uint8 array (height, width, 3).
    """
    to_image = np.linalg.inv(matrix)
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)]) * size
    corners = _apply(to_image, corners)
    # So many pixels of the image make one, and are averaged first.
    scale = max(1, np.sqrt(np.linalg.det(to_image)))
    border = 3 * scale  # the cubic kernel needs 2
    start = np.floor(corners.min(axis=0) - border)
    end = np.ceil(corners.max(axis=0) + border)
    first = np.clip(start, 0, np.subtract(image.size, 1))
    last = np.clip(end, first + 1, image.size)
    part = image.crop([int(edge) for edge in (*first, *last)])
    if scale > 1:
        smaller = [max(1, round(side / scale)) for side in part.size]
        part = part.resize(smaller, Image.Resampling.BICUBIC)
    before = np.ceil(np.maximum(first - start, 0) / scale).astype(int)
    after = np.ceil(np.maximum(end - last, 0) / scale).astype(int)
    edges = (before[1], after[1]), (before[0], after[0]), (0, 0)
    padded = Image.fromarray(np.pad(np.asarray(part), edges, mode="edge"))
    factor = part.size / (last - first)
    to_padded = np.diag([*factor, 1])
    to_padded[:2, 2] = before - first * factor
    drawn = padded.transform(
        size,
        Image.Transform.AFFINE,
        (to_padded @ to_image)[:2].ravel(),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(drawn)
