"""foretrain convert: the same functions in another format, or a part of them, and refusals in one line."""

import numpy as np
import pytest
import scipy.io

from foretrain import load
from foretrain.data import FileLayout


@pytest.fixture
def coefficients(folder):
    """Darcy flow as the FNO files keep it, under keys that tell nothing."""
    rng = np.random.default_rng(0)
    arrays = {"first": rng.normal(size=(12, 9, 9)), "second": rng.normal(size=(12, 9, 9))}
    scipy.io.savemat("fields.mat", arrays)
    return arrays


def test_every_fourth_point_of_named_arrays_is_what_the_other_commands_read(call, coefficients):
    outcome = call("convert fields.mat --inputs first --outputs second --points 4 --functions 10 --out part.npz")
    assert outcome.code == 0, outcome
    data = load("part.npz")
    np.testing.assert_array_equal(data.inputs, coefficients["first"][:10, ::4, ::4].reshape(10, -1))
    np.testing.assert_array_equal(data.outputs, coefficients["second"][:10, ::4, ::4].reshape(10, -1))
    assert call("inspect part.npz").code == 0


def test_there_and_back_is_the_same_data(call, coefficients):
    assert call("convert fields.mat --inputs first --outputs second --out a.npz").code == 0
    assert call("convert a.npz --out b.mat").code == 0
    assert call("convert b.mat --out c.npz").code == 0
    assert load("a.npz").fingerprint == load("c.npz").fingerprint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("convert fields.mat --out x.npz", "first"),
        ("convert fields.mat --inputs first --outputs second", "--out FILE"),
        ("convert fields.mat --inputs first --outputs second --out x.docx", "docx"),
        ("convert fields.mat --inputs first --outputs second --out fields.mat", "the same"),
        ("convert gone.mat --out x.npz", "found nothing there"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(call, refused, said, coefficients, line, words):
    said(refused(line), words)
    assert load("fields.mat", FileLayout(inputs="first", outputs="second")).inputs.shape == (12, 81)
