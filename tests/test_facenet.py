import keras
import numpy as np
import pytest

import facevae_keras as fv


@pytest.mark.slow
def test_every_endpoint_agrees_with_the_original(
    facenet_checkpoint, facenet_golden
):
    facenet = fv.load_facenet(facenet_checkpoint)
    endpoints = [name for name in facenet_golden if name in fv.ENDPOINTS]
    assert len(endpoints) == len(fv.ENDPOINTS) == 15
    outputs = [facenet.get_layer(name).output for name in endpoints]
    model = keras.Model(facenet.input, [*outputs, facenet.output])
    *found, embedding = model.predict(facenet_golden["images"], verbose=0)
    for name, values in zip(endpoints, found, strict=True):
        values = values.reshape(8, -1)
        sampled = np.linspace(0, values.shape[1] - 1, 1000).astype(int)
        wanted = facenet_golden[name]
        error = np.abs(values[:, sampled] - wanted).max()
        assert error < 1e-4 * np.abs(wanted).max(), name
    wanted = facenet_golden["embedding"]
    assert np.abs(embedding - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_endpoint_shapes_at_160(seeded_facenet):
    names = ["Conv2d_1a_3x3", "Conv2d_4b_3x3", "Mixed_6a", "Mixed_8b"]
    extractor = fv.feature_extractor(seeded_facenet, names)
    shapes = [x.shape for x in extractor(np.zeros((1, 160, 160, 3)))]
    assert shapes == [
        (1, 79, 79, 32),
        (1, 17, 17, 256),
        (1, 8, 8, 896),
        (1, 3, 3, 1792),
    ]


@pytest.mark.slow
def test_prefix_and_folder_are_the_same_source(facenet_checkpoint, faces):
    prefix = facenet_checkpoint / "model-20180402-114759.ckpt-275"
    images = faces[:2].astype("float32")
    layers = ["Conv2d_1a_3x3"]
    (first,) = fv.feature_extractor(fv.load_facenet(prefix), layers)(images)
    (second,) = fv.feature_extractor(
        fv.load_facenet(str(facenet_checkpoint)), layers
    )(images)
    np.testing.assert_array_equal(first, second)


def test_seeded_weights_are_the_same_everywhere(seeded_facenet):
    # What numpy.random.RandomState(crc32(name)) has given since 2005.
    (kernel,) = seeded_facenet.get_layer("Conv2d_1a_3x3-linear").get_weights()
    np.testing.assert_allclose(
        kernel[0, 0, 0, :3], [0.24453679, 0.27754226, 0.05453463], rtol=1e-6
    )
    assert abs(kernel.std() * np.sqrt(27) - 1) < 0.05
    layer = seeded_facenet.get_layer("Bottleneck-BatchNorm")
    *_, variance = layer.get_weights()
    np.testing.assert_allclose(
        variance[:2], [0.83866177, 0.94641591], rtol=1e-6
    )


@pytest.mark.slow
def test_standardizations_differ_as_documented(faces):
    images = faces[:1].astype("float32")
    fixed = fv.load_facenet("seeded").get_layer("fixed")(images)
    np.testing.assert_allclose(fixed, (images - 127.5) / 128, atol=1e-6)
    vae = fv.load_facenet("seeded", "vae").get_layer("vae")(images)
    mean = [134.10714722, 102.52040863, 87.15436554]
    deviation = np.sqrt([3941.30175781, 2856.94287109, 2519.35791016])
    np.testing.assert_allclose(vae, (images - mean) / deviation, atol=1e-5)
    with pytest.raises(ValueError, match='"fixed" or "vae", found .imagenet'):
        fv.load_facenet("seeded", standardization="imagenet")


def test_feature_extractor_stops_at_the_last_layer(seeded_facenet):
    extractor = fv.feature_extractor(seeded_facenet, fv.WIKI_LAYERS)
    names = {layer.name for layer in extractor.layers}
    assert "Conv2d_2b_3x3" in names and "MaxPool_3a_3x3" not in names
    assert not extractor.trainable_variables
    assert len(extractor(np.zeros((1, 64, 64, 3)))) == 3


def test_one_layer_still_gives_a_list(seeded_facenet):
    extractor = fv.feature_extractor(seeded_facenet, ["Conv2d_1a_3x3"])
    outputs = extractor(np.zeros((1, 64, 64, 3)))
    assert isinstance(outputs, list) and len(outputs) == 1


def test_unknown_layer_names_those_that_exist(seeded_facenet):
    with pytest.raises(ValueError, match="Conv2d_9z.*Conv2d_1a_3x3.*Mixed_8b"):
        fv.feature_extractor(seeded_facenet, ["Conv2d_9z"])
    with pytest.raises(ValueError, match="endpoints are"):
        fv.PerceptualLoss(seeded_facenet, layers=[])


def test_bad_sources(tmp_path, vae_checkpoint):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        fv.load_facenet(tmp_path / "model.ckpt-1")
    with pytest.raises(FileNotFoundError, match="no .index file"):
        fv.load_facenet(tmp_path)
    (tmp_path / "model.ckpt-1.index").write_bytes(b"not a table")
    with pytest.raises(FileNotFoundError, match="weights themselves"):
        fv.load_facenet(tmp_path)
    (tmp_path / "model.ckpt-1.data-00000-of-00001").write_bytes(b"nor this")
    with pytest.raises(ValueError, match="not a readable TensorFlow"):
        fv.load_facenet(tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another network"):
        fv.load_facenet(vae_checkpoint)


def test_the_last_of_several_checkpoints_counts(tmp_path):
    from facevae_keras.weights.open import find_checkpoint

    for step in (500, 1000, 50):
        (tmp_path / f"model.ckpt-{step}.index").touch()
        (tmp_path / f"model.ckpt-{step}.data-00000-of-00001").touch()
    assert find_checkpoint(tmp_path).name == "model.ckpt-1000"


def test_folding_batch_norm_changes_nothing(seeded_facenet):
    images = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3))
    layers = ("Conv2d_4b_3x3", "Mixed_6a", "PreLogitsFlatten")
    folded = fv.feature_extractor(seeded_facenet, layers)
    assert not any("BatchNorm" in layer.name for layer in folded.layers)
    whole = keras.Model(
        seeded_facenet.input,
        [seeded_facenet.get_layer(name).output for name in layers],
    )
    for found, wanted in zip(folded(images), whole(images), strict=True):
        error = np.abs(np.asarray(found) - wanted).max()
        assert error < 1e-5 * np.abs(wanted).max()


