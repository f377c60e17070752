import base64
import datetime
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

import facevae_keras as fv

HERE = pathlib.Path(__file__).parent
PORTRAIT = HERE.parent / "notebooks" / "images" / "eileen_collins.jpg"
# By Judy Weggelaar, public domain, as in scipy.datasets.
ANIMAL = HERE / "raccoon.jpg"


@pytest.fixture(scope="module")
def shipped():
    latents, _, vectors = fv.load_attributes("celeba_dfc_vae")
    return fv.load_vae("celeba_dfc_vae"), vectors, latents[:20]


@pytest.fixture
def editor(shipped):
    return fv.FaceEditor(*shipped)


@pytest.fixture
def needs_detector():
    pytest.importorskip("mtcnn", reason="needs the extra [align]")


def shown(editor, name):
    file = io.BytesIO(editor._pictures[name].value)
    return np.asarray(Image.open(file), dtype="float32")


def test_a_slider_moves_the_face_along_its_vector(editor, shipped):
    vae, vectors, latents = shipped
    before = shown(editor, "edited")
    editor.sliders["Smiling"].value = 1.5
    editor.sliders["Young"].value = -1.0
    wanted = latents.iloc[0] + 1.5 * vectors.loc["Smiling"]
    wanted -= vectors.loc["Young"]
    np.testing.assert_allclose(editor.latents, wanted, atol=1e-5)
    face = vae.decode(editor.latents[None])[0]
    np.testing.assert_allclose(editor.image, np.clip(face, 0, 255), atol=0.51)
    assert np.abs(shown(editor, "edited") - before).mean() > 2
    # The live picture is this face, enlarged.
    shrunk = Image.fromarray(shown(editor, "edited").astype("uint8"))
    shrunk = np.asarray(shrunk.resize((64, 64)), dtype="float32")
    assert np.abs(shrunk - editor.image).mean() < 4


def test_a_locked_attribute_is_kept(editor, shipped):
    _, vectors, latents = shipped
    editor._locks["Male"].value = True
    assert editor.sliders["Male"].disabled
    editor.sliders["Mouth_Slightly_Open"].value = 2.0
    male = vectors.loc["Male"].to_numpy()
    move = editor.latents - latents.iloc[0].to_numpy()
    assert abs(move @ male) < 1e-4 * np.linalg.norm(move) * np.linalg.norm(male)
    editor._locks["Male"].value = False
    move = editor.latents - latents.iloc[0].to_numpy()
    np.testing.assert_allclose(
        move, 2 * vectors.loc["Mouth_Slightly_Open"], atol=1e-5
    )


def test_any_attribute_can_have_a_slider(editor, shipped):
    assert "Bald" not in editor.sliders
    editor._more.value = "Bald"
    editor.sliders["Bald"].value = 1.0
    move = editor.latents - shipped[2].iloc[0].to_numpy()
    np.testing.assert_allclose(move, shipped[1].loc["Bald"], atol=1e-5)
    assert "Bald" not in [name for _, name in editor._more.options]
    assert len(editor._more.options) == 1 + 40 - 9


def test_reset_draws_once(editor, shipped, monkeypatch):
    for slider in editor.sliders.values():
        slider.value = 0.5
    editor._locks["Young"].value = True
    calls = []
    monkeypatch.setattr(
        editor,
        "_decode",
        lambda z: calls.append(z) or np.zeros((8, 8, 3), "u1"),
    )
    editor._buttons["reset"].click()
    assert len(calls) == 1 and not editor._locks["Young"].value
    np.testing.assert_array_equal(editor.latents, shipped[2].iloc[0])


def test_random_faces_are_known_ones_or_samples(editor, shipped):
    vae, vectors, latents = shipped
    editor._buttons["random"].click()
    assert (latents == editor.latents).all(axis=1).any()
    without = fv.FaceEditor(vae, vectors)
    assert (without.latents == 0).all()
    without._buttons["random"].click()
    assert 0.7 < without.latents.std() < 1.3


def test_a_photo_is_aligned_and_encoded(shipped, needs_detector):
    vae, vectors, _ = shipped
    editor = fv.FaceEditor(vae, vectors, photos=PORTRAIT)
    aligned = fv.align_face(PORTRAIT)
    side = round(0.8 * 178)
    left, top = (178 - side) // 2, (218 - side) // 2
    crop = Image.fromarray(aligned[top : top + side, left : left + side])
    np.testing.assert_allclose(
        shown(editor, "aligned"),
        np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC)),
        atol=60,
    )
    wanted, _ = vae.encode(np.asarray(crop.resize((160, 160)))[None])
    assert np.linalg.norm(editor.latents - wanted) < 3
    assert not editor._by_hand.value
    editor.sliders["Smiling"].value = -1.0
    assert "Smiling -1" in repr(editor)


def test_projected_photos_are_found_by_name(shipped, needs_detector):
    vae, vectors, latents = shipped
    projected = latents[:1].set_axis([PORTRAIT.name])
    editor = fv.FaceEditor(vae, vectors, projected, PORTRAIT)
    np.testing.assert_array_equal(editor.latents, projected.iloc[0])
    # Placed by hand it is another picture.
    editor._by_hand.value = True
    assert np.linalg.norm(editor.latents - projected.iloc[0]) > 3


def test_a_folder_of_photos(shipped, drawn, needs_detector):
    vae, vectors, _ = shipped
    editor = fv.FaceEditor(vae, vectors, photos=drawn)
    assert len(editor._photos.options) == 1 + 48
    assert editor._photos.value.endswith("000001.jpg")
    editor._folder.value = "no/such/folder"
    assert "no/such/folder: no such folder" in editor._message.value


