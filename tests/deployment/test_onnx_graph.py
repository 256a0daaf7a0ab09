import equinox as eqx
import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.deployment import NUMBER_FORMATS, OnnxPackager, stored_numbers
from foretrain.models import ACTIVATION_FUNCTIONS, ShallowOperator, activation_function

EXPORT = OnnxPackager(latency_repeats=3)


def relative(values, truth):
    return np.linalg.norm(values - truth) / np.linalg.norm(truth)


def largest_difference(network, data, batches=(1, 7, 32, 1024)):
    """Over batch sizes, file against network on fresh inputs."""
    package = EXPORT(network, "float32", data.inputs)
    mixing = np.random.default_rng(7).standard_normal((max(batches), len(data))) / np.sqrt(len(data))
    inputs = mixing @ data.inputs
    truth = np.asarray(eqx.filter_jit(network)(inputs), np.float64)
    return max(relative(package.predict(inputs[:batch]), truth[:batch]) for batch in batches)


@pytest.mark.parametrize("reflection", [-1, 0, 1])
@pytest.mark.parametrize(("grid", "modes"), [("line", 8), ("plane", 3)])
def test_fourier_file_answers_as_the_network_at_every_batch_size(request, fourier, grid, modes, reflection):
    data = request.getfixturevalue(grid)
    assert largest_difference(fourier(data, reflection, modes), data) < 1e-5


@pytest.mark.parametrize("grid", ["line", "plane"])
def test_component_file_answers_as_the_network_at_every_batch_size(request, component, grid):
    data = request.getfixturevalue(grid)
    assert largest_difference(component(data), data) < 1e-5


@pytest.mark.parametrize("kind", ["fourier", "component"])
def test_a_fitted_file_answers_as_the_network_to_the_last_digits(line, fitted, kind):
    assert largest_difference(fitted[kind], line) < 2e-6


@pytest.mark.parametrize("activation", ACTIVATION_FUNCTIONS)
def test_every_activation_a_network_can_name_is_exported(line, component, activation):
    network = component(line, activation)
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(line.inputs), np.asarray(network(line.inputs), np.float64)) < 1e-5


@pytest.mark.parametrize("offset", [300.0, -2e4])
def test_inputs_far_from_zero_keep_their_digits(line, component, offset):
    data = OperatorDataset(line.inputs + offset, line.outputs)
    network = component(data)
    package = EXPORT(network, "float32", data.inputs)
    assert relative(package.predict(data.inputs), np.asarray(network(data.inputs), np.float64)) < 1e-5


def test_a_mean_far_larger_than_the_spread_keeps_its_digits(line, component):
    profile = 1000 * np.sin(2 * np.pi * np.arange(64) / 64)
    data = OperatorDataset(line.inputs + profile, line.outputs)
    network = component(data)
    package = EXPORT(network, "float32", data.inputs)
    assert relative(package.predict(data.inputs), np.asarray(network(data.inputs), np.float64)) < 1e-5


def test_a_large_grid_and_high_modes_keep_the_computed_table_exact(fourier):
    generator = np.random.default_rng(3)
    data = OperatorDataset(generator.standard_normal((8, 500)), generator.standard_normal((8, 500)))
    network = fourier(data, modes=240, width=4)
    package = EXPORT(network, "float32", data.inputs)
    assert relative(package.predict(data.inputs), np.asarray(network(data.inputs), np.float64)) < 2e-6


def test_a_table_of_no_regular_grid_is_stored_and_answers_as_the_network(line, fourier):
    network = fourier(line, modes=8)
    table = np.asarray(network.table) + 0.01 * np.random.default_rng(0).standard_normal(network.table.shape)
    network = eqx.tree_at(lambda net: net.table, network, jax.numpy.asarray(table, jax.numpy.float32))
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(line.inputs), np.asarray(network(line.inputs), np.float64)) < 1e-5
    assert package.numbers > table.size


def test_numbers_of_a_fourier_file_are_its_weights_and_little_else(line, fourier):
    width, modes = 24, 9
    package = EXPORT(fourier(line, reflection=-1), "float32", line.inputs)
    weights = 2 * modes * width + width + width + modes  # filters, biases, readout, the linear part's real half
    table = 8  # points and modes to count to, from where, by what, along which axis; unit of angle in two parts
    assert package.numbers == weights + table + 3  # two axes and the offset


def test_numbers_of_a_component_file_are_its_weights_and_little_else(line, component):
    package = EXPORT(component(line), "float32", line.inputs)
    weights = 9 * 24 + 24 + (24 + 9) * 7
    assert package.numbers == weights + 64 * 9 + 64 * 7 + 64 + 9 + 1  # bases, output mean, centring


def test_stored_numbers_counts_constants_wherever_they_are():
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["chosen"], value=numpy_helper.from_array(np.zeros(5, np.float32)))],
        "inner",
        [],
        [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [5])],
    )
    nodes = [
        helper.make_node("Constant", [], ["scalar"], value_float=2.0),
        helper.make_node("Constant", [], ["shape"], value_ints=[3, 4]),
        helper.make_node("If", ["condition"], ["result"], then_branch=inner, else_branch=inner),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((3, 4), np.int8), "matrix"),
        numpy_helper.from_array(np.array(True), "condition"),
    ]
    output = helper.make_tensor_value_info("result", TensorProto.FLOAT, [5])
    model = helper.make_model(helper.make_graph(nodes, "outer", [], [output], constants))
    assert stored_numbers(model.SerializeToString()) == 12 + 1 + 1 + 2 + 5 + 5


def test_stored_numbers_refuses_what_is_no_model():
    with pytest.raises(ForetrainError, match="expected the bytes of an ONNX model"):
        stored_numbers(b"no model at all")


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
@pytest.mark.parametrize("kind", ["fourier", "component"])
def test_files_use_only_standard_real_operators_of_an_old_opset(line, fitted, kind, number_format):
    model = onnx.load_model_from_string(EXPORT(fitted[kind], number_format, line.inputs).file)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 9
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert all(node.domain == "" for node in model.graph.node)
    complex_types = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
    assert not any(tensor.data_type in complex_types for tensor in model.graph.initializer)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param == "batch"


def test_another_network_is_refused_by_name(line):
    network = ShallowOperator(width=8, branch_width=4).initialise(line, jax.random.key(0))
    with pytest.raises(ForetrainError, match="came a ShallowOperatorNetwork; distil it"):
        EXPORT(network, "float32", line.inputs)


def test_an_activation_without_a_graph_is_refused(line, component, monkeypatch):
    monkeypatch.setitem(ACTIVATION_FUNCTIONS, "bump", activation_function("sin"))
    with pytest.raises(ForetrainError, match=r"expected an activation of relu.*came 'bump'"):
        EXPORT(component(line, "bump"), "float32", line.inputs)
