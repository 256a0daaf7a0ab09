from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from foretrain.data import OperatorDataset
from foretrain.deployment import NUMBER_FORMATS, OnnxPackager
from foretrain.models import FilteredFourierNetwork, FilteredFourierOperator
from foretrain.training import train_fourier_operator

EXPORT = OnnxPackager(latency_repeats=3)
WIDTH, MODES, OUTPUT_MODES = 24, 9, 7
# Each format's distance from the network on inputs that did not calibrate it; a change for the worse must be seen.
LARGEST_DIFFERENCE = {"float32": 1e-5, "float16": 1e-3, "int8 weights": 0.03, "int8": 0.04}


def relative(values, truth):
    return np.linalg.norm(values - truth) / np.linalg.norm(truth)


def unseen(data, count=1024):
    mixing = np.random.default_rng(7).standard_normal((count, len(data))) / np.sqrt(len(data))
    return mixing @ data.inputs


@pytest.fixture(scope="module")
def filtered() -> Callable[..., FilteredFourierNetwork]:
    """Builds a network with random outer filters."""

    def build(data: OperatorDataset, reflection=0, modes=MODES, output_modes=OUTPUT_MODES, **settings):
        operator = FilteredFourierOperator(WIDTH, modes, output_modes, reflection=reflection, **settings)
        network = operator.initialise(data, jax.random.key(1))
        readout = jax.random.normal(jax.random.key(2), network.readout.shape)
        return eqx.tree_at(lambda net: net.readout, network, readout)

    return build


@pytest.fixture(scope="module")
def trained(line) -> FilteredFourierNetwork:
    """After a few steps on Burgers: outer filters at their optimum, where terms cancel."""
    operator = FilteredFourierOperator(WIDTH, MODES, OUTPUT_MODES, reflection=-1)
    return train_fourier_operator(line, operator, evaluations=6, ridge=1e-6).network