def test_an_animal_has_no_face_and_can_be_placed_by_hand(
    shipped, needs_detector
):
    vae, vectors, _ = shipped
    editor = fv.FaceEditor(vae, vectors, photos=ANIMAL)
    assert "raccoon.jpg: " in editor._message.value
    assert "by hand" in editor._message.value
    assert editor._placing.layout.display == ""
    before = editor.latents
    across = editor._placing.children[1]
    across.value = 20
    assert np.linalg.norm(editor.latents - before) > 1
    with pytest.raises(ValueError, match="raccoon.jpg: expected a face"):
        fv.align_face(ANIMAL)


def test_placing_by_hand_puts_the_eyes_into_the_rings(shipped, tmp_path):
    """A photo with two dots for eyes; the sliders that bring them there."""
    vae, vectors, _ = shipped
    photo = Image.new("RGB", (400, 300), "white")
    side, turn = 200, np.deg2rad(-30)
    middle = 220 + 140j
    for eye in fv.editor.EYES:
        x, y = eye - 0.5
        place = middle + side * (x + 1j * y) * np.exp(-1j * turn)
        dot = np.array([place.real, place.imag])
        fv.editor.ImageDraw.Draw(photo).ellipse([*(dot - 8), *(dot + 8)], "red")
    photo.save(tmp_path / "dots.png")
    editor = fv.FaceEditor(vae, vectors)
    editor._photo = photo
    editor._by_hand.value = True
    for slider, value in zip(
        editor._placing.children[1:],
        (100 * 220 / 400, 100 * 140 / 300, 100 * side / 300, -30),
        strict=True,
    ):
        slider.value = value
    size = len(editor._aligned)
    for x, y in np.rint(fv.editor.EYES * size).astype(int):
        assert editor._aligned[y, x, 0] > 200 and editor._aligned[y, x, 1] < 60
    red = (editor._aligned[..., 1] < 128).sum()
    assert red == pytest.approx(2 * np.pi * (8 * size / side) ** 2, rel=0.2)
    # The rings are drawn around them.
    assert (shown(editor, "aligned")[..., 2] < 100).sum() > red


def upload(editor, name, content):
    editor._upload.value = (
        {
            "name": name,
            "type": "image/jpeg",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime.datetime(2026, 1, 1),
        },
    )
    return editor._message.value


def test_an_uploaded_photo(editor, needs_detector):
    assert upload(editor, "me.jpg", PORTRAIT.read_bytes()) == "me.jpg"
    assert editor._aligned is not None
    assert not editor._upload.value  # the same one can be sent again


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.jpg", b"", "empty.jpg: expected a photo, found 0 bytes"),
        ("text.jpg", b"Dear diary", "text.jpg: "),
        (
            "large.png",
            b"\0" * 10_000_001,
            "large.png: expected at most 10,000,",
        ),
    ],
)
def test_uploads_that_are_no_photo(editor, name, content, message):
    before = editor.image
    assert message in upload(editor, name, content)
    np.testing.assert_array_equal(editor.image, before)


def test_a_photo_of_one_pixel(editor, needs_detector):
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(file, "PNG")
    assert "dot.png: " in upload(editor, "dot.png", file.getvalue())
    assert editor._by_hand.value and np.isfinite(editor.latents).all()


def test_a_photo_of_400_million_pixels_is_refused(editor):
    import tracemalloc

    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    tracemalloc.start()
    message = upload(editor, "huge.png", file.getvalue())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "huge.png: " in message
    assert most < 100e6


def test_vectors_of_another_vae(shipped):
    vae, vectors, latents = shipped
    with pytest.raises(ValueError, match="200 latent .* the vectors have 100"):
        fv.FaceEditor(vae, vectors.iloc[:, :100])
    with pytest.raises(ValueError, match="200 latent .* the faces have 100"):
        fv.FaceEditor(vae, vectors, latents.iloc[:, :100])


def test_what_is_missing_is_named(shipped, monkeypatch):
    monkeypatch.setattr(fv.editor, "widgets", None)
    with pytest.raises(ImportError, match=r"facevae-keras\[notebooks\]"):
        fv.FaceEditor(*shipped)


def test_another_vae_takes_over_face_and_amounts(editor):
    editor.sliders["Eyeglasses"].value = 1.0
    editor._vaes.value = "celeba_residual_vae"
    assert editor.image.shape == (128, 128, 3)
    assert editor.sliders["Eyeglasses"].value == 1.0
    small = Image.fromarray(editor.image).resize((64, 64))
    editor._vaes.value = None
    assert editor.image.shape == (64, 64, 3)
    assert np.abs(np.asarray(small, "float32") - editor.image).mean() < 25


def test_a_picture_where_there_are_no_widgets(editor):
    editor.sliders["Smiling"].value = 1.0
    bundle = editor._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    file = io.BytesIO(base64.b64decode(bundle["image/png"]))
    assert Image.open(file).size == (4 * 224, 244)
    assert bundle["text/plain"] == "FaceEditor: Smiling +1"


def test_what_is_shown_can_be_saved(editor, shipped, tmp_path):
    editor._file.value = str(tmp_path / "new" / "me")
    editor._buttons["save"].click()
    latents = np.load(tmp_path / "new" / "me.npy")
    np.testing.assert_array_equal(latents, editor.latents)
    with Image.open(tmp_path / "new" / "me.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), editor.image)
    editor._file.value = str(tmp_path / "new" / "me.png" / "me")
    editor._buttons["save"].click()
    assert "me.png" in editor._message.value
