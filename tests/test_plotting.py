import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

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
