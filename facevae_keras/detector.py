"""The networks that find faces: MTCNN (Zhang et al. 2016), in plain NumPy.

Their weights are those of the `mtcnn` package. That package computes with
TensorFlow; here the networks run beside every Keras backend. They are small,
and every photo has another size: compiling them would take longer than running
them.
"""

import functools
import hashlib
import importlib.metadata
import io

import joblib
import numpy as np
from PIL import Image

# The weights of mtcnn 1.0.0 and their SHA-256. The files are pickled: whatever
# else has these names is not opened.
WEIGHT_FILES = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}

SMALLEST_FACE = 20  # pixels
SCALE_STEP = 0.709  # half the pixels of the size before
MOST_BOXES = 1000  # of a network, the best ones: bounds time and memory


def detect_faces(image):
    """Finds what may be upright faces.

    Args:
        image: `PIL.Image.Image` of mode RGB.

    Returns:
        Three arrays, in pixels from the image's upper left corner: boxes (n,
        4), left, top, right and bottom; scores (n,), 0.5 to 1; points (n, 5,
        2), x and y of left eye, right eye, nose, left and right end of the
        mouth, left and right as seen in the image.
    """
    boxes = _propose_boxes(image)
    scores, offsets = _refine_network(cut_patches(image, boxes, 24))
    boxes, scores = _move(boxes, offsets)[scores > 0.7], scores[scores > 0.7]
    boxes = _squares(boxes[_distinct(boxes, scores, 0.7)])
    scores, offsets, points = output_network(cut_patches(image, boxes, 48))
    points = boxes[:, None, :2] + points * _sides(boxes)[:, None]
    boxes = _move(boxes, offsets)
    found = np.flatnonzero(scores > 0.5)
    found = found[_distinct(boxes[found], scores[found], 0.7, inside=True)]
    return boxes[found], scores[found], points[found]


def _propose_boxes(image):
    """Squares that may hold a face, looked for at all sizes."""
    found = [np.zeros((0, 5))]
    scale = 12 / SMALLEST_FACE  # the network sees 12x12 pixels at a time
    while min(image.size) * scale >= 12:
        size = [round(side * scale) for side in image.size]
        scores, offsets = _proposal_network(
            standardize(image.resize(size, Image.Resampling.BOX))
        )
        y, x = np.nonzero(scores > 0.6)
        corners = 2 * np.stack([x, y, x, y], axis=1) + (0, 0, 12, 12)
        boxes = _move(corners, offsets[y, x])
        boxes = boxes * np.tile(np.divide(image.size, size), 2)
        kept = _distinct(boxes, scores[y, x], 0.5)
        found.append(np.column_stack([boxes, scores[y, x]])[kept])
        scale *= SCALE_STEP
    found = np.concatenate(found)
    found = found[_distinct(found[:, :4], found[:, 4], 0.7)]
    return _squares(found[:, :4])


def _sides(boxes):
    return boxes[:, 2:] - boxes[:, :2]


def _move(boxes, offsets):
    """Moves edges by parts of the box's width and height."""
    return boxes + offsets * np.tile(_sides(boxes), 2)


def _squares(boxes):
    """The squares around the same centers; none for an empty box."""
    sides = _sides(boxes).max(axis=1, keepdims=True, initial=0)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    squares = np.hstack([centers - sides / 2, centers + sides / 2])
    return squares[sides[:, 0] > 1]


def _distinct(boxes, scores, most_overlap, inside=False):
    """Non-maximum suppression: of boxes that overlap, the best one.

    Overlap is intersection over union, or over the smaller of the two boxes
    (`inside`). The result are indices, best first.
    """
    order = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    boxes = boxes[order]
    area = np.prod(_sides(boxes), axis=1)
    upper_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    lower_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(lower_right - upper_left, 0), axis=2)
    if inside:
        whole = np.minimum(area[:, None], area)
    else:
        whole = area[:, None] + area - shared
    overlaps = shared > most_overlap * whole
    kept = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if kept[i]:
            kept[i + 1 :] &= ~overlaps[i, i + 1 :]
    return order[kept]


def cut_patches(image, boxes, size):
    """Cuts squares out of an image, for a network.

    Args:
        image: `PIL.Image.Image` of mode RGB. Beyond its edges they are
            repeated.
        boxes: array (n, 4).
        size: width and height of the result, in pixels.

    Returns:
        float32 array (3, n, size, size).
    """
    beyond = (boxes[:, 2:] - image.size).max(initial=-boxes.min(initial=0))
    beyond = int(np.ceil(beyond))
    if beyond:
        edges = (beyond, beyond), (beyond, beyond), (0, 0)
        image = Image.fromarray(np.pad(np.asarray(image), edges, mode="edge"))
    patches = np.empty((len(boxes), size, size, 3), "uint8")
    for patch, box in zip(patches, boxes + beyond, strict=True):
        patch[:] = image.resize((size, size), Image.Resampling.BICUBIC, box)
    return standardize(patches)


