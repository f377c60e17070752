"""The numbers of today are those that were proved against the original."""

import golden
import numpy as np
import pytest

GOLDEN = dict(np.load(golden.FILE))


def assert_close(found, name):
    """Compares as the tests with the original's own values do."""
    wanted = GOLDEN[name]
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01, "nothing to compare"
    error = np.abs(found - wanted).max()
    assert error < 1e-4 * np.abs(wanted).max(), name


def test_every_endpoint_of_facenet():
    found = golden.facenet_values(GOLDEN["photos"])
    assert {f"facenet/{name}" for name in found} == {
        name for name in GOLDEN if name.startswith("facenet/")
    }
    for name, values in found.items():
        assert_close(values, f"facenet/{name}")


@pytest.mark.parametrize(
    "architecture, loss",
    [
        pytest.param(
            *training,
            marks=[] if training[0] == "dfc_vae" else pytest.mark.slow,
        )
        for training in golden.TRAININGS
    ],
)
def test_a_vae_and_two_steps_of_its_training(architecture, loss):
    found = golden.training_values(GOLDEN["photos"], architecture, loss)
    steps = found.pop("steps")
    scope = f"{architecture}/{loss}"
    for name, values in found.items():
        assert_close(values, f"{scope}/{name}")
    np.testing.assert_allclose(steps, GOLDEN[f"{scope}/steps"], rtol=2e-3)
    assert (steps[0] != steps[1]).all()