def convolved(network, inputs):
    """The operator by its equation, with complex numbers and in double precision, on a line."""
    count, outside, samples = len(network.table[0]) // 2, len(network.readout), len(network.sample_table)
    scaled = np.asarray(network.filters, np.float64) * np.asarray(network.feature_scale, np.float64)[:, None]
    filters, biases = scaled[:count] + 1j * scaled[count:], np.asarray(network.biases, np.float64)
    readout = np.asarray(network.readout, np.float64)
    straight, turned = readout[:, :WIDTH], 1j * readout[:, WIDTH:]
    sigma = np.tanh

    def neurons(functions):
        # Features are Re(v e^{ikx}) and Im(v e^{ikx}): a filter's product with them is Re(v conj(w) e^{ikx}).
        spectrum = np.fft.fft(functions, axis=1)[:, :count, None] / functions.shape[1] * np.conj(filters)
        waves = np.exp(2j * np.pi * np.outer(np.arange(samples) / samples, np.arange(count)))
        return sigma(np.real(np.einsum("xk,nkr->nxr", waves, spectrum)) + biases)

    first = second = neurons(inputs)
    if network.reflection:
        mirrored = neurons(network.reflection * np.roll(inputs[:, ::-1], 1, axis=1))
        mirrored = network.reflection * np.roll(mirrored[:, ::-1], 1, axis=1)
        first, second = first + mirrored, first - mirrored
    parts = (np.fft.fft(values, axis=1)[:, :outside] / samples for values in (first, second))
    coefficients = sum(np.einsum("nkr,kr->nk", part, q) for part, q in zip(parts, (straight, turned), strict=True))
    half = np.zeros((len(inputs), inputs.shape[1] // 2 + 1), complex)
    half[:, :outside] = coefficients
    values = np.fft.irfft(half, n=inputs.shape[1], axis=1) * inputs.shape[1]
    return values * network.scale.scale + network.scale.offset


@pytest.mark.parametrize("reflection", [-1, 0, 1])
@pytest.mark.parametrize(("grid", "modes"), [("line", (9, 7)), ("plane", (3, 2))])
def test_the_file_answers_as_the_network_on_unseen_inputs_at_every_batch_size(
    request, filtered, grid, modes, reflection
):
    data = request.getfixturevalue(grid)
    network = filtered(data, reflection, *modes)
    package, inputs = EXPORT(network, "float32", data.inputs), unseen(data)
    truth = np.asarray(eqx.filter_jit(network)(inputs), np.float64)
    for batch in (1, 7, 32, 1024):
        assert relative(package.predict(inputs[:batch]), truth[:batch]) < 2e-6


@pytest.mark.parametrize("reflection", [-1, 0, 1])
def test_the_file_computes_the_convolutions_of_the_equation(line, filtered, reflection):
    network, inputs = filtered(line, reflection), unseen(line, 50)
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(inputs), convolved(network, inputs)) < 2e-6


@pytest.mark.parametrize("samples", [16, 20, 64])
def test_any_number_of_samples_is_exported(line, filtered, samples):
    network, inputs = filtered(line, -1, samples=samples), unseen(line, 50)
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(inputs), np.asarray(network(inputs), np.float64)) < 2e-6


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
def test_each_number_format_of_a_trained_network_costs_no_more_than_it_says(line, trained, number_format):
    package, inputs = EXPORT(trained, number_format, line.inputs), unseen(line, 200)
    assert (
        relative(package.predict(inputs), np.asarray(trained(inputs), np.float64)) < LARGEST_DIFFERENCE[number_format]
    )
    model = onnx.load_model_from_string(package.file)
    onnx.checker.check_model(model, full_check=True)
    assert all(node.domain == "" for node in model.graph.node)
    complex_types = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
    assert not any(tensor.data_type in complex_types for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("reflection", [-1, 0, 1])
def test_the_file_stores_what_was_trained_and_less_than_fifty_numbers_more(line, filtered, reflection):
    package = EXPORT(filtered(line, reflection), "float32", line.inputs)
    # The constant has no imaginary part, inside nor outside.
    weights = WIDTH * (2 * (MODES + 1) - 1) + WIDTH + WIDTH * (2 * (OUTPUT_MODES + 1) - 1)
    assert weights < package.numbers < weights + 50


def test_a_larger_grid_stores_no_more_numbers(line, filtered):
    fine = OperatorDataset(np.repeat(line.inputs, 4, axis=1), np.repeat(line.outputs, 4, axis=1))
    coarse, refined = (EXPORT(filtered(data, -1), "float32", data.inputs) for data in (line, fine))
    assert refined.numbers == coarse.numbers


def test_tables_of_no_regular_grid_are_stored_and_answer_as_the_network(line, filtered):
    network = filtered(line, -1)
    noise = np.random.default_rng(0)

    def disturbed(table):
        return jax.numpy.asarray(np.asarray(table) * (1 + 0.01 * noise.standard_normal(table.shape)), jax.numpy.float32)

    def tables(net):
        return (net.table, net.sample_table, net.analysis, net.synthesis)

    network = eqx.tree_at(tables, network, tuple(disturbed(table) for table in tables(network)))
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(line.inputs), np.asarray(network(line.inputs), np.float64)) < 1e-5


@pytest.mark.parametrize("activation", ["relu", "gelu", "sin"])
def test_other_activations_are_exported(line, filtered, activation):
    network = filtered(line, -1, activation=activation)
    package = EXPORT(network, "float32", line.inputs)
    assert relative(package.predict(line.inputs), np.asarray(network(line.inputs), np.float64)) < 1e-5


def test_static_int8_computes_both_inner_products_in_eight_bits(line, trained):
    model = onnx.load_model_from_string(EXPORT(trained, "int8", line.inputs).file)
    shapes = {(MODES + 1, WIDTH), (MODES, WIDTH)}
    filters = [tensor for tensor in model.graph.initializer if tuple(tensor.dims) in shapes]
    assert [tensor.data_type for tensor in filters] == [TensorProto.INT8, TensorProto.INT8]
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2
