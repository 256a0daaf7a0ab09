import ast
import importlib.util
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
from onnx import TensorProto, helper

from foretrain._foundation import ForetrainError
from foretrain.deployment import NUMBER_FORMATS, OnnxPackager, Runtime
from foretrain.deployment._activation_nodes import ACTIVATION_NODES
from foretrain.deployment._numpy_predictor import write_numpy_predictor
from foretrain.models import FilteredFourierOperator

EXPORT = OnnxPackager(latency_repeats=3)
ALL_FLOAT = [name for name in NUMBER_FORMATS if name != "int8"]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(file, path, inputs):
    """Relative L2 distance of the NumPy answers from ONNX Runtime's."""
    truth = Runtime(file).predict(inputs)
    answers = load(write_numpy_predictor(file, path)).predict(inputs)
    assert answers.shape == truth.shape
    return np.linalg.norm(answers - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("number_format", ALL_FLOAT)
@pytest.mark.parametrize("kind", ["fourier", "component"])
def test_answers_are_those_of_onnx_runtime(line, fitted, kind, number_format, tmp_path):
    file = EXPORT(fitted[kind], number_format, line.inputs).file
    assert difference(file, tmp_path / "small.py", line.inputs) < 1e-6


@pytest.mark.parametrize("kind", ["fourier", "component"])
def test_eight_bit_arithmetic_agrees_to_a_rounding_step(line, fitted, kind, tmp_path):
    package = EXPORT(fitted[kind], "int8", line.inputs)
    # What the format itself costs is a percent.
    assert difference(package.file, tmp_path / "small.py", line.inputs) < 0.2 * package.difference


@pytest.mark.parametrize("activation", sorted(ACTIVATION_NODES.keys() - {"linear", "cosine"}))
def test_every_activation_is_interpreted(line, component, activation, tmp_path):
    file = EXPORT(component(line, activation), "float32", line.inputs).file
    assert difference(file, tmp_path / "small.py", line.inputs) < 1e-6


@pytest.mark.parametrize("reflection", [-1, 0, 1])
def test_fourier_operators_on_a_plane_are_interpreted(plane, fourier, reflection, tmp_path):
    file = EXPORT(fourier(plane, reflection, modes=2), "float32", plane.inputs).file
    assert difference(file, tmp_path / "small.py", plane.inputs) < 1e-6


@pytest.mark.parametrize("reflection", [-1, 0, 1])
@pytest.mark.parametrize("number_format", ALL_FLOAT)
def test_operators_with_filters_on_both_sides_are_interpreted(line, reflection, number_format, tmp_path):
    network = FilteredFourierOperator(24, 9, 7, reflection=reflection).initialise(line, jax.random.key(1))
    readout = jax.random.normal(jax.random.key(2), network.readout.shape)
    network = eqx.tree_at(lambda net: net.readout, network, readout)
    file = EXPORT(network, number_format, line.inputs).file
    assert difference(file, tmp_path / "small.py", line.inputs) < 1e-6
    assert (tmp_path / "small.py").read_text().count("\n") < 200


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
def test_the_file_is_short_imports_numpy_only_and_holds_no_onnx(line, fitted, number_format, tmp_path):
    file = EXPORT(fitted["fourier"], number_format, line.inputs, {"name": 'bur"""gers\n\\'}).file
    text = write_numpy_predictor(file, tmp_path / "small.py").read_text()
    assert text.count("\n") < 200
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in found}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names == {"numpy"}


def in_a_shell(folder, *arguments):
    """Runs the predictor where nothing but NumPy can be imported."""
    hidden = "import sys; sys.modules.update(dict.fromkeys(['foretrain', 'onnx', 'onnxruntime', 'jax', 'scipy'])); "
    start = f"sys.argv = {['small.py', *arguments]}; import runpy; runpy.run_path('small.py', None, '__main__')"
    return subprocess.run([sys.executable, "-c", hidden + start], cwd=folder, capture_output=True, text=True)


def test_the_file_answers_from_a_shell_where_nothing_else_can_be_imported(line, fitted, tmp_path):
    file = EXPORT(fitted["fourier"], "float32", line.inputs).file
    write_numpy_predictor(file, tmp_path / "small.py")
    np.savez(tmp_path / "inputs.npz", inputs=line.inputs)
    done = in_a_shell(tmp_path, "inputs.npz", "outputs.npz")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    with np.load(tmp_path / "outputs.npz") as arrays:
        np.testing.assert_allclose(arrays["outputs"], Runtime(file).predict(line.inputs), rtol=1e-5, atol=1e-6)
    np.savez(tmp_path / "wrong.npz", inputs=line.inputs[:, 1:])
    for arguments, message in (
        (["wrong.npz", "o.npz"], "wrong.npz: inputs: expected real numbers of shape [functions, 64]"),
        (["absent.npz", "o.npz"], "absent.npz: [Errno 2] No such file"),
        (["inputs.npz"], "usage: python small.py inputs.npz outputs.npz"),
    ):
        done = in_a_shell(tmp_path, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.npz", "outputs.npz", "small.py", "wrong.npz"]


@pytest.fixture(scope="module")
def predictor(line, fitted, tmp_path_factory):
    file = EXPORT(fitted["component"], "float32", line.inputs).file
    return load(write_numpy_predictor(file, tmp_path_factory.mktemp("numpy") / "small.py"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 65)), r"real numbers of shape \[functions, 64\], came \[3, 65\] of type float64$"),
        (np.zeros(64), r"came \[64\]"),
        (np.zeros((1, 64), complex), "of type complex128"),
        (np.full((1, 64), "a"), "expected real numbers"),
        (np.full((2, 64), np.nan), "finite numbers, came NaN, infinite or too large ones, first in row 0$"),
        (np.full((2, 64), 1e300), "too large"),
    ],
    ids=["sensors", "axis", "complex", "text", "nan", "large"],
)
def test_inputs_that_cannot_be_answered_are_refused_in_one_line(predictor, inputs, message):
    with pytest.raises(ValueError, match=message) as caught:
        predictor.predict(inputs)
    assert "\n" not in str(caught.value)


def test_no_functions_whole_numbers_and_large_batches_are_answered(predictor, line):
    assert predictor.predict(np.zeros((0, 64))).shape == (0, 64)
    many = np.tile(line.inputs, (3, 1))
    np.testing.assert_allclose(predictor.predict(many)[120:], predictor.predict(line.inputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predictor.predict(np.ones((1, 64), int)), predictor.predict(np.ones((1, 64))))


def test_an_unknown_operator_is_refused(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in ("inputs", "outputs")]
    graph = helper.make_graph([helper.make_node("Asinh", ["inputs"], ["outputs"])], "other", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ForetrainError, match="came one with Asinh; ship the ONNX file"):
        write_numpy_predictor(model.SerializeToString(), tmp_path / "small.py")
    assert list(tmp_path.iterdir()) == []


def test_trained_weights_of_large_networks_fit_into_the_lines(line, component, tmp_path):
    network = component(line, "tanh", width=4000)
    network = eqx.tree_at(
        lambda net: net.outer, network, jax.random.normal(jax.random.key(0), network.outer.shape) / 60
    )
    file = EXPORT(network, "float32", line.inputs).file
    assert len(file) > 2e5
    assert difference(file, tmp_path / "small.py", line.inputs) < 1e-6
    assert (tmp_path / "small.py").read_text().count("\n") < 200
