import logging
import tempfile

import equinox as eqx
import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from foretrain._foundation import DataError, ForetrainError
from foretrain.deployment import NUMBER_FORMATS, OnnxPackager, Runtime, write_model
from foretrain.models import ShallowFourierOperator

EXPORT = OnnxPackager(latency_repeats=3)
# Each format's distance from the network on the calibration inputs; a change for the worse must be seen.
LARGEST_DIFFERENCE = {"float32": 1e-6, "float16": 1e-3, "int8 weights": 0.01, "int8": 0.02}


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
@pytest.mark.parametrize("kind", ["fourier", "component"])
def test_each_number_format_costs_no_more_than_it_says(line, fitted, kind, number_format):
    package = EXPORT(fitted[kind], number_format, line.inputs[:40])
    truth = np.asarray(fitted[kind](line.inputs), np.float64)
    unseen = np.linalg.norm(package.predict(line.inputs[40:]) - truth[40:]) / np.linalg.norm(truth[40:])
    # The range of int8 activations is what 40 inputs reach: others are clipped now and then.
    assert unseen < 2 * LARGEST_DIFFERENCE[number_format]
    seen = np.linalg.norm(package.predict(line.inputs[:40]) - truth[:40]) / np.linalg.norm(truth[:40])
    assert package.difference < LARGEST_DIFFERENCE[number_format]
    assert package.difference == pytest.approx(seen, rel=1e-3, abs=1e-6)
    assert package.bytes == len(package.file)


def test_half_precision_halves_the_matrices(line, fitted):
    single, half = (EXPORT(fitted["component"], name, line.inputs) for name in ("float32", "float16"))
    matrices = sum(np.asarray(part).size for part in (fitted["component"].input_basis, fitted["component"].weights))
    assert half.bytes < single.bytes - 2 * matrices


def test_half_precision_survives_units_far_from_one(line, fourier):
    inputs = line.inputs * 1e9
    scaled = fourier(line)
    scaled = eqx.tree_at(lambda net: net.feature_scale, scaled, scaled.feature_scale * 1e-9)
    assert EXPORT(scaled, "float16", inputs).difference < 2e-3


def test_static_int8_computes_the_inner_layer_in_eight_bits(line, fitted):
    model = onnx.load_model_from_string(EXPORT(fitted["fourier"], "int8", line.inputs).file)
    filters = [tensor for tensor in model.graph.initializer if tuple(tensor.dims) == (13, 48)]
    assert [tensor.data_type for tensor in filters] == [TensorProto.INT8, TensorProto.INT8]
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
def test_the_same_network_gives_the_same_bytes(line, fitted, number_format):
    first, second = (EXPORT(fitted["fourier"], number_format, line.inputs, {"name": "twin"}) for _ in range(2))
    assert first.file == second.file


def test_quantising_leaves_no_files_and_no_log_handlers_behind(line, fitted, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = list(logging.getLogger().handlers)
    EXPORT(fitted["component"], "int8", line.inputs)
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


def test_pruned_filters_and_absent_modes_survive_quantisation(line, fitted):
    network = fitted["fourier"]
    network = eqx.tree_at(lambda net: net.filters, network, network.filters.at[3].set(0).at[:, 5].set(0))
    inputs = line.inputs - line.inputs.mean(axis=1, keepdims=True)
    for number_format in ("int8", "int8 weights"):
        assert EXPORT(network, number_format, inputs).difference < LARGEST_DIFFERENCE[number_format]


def test_a_file_written_and_read_back_answers_the_same(line, fitted, tmp_path):
    package = EXPORT(fitted["component"], "float32", line.inputs)
    path = write_model(package, tmp_path / "models" / "model.onnx")
    np.testing.assert_array_equal(Runtime(path).predict(line.inputs), package.predict(line.inputs))
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert write_model(package.file, path).read_bytes() == package.file


def test_a_file_that_lost_its_digits_is_refused(line, fourier):
    network = fourier(line)
    blind_to_the_mean = (network.filters.at[0].set(0), network.linear.at[0].set(0))
    network = eqx.tree_at(lambda net: (net.filters, net.linear), network, blind_to_the_mean)
    with pytest.raises(ForetrainError, match="single precision loses too many digits"):
        EXPORT(network, "float32", line.inputs + 1e5)


def test_an_untrained_network_can_be_packaged(line):
    network = ShallowFourierOperator(width=4, modes=3).initialise(line, jax.random.key(0))
    assert EXPORT(network, "int8", line.inputs).difference < 1e-5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 5)), r"expected an array \[functions, 64\], came \[3, 5\]"),
        (np.zeros((0, 64)), r"came \[0, 64\]"),
        (np.full((2, 64), np.nan), "expected finite numbers"),
    ],
)
def test_calibration_inputs_of_no_use_are_refused(fitted, inputs, message):
    with pytest.raises(DataError, match=message):
        EXPORT(fitted["fourier"], "float32", inputs)


def test_an_unknown_number_format_is_refused(line, fitted):
    with pytest.raises(ForetrainError, match="expected a number format of float32, float16, int8, int8 weights"):
        EXPORT(fitted["fourier"], "int4", line.inputs)
