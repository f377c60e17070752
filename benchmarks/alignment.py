"""How well and how fast faces are found and aligned.

    python benchmarks/alignment.py --wild ../shared/celeba_wild \
        --celeba ../shared/celeba

Photos as they were taken are aligned, and their eyes are looked for once more
in the result: by `find_faces`, and by MTCNN alone, which has no part in placing
them. Aligned photos of CelebA are turned by up to 30 degrees, scaled 0.5 to 4
times, pasted on a larger canvas and aligned back: there the truth is known.
"""

import argparse
import time

import numpy as np
from PIL import Image
from tqdm import tqdm

import facevae_keras as fv
from facevae_keras import align
from facevae_keras.detector import detect_faces


def turned(photo, random):
    """Turns and scales an aligned photo and pastes it on a larger canvas.

    Args:
        photo: RGB image in CelebA's frame.
        random: a NumPy generator.

    Returns:
        The canvas, an RGB image, and where eyes and mouth, `FRAME_POINTS`, are
        in it: array (3, 2), counted from 0.
    """
    scale = np.exp(random.uniform(np.log(0.5), np.log(4)))
    size = [round(scale * side) for side in photo.size]
    scaled = photo.resize(size, Image.Resampling.BICUBIC)
    color = tuple(random.integers(0, 256, 3).tolist())
    canvas = Image.new("RGB", [2 * side for side in size], color)
    corner = [int(random.uniform(0.4, 0.6) * side) for side in size]
    canvas.paste(scaled, (*corner,))
    degrees = random.uniform(-30, 30)
    middle = np.divide(canvas.size, 2)
    canvas = canvas.rotate(
        degrees, Image.Resampling.BICUBIC, center=(*middle,), fillcolor=color
    )
    points = (align.FRAME_POINTS + 0.5) * np.divide(size, photo.size) + corner
    angle = np.deg2rad(degrees)  # to the left, while y counts downwards
    turn = np.array(
        [(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))]
    )
    return canvas, (points - middle) @ turn.T + middle - 0.5


def error_of_turned(path, random):
    """Mean distance, in the aligned photo, of eyes and mouth from their places.

    None where no face is found.
    """
    with Image.open(path) as photo:
        canvas, truth = turned(photo.convert("RGB"), random)
    faces = align.find_faces(canvas)
    if not len(faces):
        return None
    points = faces.iloc[0][align.COLUMNS[5:]].to_numpy(float).reshape(5, 2)
    found = align._apply(align._similarity(points + 0.5), truth + 0.5) - 0.5
    return np.linalg.norm(found - align.FRAME_POINTS, axis=1).mean()


def eye_error(points):
    """The larger distance of the two eyes from CelebA's, in pixels."""
    shifts = np.subtract(points[:2], align.FRAME_POINTS[:2])
    return np.linalg.norm(shifts, axis=1).max()


def eye_errors_of_aligned(face):
    """The errors by `find_faces` and by MTCNN; infinite where there's none."""
    image = Image.fromarray(face)
    faces = align.find_faces(image)
    _, scores, points = detect_faces(image)
    errors = [np.inf, np.inf]
    if len(faces):
        row = faces.iloc[0][align.COLUMNS[5:]].to_numpy(float)
        errors[0] = eye_error(row.reshape(5, 2))
    if len(points):
        errors[1] = eye_error(points[scores.argmax()] - 0.5)
    return errors


def quantiles(errors):
    return "{:.2f} | {:.2f}".format(*np.quantile(errors, [0.5, 0.95]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wild", required=True, help="photos as taken")
    parser.add_argument("--celeba", required=True, help="a CelebA folder")
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--seed", type=int, default=666)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)

    paths = fv.find_images(arguments.wild)["path"]
    paths = random.permutation(paths)[: arguments.photos]
    align.align_face(paths[0])  # reads the weights
    seconds, errors = [], []
    for path in tqdm(paths, "photos as taken"):
        start = time.process_time()
        try:
            face = align.align_face(path)
        except ValueError:
            face = None
        seconds.append(time.process_time() - start)
        if face is not None:
            errors.append(eye_errors_of_aligned(face))
    by_us, by_mtcnn = np.array(errors).T

    paths = fv.find_images(f"{arguments.celeba}/img_align_celeba")["path"]
    paths = random.permutation(paths)[: arguments.photos]
    back = [error_of_turned(path, random) for path in tqdm(paths, "turned")]
    found_back = [error for error in back if error is not None]

    print(f"\nfound: {len(errors)} of {len(seconds)} photos as taken, ", end="")
    print(f"{len(found_back)} of {len(back)} turned ones")
    print("\n| error in pixels | median | 95 % |\n| --- | --- | --- |")
    print(f"| eyes of aligned photos, by find_faces | {quantiles(by_us)} |")
    print(f"| eyes of aligned photos, by MTCNN alone | {quantiles(by_mtcnn)} |")
    print(f"| turned photos, eyes and mouth | {quantiles(found_back)} |")
    median, mean = np.median(seconds), np.mean(seconds)
    print(
        f"\n{1000 * median:.0f} ms a photo (median), {1000 * mean:.0f} (mean)"
    )


if __name__ == "__main__":
    main()
