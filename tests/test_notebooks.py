"""Every notebook runs, on drawn faces and on photos, with tiny settings."""

import pathlib
import re
import shutil

import nbformat
import papermill
import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"

TINY = {
    "00_meet_the_faces": {"drawn_faces": 150},
    "01_train_a_vae": {
        "drawn_faces": 150,
        "steps": 12,
        "steps_per_epoch": 6,
        "picture_every": 6,
        "batch_size": 16,
        "warp": True,
        "blend": True,
    },
    "02_attribute_vectors": {"drawn_faces": 150},
    "03_add_a_smile": {
        "model": "",
        "evaluator_epochs": 1,
        "redrawn_faces": 60,
    },
    "05_which_features": {
        "drawn_faces": 150,
        "steps": 4,
        "batch_size": 16,
        "evaluator_epochs": 1,
    },
}


def run(name, folder, **parameters):
    """Executes a notebook in `folder`; returns the text of its outputs."""
    result = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb",
        result,
        parameters=parameters,
        cwd=folder,
        progress_bar=False,
    )
    notebook = nbformat.read(result, as_version=4)
    outputs = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.exhaustive
def test_the_course_on_drawn_faces(tmp_path):
    texts = {name: run(name, tmp_path, **tiny) for name, tiny in TINY.items()}
    assert "faces without Smiling" in texts["03_add_a_smile"]
    assert "features - pixels" in texts["05_which_features"]
    made = {path.name for path in (tmp_path / "build").iterdir()}
    assert {
        "vae.keras",
        "losses.csv",
        "attribute_vectors.h5",
        "add_smile.png",
        "03_smile.png",
        "03_smile.webp",
        "05_faces.png",
    } <= made
    pictures = {path.name for path in (tmp_path / "build/pictures").iterdir()}
    assert "reconstructed_000012.png" in pictures


@pytest.mark.exhaustive
def test_the_course_on_photos_with_the_real_facenet(
    tmp_path, celeba, facenet_checkpoint, facenet_golden
):
    data = {"data_dir": str(celeba), "max_images": 400}
    text = run(
        "00_meet_the_faces",
        tmp_path,
        data_dir=str(celeba),
        facenet=str(facenet_checkpoint),
        golden=str(celeba.parent / "golden" / "facenet_20180402-114759.npz"),
    )
    assert "14823 photos, 40 attributes" in text
    assert "largest of all" in text
    run(
        "01_train_a_vae",
        tmp_path,
        **data,
        **{**TINY["01_train_a_vae"], "warp": False, "blend": False},
        facenet=str(facenet_checkpoint),
        standardization="vae",
        perceptual_size=80,
        learning_rate_decay=False,
        color_jitter=True,
    )
    run("02_attribute_vectors", tmp_path, **data)
    text = run("03_add_a_smile", tmp_path, **data, **TINY["03_add_a_smile"])
    assert "faces without Smiling" in text


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "model", ["celeba_dfc_vae", "celeba_residual_vae", "drawn_faces"]
)
def test_the_smile_starts_on_its_own_from_what_ships(tmp_path, model):
    text = run(
        "03_add_a_smile",
        tmp_path,
        model=model,
        evaluator_faces=300,
        evaluator_epochs=1,
        redrawn_faces=60,
        amounts="0,1",
    )
    assert f"VAE: {model}, vectors: {model}" in text
    assert "faces without Smiling" in text


def test_your_own_photo(tmp_path):
    pytest.importorskip("mtcnn", reason="needs the extra [align]")
    photos = tmp_path / "photos"
    photos.mkdir()
    portrait = NOTEBOOKS / "images" / "eileen_collins.jpg"
    shutil.copy(portrait, photos / "2.jpg")
    shutil.copy(pathlib.Path(__file__).parent / "raccoon.jpg", photos / "1.jpg")
    (photos / "0.jpg").write_text("not a photo")
    quick = {"model": "celeba_dfc_vae", "steps": 2}
    text = run("04_your_own_photo", tmp_path, photos=str(portrait), **quick)
    assert "scaled by 0.98, turned by -3.2 degrees" in text
    made = {path.name for path in (tmp_path / "build").iterdir()}
    assert {
        "04_your_own_photo.png",
        "eileen_collins_aligned.png",
        "eileen_collins_smiles.png",
        "eileen_collins_smile.gif",
    } <= made
    text = run("04_your_own_photo", tmp_path, photos=str(photos), **quick)
    assert "0.jpg: " in text and "2.jpg: 1 found" in text
    for outcome in ("aligned", "no face", "unreadable"):
        assert re.search(rf"{outcome} +1\n", text + "\n")
    assert (tmp_path / "build" / "2_smile.gif").exists()


def test_an_unknown_parameter_is_an_error(tmp_path):
    with pytest.raises(
        papermill.PapermillExecutionError, match="no parameter stepz"
    ):
        run("01_train_a_vae", tmp_path, stepz=5)
