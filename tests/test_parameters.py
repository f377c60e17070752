import pytest

import facevae_keras as fv

OWN = "# Training\nsteps = 100\nlearning_rate = 1e-3\n"


def test_known_parameters_pass():
    fv.check_parameters(["", "import keras", OWN, "# Parameters\nsteps = 5\n"])


def test_no_parameters_pass():
    fv.check_parameters(["", "import keras", OWN, "fv.check_parameters(In)"])


def test_unknown_parameters_are_named_with_those_that_exist():
    inserted = "# Parameters\nsteps = 5\nstepz = 5\n"
    message = "no parameter stepz; it has learning_rate, steps"
    with pytest.raises(NameError, match=message):
        fv.check_parameters(["", OWN, inserted])
