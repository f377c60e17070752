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


def check(inserted, **ranges):
    own = OWN + 'flip = True\nlayers = "a,b"\nbeta = 0.4\nloss = "plain"\n'
    cells = ["", "import keras", own, f"# Parameters\n{inserted}\n"]
    return fv.check_parameters(cells, **ranges)


def test_the_values_in_force_are_returned():
    found = check('flip = False\nbeta = 2\nlayers = "c"')
    assert found == {
        "steps": 100,
        "learning_rate": 1e-3,
        "flip": False,
        "layers": "c",
        "beta": 2,
        "loss": "plain",
    }


@pytest.mark.parametrize(
    ("inserted", "expected"),
    [
        ('flip = "false"', "flip: expected True or False, found 'false'"),
        ("flip = 0", "flip: expected True or False, found 0"),
        ('steps = "many"', "steps: expected a whole number, found 'many'"),
        ("steps = True", "steps: expected a whole number, found True"),
        ("steps = 1e4", r"steps: expected a whole number, found 10000\.0"),
        ("beta = None", "beta: expected a number, found None"),
        ("layers = 1", "layers: expected text .papermill -r NAME 1., found 1"),
        ('layers = ["a"]', r"layers: expected text, found \['a'\]"),
        ("beta = float('nan')", "beta: expected a number, found inf"),
        ("beta = float('-inf')", "beta: expected a number, found inf"),
        ("steps = -1", "steps: expected 0 or more, found -1"),
        ("steps = -1\nflip = 1", "steps: .* found -1; flip: .* found 1"),
    ],
)
def test_values_of_another_kind_are_refused(inserted, expected):
    with pytest.raises(ValueError, match=expected):
        check(inserted)


@pytest.mark.parametrize(
    ("inserted", "expected"),
    [
        ("steps = 0", "steps: expected 1 or more, found 0"),
        ("beta = -0.5", r"beta: expected 0 to 1, found -0\.5"),
        ('loss = "wrong"', "loss: expected one of plain, good, found 'wrong'"),
    ],
)
def test_ranges(inserted, expected):
    ranges = {"steps": 1, "beta": (0, 1), "loss": ["plain", "good"]}
    assert check("steps = 1\nbeta = 1", **ranges)["beta"] == 1
    with pytest.raises(ValueError, match=expected):
        check(inserted, **ranges)


def test_a_cell_that_was_changed_and_run_again_counts():
    cells = ["import x", OWN, "check", OWN.replace("100", "-7"), "steps = 5"]
    with pytest.raises(ValueError, match="steps: .* found -7"):
        fv.check_parameters(cells)


def test_folders_are_checked(tmp_path):
    own = 'data_dir = ""\nrun_dir = "build"\n'
    cells = [own, f"# Parameters\nrun_dir = {str(tmp_path / 'a/b')!r}"]
    fv.check_parameters(cells)
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("")
    for inserted in (
        f"data_dir = {str(tmp_path / 'file')!r}",
        f"run_dir = {str(tmp_path / 'file')!r}",
        "run_dir = '/proc/there'",  # where not even root may write
    ):
        cells = [own, f"# Parameters\n{inserted}"]
        with pytest.raises(OSError, match=inserted.split("'")[1]):
            fv.check_parameters(cells)
