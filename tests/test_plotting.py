import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image, ImageSequence

import facevae_keras as fv


def test_grids_have_borders_and_leave_missing_faces_black():
    images = np.full((3, 10, 8, 3), 200.4)
    grid = fv.face_grid(images, columns=2, border=3)
    assert grid.shape == (2 * 13 + 3, 2 * 11 + 3, 3)
    assert (grid[3:13, 3:11] == 200).all() and (grid[:3] == 0).all()
    assert (grid[16:, 14:] == 0).all()


def test_grids_clip_and_round():
    images = np.array([-5.0, 300.0, 99.6]).reshape(1, 3, 1, 1, 1)
    grid = fv.face_grid(images * np.ones((1, 1, 1, 1, 3)), border=0)
    assert grid[0, :, 0].tolist() == [0, 255, 100]


def test_rows_of_faces_keep_their_order():
    images = np.arange(6).reshape(2, 3, 1, 1, 1) * np.ones((2, 3, 4, 4, 3))
    grid = fv.face_grid(images, border=0)
    assert grid[::4, ::4, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_pictures_are_written_whole(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), "uint8")
    fv.save_picture(tmp_path / "new" / "picture.png", image)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [
        "picture.png"
    ]
    found = np.asarray(Image.open(tmp_path / "new" / "picture.png"))
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_figures_have_labels(shape):
    images = np.zeros((*shape, 8, 8, 3))
    fv.show_faces(images, columns=3, row_labels=["a", "b"], title="faces")
    axes = plt.gca()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_title() == "faces"
    plt.close()


def test_a_grid_cut_apart_is_what_it_was_made_of():
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 8, 8, 3), "uint8")
    grid = fv.face_grid(images)
    np.testing.assert_array_equal(fv.split_grid(grid, 8), images)
    with pytest.raises(ValueError, match="no grid of images of 9 pixels"):
        fv.split_grid(grid, 9)


def _smooth_frames(count):
    """Frames in which a bright disc grows on a ramp of colors."""
    y, x = np.mgrid[:48, :64]
    ramp = np.stack([4 * x, 5 * y, 255 - 2 * x - 2 * y], axis=-1)
    radius = np.hypot(x - 32, y - 24)
    return np.stack(
        [
            np.where(radius[..., None] < 4 + number, 250.0, ramp)
            for number in range(count)
        ]
    )


@pytest.mark.parametrize("name, most", [("a.gif", 6), ("a.webp", 6)])
def test_animations_keep_frames_time_and_colors(tmp_path, name, most):
    frames = _smooth_frames(9)
    fv.save_animation(tmp_path / "new" / name, frames, seconds=1.3)
    with Image.open(tmp_path / "new" / name) as animation:
        found, durations = [], []
        for frame in ImageSequence.Iterator(animation):
            found.append(np.asarray(frame.convert("RGB"), dtype="float32"))
            durations.append(frame.info["duration"])
        assert animation.info["loop"] == 0
    assert len(found) == 9 and sum(durations) == 1300
    assert np.abs(np.array(found) - frames).mean(axis=(1, 2, 3)).max() < most
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


def test_what_stands_still_in_a_gif_does_not_flicker(tmp_path):
    fv.save_animation(tmp_path / "a.gif", _smooth_frames(9))
    with Image.open(tmp_path / "a.gif") as animation:
        corners = [
            np.asarray(frame.convert("RGB"))[:8]
            for frame in ImageSequence.Iterator(animation)
        ]
    assert (np.array(corners) == corners[0]).all()


def test_animations_refuse_what_they_cannot_write(tmp_path):
    frames = np.zeros((2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"a.png: expected the ending .webp"):
        fv.save_animation(tmp_path / "a.png", frames)
    with pytest.raises(ValueError, match=r"found \(8, 8, 3\)"):
        fv.save_animation(tmp_path / "a.gif", frames[0])
    with pytest.raises(ValueError, match=r"found \(0, 8, 8, 3\)"):
        fv.save_animation(tmp_path / "a.gif", frames[:0])
    assert not list(tmp_path.iterdir())
