import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.data import read_npz
from foretrain.models import ComponentOperator

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def network(small_plane):
    """A network with 48 sensors and 48 query points, its outer layer not zero."""
    drawn = ComponentOperator(8, 6, 5).initialise(small_plane, jax.random.key(0))
    outer = np.random.default_rng(0).standard_normal(drawn.outer.shape)
    return eqx.tree_at(lambda net: net.outer, drawn, jnp.asarray(outer))


@pytest.fixture(scope="module")
def file(network, small_plane):
    from foretrain.deployment import OnnxPackager

    return OnnxPackager()(network, "float32", small_plane.inputs).file


@pytest.fixture
def model(folder, file):
    Path("model.onnx").write_bytes(file)
    return "model.onnx"


def test_answers_are_those_of_the_network(call, model, network, small_plane):
    np.savez("inputs.npz", inputs=small_plane.inputs)
    outcome = call(f"predict {model} inputs.npz --out deep/answers.npz --json")
    assert json.loads(outcome.output) == {"functions": 30, "points": 48, "outputs": "deep/answers.npz"}
    answers = read_npz("deep/answers.npz")["outputs"]
    np.testing.assert_allclose(answers, network(small_plane.inputs), atol=1e-5 * np.abs(answers).max())


def test_functions_on_a_grid_are_flattened_as_in_training(call, model, small_plane):
    np.savez("flat.npz", inputs=small_plane.inputs)
    np.savez("grid.npz", inputs=small_plane.inputs.reshape(30, 6, 8))
    for name in ("flat", "grid"):
        assert call(f"predict {model} {name}.npz --out {name}-answers.npz").code == 0
    flat, grid = (read_npz(f"{name}-answers.npz")["outputs"] for name in ("flat", "grid"))
    np.testing.assert_array_equal(flat, grid)


@pytest.fixture
def trusted(folder, file, small_plane):
    """The model with a band of known widths and a score fitted to rough inputs."""
    from foretrain.deployment import ConformalBand, OutOfRange
    from foretrain.deployment._package import Package, with_trust

    rough = np.random.default_rng(1).standard_normal((400, 48))
    band = ConformalBand(0.9, 99, np.linspace(0.5, 1, 48), np.full(48, 2.0))
    package = Package(file, "float32", 0, len(file), 0.0, 0.0)
    Path("trusted.onnx").write_bytes(with_trust(package, band, OutOfRange.fit(rough)).file)
    return "trusted.onnx"


def test_answers_come_with_their_band_and_their_inputs_with_a_score(call, trusted):
    inputs = np.random.default_rng(2).standard_normal((20, 48))
    inputs[[3, 11]] *= [[0.01], [100.0]]
    np.savez("inputs.npz", inputs=inputs)
    outcome = call(f"predict {trusted} inputs.npz --out answers.npz --json --simultaneous")
    summary, arrays = json.loads(outcome.output), read_npz("answers.npz")
    assert summary["band"] == {"coverage": 0.9, "calibration_functions": 99}
    assert {3, 11} <= set(summary["outside"]["rows"]) == set(np.flatnonzero(arrays["outside"]))
    assert summary["outside"]["functions"] == arrays["outside"].sum() < 5
    assert summary["outside"]["largest_score"] == arrays["score"].max()
    assert np.argmax(arrays["score"]) in (3, 11)
    width, whole = arrays["upper"] - arrays["lower"], arrays["upper_simultaneous"] - arrays["lower_simultaneous"]
    np.testing.assert_allclose(width, np.tile(np.linspace(1, 2, 48), (20, 1)), rtol=1e-3)
    np.testing.assert_allclose(whole, 4.0, rtol=1e-3)
    np.testing.assert_allclose((arrays["upper"] + arrays["lower"]) / 2, arrays["outputs"], atol=1e-9)
    assert [path.name for path in Path().glob(".*")] == []


def test_one_line_says_how_many_inputs_are_outside(call, trusted):
    np.savez("inputs.npz", inputs=np.random.default_rng(2).standard_normal((5, 48)) * 50)
    lines = call(f"predict {trusted} inputs.npz").output.splitlines()
    assert [line for line in lines if "outside" in line] == [
        "5 of 5 inputs are outside the range of the training inputs (1 % would be, were all like them); "
        "do not rely on their answers"
    ]
    arrays = read_npz("predictions.npz")
    assert arrays["outside"].all()
    assert "upper_simultaneous" not in arrays


def test_a_file_without_trust_says_so(call, refused, said, model, small_plane):
    np.savez("inputs.npz", inputs=small_plane.inputs)
    said(refused(f"predict {model} inputs.npz --simultaneous"), "expected a file with a band for --simultaneous")
    assert "this file carries no out-of-range score" in call(f"predict {model} inputs.npz").output
    assert set(read_npz("predictions.npz")) == {"outputs"}


INPUTS = {
    "other sensors": (np.ones((3, 47)), "expected values at 48 sensors"),
    "one function without its axis": (np.ones(48), r"shape \(48,\)"),
    "a single number": (np.ones(()), r"shape \(\)"),
    "no functions": (np.ones((0, 48)), r"shape \(0, 48\)"),
    "NaN": (np.full((3, 48), np.nan), "finite numbers, .* row 0"),
    "too large for single precision": (np.full((3, 48), 1e300), "finite numbers"),
    "complex numbers": (np.ones((3, 48)) * 1j, "expected real numbers"),
    "text": (np.full((3, 48), "a"), "expected real numbers"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_functions_the_model_cannot_answer_are_refused(case, refused, said, model):
    values, message = INPUTS[case]
    np.savez("inputs.npz", inputs=values)
    said(refused(f"predict {model} inputs.npz"), message)


def test_files_without_inputs_are_refused(refused, said, model):
    np.savez("inputs.npz", u=np.ones((3, 48)))
    said(refused(f"predict {model} inputs.npz"), "inputs.npz: expected the key 'inputs', came u")
    said(refused(f"predict {model} nothing.npz"), "found nothing there")


def test_what_is_no_model_is_refused(refused, said, model):
    np.savez("inputs.npz", inputs=np.ones((3, 48)))
    said(refused("predict nothing.onnx inputs.npz"), "nothing.onnx: expected a model file, .*No such file")
    said(refused("predict . inputs.npz"), "Is a directory")
    for content in (b"", b"text", Path(model).read_bytes()[:200]):
        Path("broken.onnx").write_bytes(content)
        said(refused("predict broken.onnx inputs.npz"), "broken.onnx: expected an ONNX model")


def test_a_place_where_answers_cannot_go_is_refused(refused, said, model):
    np.savez("inputs.npz", inputs=np.ones((3, 48)))
    Path("folder").mkdir()
    said(refused(f"predict {model} inputs.npz --out folder"), "folder: expected a file to write, came a folder")
    said(refused(f"predict {model} inputs.npz --out {model}/answers.npz"), "came the file model.onnx")