def test_facenet_is_float32_under_any_policy(seeded_facenet):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        facenet = fv.load_facenet("seeded")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.full((1, 96, 96, 3), 100.0)
    np.testing.assert_allclose(facenet(images), seeded_facenet(images))


def test_the_built_in_stem_ships_and_says_what_it_is(seeded_facenet):
    stem = fv.load_facenet("built-in")
    assert "0 left over" in str(stem.conversion)
    # Built-in FaceNet ends with the stem.
    assert stem.output.shape[-1] == 256
    with pytest.raises(ValueError, match="no layer Mixed_5a; .*Conv2d_4b_3x3"):
        fv.feature_extractor(stem, ["Mixed_5a"])
    # The same convolutions as the whole network's, with other weights.
    layer = "Conv2d_4b_3x3-linear"
    built_in = stem.get_layer(layer).get_weights()[0]
    seeded = seeded_facenet.get_layer(layer).get_weights()[0]
    assert built_in.shape == seeded.shape
    assert not np.allclose(built_in, seeded)


@pytest.mark.slow
def test_the_built_in_stem_is_trained(celeba, seeded_facenet):
    """It cares less for the light than for the face, unlike random weights."""
    images = fv.find_images(celeba)
    _, held_out = fv.split_images(images, 0.15, 666)
    photos, _ = fv.load_photos(held_out["path"][:64], 96, crop=0.8)
    photos = photos.astype("float32")
    layers = ["Conv2d_2b_3x3", "Conv2d_4b_3x3"]

    def price_of_light(facenet):
        loss = fv.PerceptualLoss(facenet, layers, 96)
        loss.equalize(photos)
        darker = float(loss(photos, 0.85 * photos))
        return darker / float(loss(photos, np.roll(photos, 1, axis=0)))

    built_in = fv.load_facenet("built-in")
    assert price_of_light(built_in) < 0.7 * price_of_light(seeded_facenet)