def standardize(images):
    """RGB images, one or several, as the networks take them.

    Args:
        images: uint8 array (n, height, width, 3), or one image without n.

    Returns:
        float32 array (3, n, height, width).
    """
    images = np.asarray(images, "float32")
    images = images.reshape(-1, *images.shape[-3:])
    return ((images - 127.5) / 128).transpose(3, 0, 1, 2)


@functools.cache
def _weights(network):
    """The package's list of weights, in the order of the layers."""
    try:
        package = importlib.metadata.distribution("mtcnn")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            "finding faces needs the package mtcnn: "
            "pip install 'facevae-keras[align]'"
        ) from error
    path = package.locate_file(f"mtcnn/assets/weights/{network}.lz4")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHT_FILES[network]:
        raise ImportError(
            f"{path}: expected the weights of mtcnn 1.0.0, found another file: "
            "pip install --force-reinstall 'facevae-keras[align]'"
        )
    return joblib.load(io.BytesIO(content))


def _proposal_network(image):
    """Scores (height, width) and offsets (height, width, 4)."""
    layers = iter(_weights("pnet"))
    x = _pool(_convolution(image, layers), 2)
    x = _convolution(_convolution(x, layers), layers)
    x = x[:, 0].transpose(1, 2, 0)
    offsets = _dense(x, layers)
    return _probability(_dense(x, layers)), offsets


def _refine_network(patches):
    """Scores (n,) and offsets (n, 4)."""
    layers = iter(_weights("rnet"))
    x = _pool(_convolution(patches, layers), 3)
    x = _pool(_convolution(x, layers), 3)
    x = _flatten(_convolution(x, layers))
    x = _prelu(_dense(x, layers), next(layers))
    offsets = _dense(x, layers)
    return _probability(_dense(x, layers)), offsets


def output_network(patches):
    """Looks at squares around faces.

    Args:
        patches: array (3, n, 48, 48), from `cut_patches`.

    Returns:
        Three arrays: scores (n,); offsets (n, 4) of the faces' boxes and
        points (n, 5, 2), in parts of the square.
    """
    layers = iter(_weights("onet"))
    x = _pool(_convolution(patches, layers), 3)
    x = _pool(_convolution(x, layers), 3)
    x = _pool(_convolution(x, layers), 2)
    x = _flatten(_convolution(x, layers))
    x = _prelu(_dense(x, layers), next(layers))
    offsets = _dense(x, layers)
    points = _dense(x, layers).reshape(-1, 2, 5).transpose(0, 2, 1)
    return _probability(_dense(x, layers)), offsets, points


def _convolution(x, layers):
    """A convolution without padding, with its bias and its PReLU."""
    kernel, bias, slope = next(layers), next(layers), next(layers)
    side, _, inputs, outputs = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
    shape = outputs, *windows.shape[1:4]
    windows = windows.transpose(0, 4, 5, 1, 2, 3)
    windows = windows.reshape(inputs * side * side, np.prod(shape[1:]))
    kernel = kernel.transpose(3, 2, 0, 1).reshape(outputs, -1)
    x = kernel @ windows
    x += bias[:, None]
    return _prelu(x, slope.reshape(-1, 1)).reshape(shape)


def _pool(x, side):
    """The maximum of each side x side pixels, two pixels apart.

    Where the last ones don't fill a window, there is a smaller window, too.
    """
    missing = [(0, 0), (0, 0)] + [
        (0, (side - length) % 2) for length in x.shape[2:]
    ]
    x = np.pad(x, missing, constant_values=-np.inf)
    for axis in (2, 3):
        x = x.swapaxes(axis, -1)
        count = (x.shape[-1] - side) // 2 + 1
        parts = (x[..., i : i + 2 * count - 1 : 2] for i in range(side))
        x = functools.reduce(np.maximum, parts).swapaxes(axis, -1)
    return x


def _flatten(x):
    """The weights count in columns, as Caffe's and MATLAB's images do."""
    channels, count, height, width = x.shape
    x = x.transpose(1, 3, 2, 0)
    return x.reshape(count, width * height * channels)


def _dense(x, layers):
    kernel, bias = next(layers), next(layers)
    return x @ kernel.reshape(-1, len(bias)) + bias


def _prelu(x, slope):
    """Overwrites x: new arrays would take longer than the arithmetic."""
    positive = np.maximum(x, 0)
    np.minimum(x, 0, out=x)
    x *= slope
    x += positive
    return x


def _probability(x):
    """Softmax of two classes, of which the second is a face."""
    return (1 + np.tanh((x[..., 1] - x[..., 0]) / 2)) / 2
