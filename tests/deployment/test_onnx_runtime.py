import numpy as np
import pytest
from onnx import TensorProto, helper

from foretrain._foundation import DataError, ForetrainError
from foretrain.deployment import OnnxPackager, Runtime

EXPORT = OnnxPackager(latency_repeats=3)


@pytest.fixture(scope="module")
def package(line, fitted):
    return EXPORT(fitted["fourier"], "float32", line.inputs, {"name": "burgers", "test_error": 0.0072})


def test_answers_do_not_depend_on_what_else_is_in_the_batch(package, line):
    inputs = np.tile(line.inputs, (2, 1))
    together = package.predict(inputs)
    alone = np.concatenate([package.predict(row[None]) for row in inputs[:5]])
    np.testing.assert_allclose(together[:5], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together[:60], together[60:], rtol=1e-5, atol=1e-6)


def test_threads_do_not_change_the_answer(package, line):
    np.testing.assert_allclose(
        Runtime(package.file, threads=2).predict(line.inputs), package.predict(line.inputs), rtol=1e-5, atol=1e-6
    )


def test_the_card_is_read_back_from_the_file(package, line):
    metadata = Runtime(package.file).metadata
    assert metadata["name"] == "burgers"
    assert metadata["test_error"] == 0.0072
    assert metadata["input_range"] == [line.inputs.min(), line.inputs.max()]


def test_latency_percentiles_are_ordered_and_throughput_follows(package):
    latency = package.runtime.latency(batch=8, repeats=30)
    assert 0 < latency.tenth <= latency.median <= latency.ninetieth
    assert latency.throughput == pytest.approx(8 / latency.median)


@pytest.mark.parametrize(("batch", "repeats"), [(0, 5), (1, 0)])
def test_latency_of_nothing_is_refused(package, batch, repeats):
    with pytest.raises(ForetrainError, match="expected at least 1 function and 1 repeat"):
        package.runtime.latency(batch, repeats)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ForetrainError, match=r"missing\.onnx: expected a model file, came none"):
        Runtime(tmp_path / "missing.onnx")
    with pytest.raises(ForetrainError, match="expected a model file"):
        Runtime(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_refused_in_one_silent_line(package, share, capfd):
    with pytest.raises(ForetrainError, match="expected an ONNX model") as caught:
        Runtime(package.file[: int(share * len(package.file))])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a model")
    with pytest.raises(ForetrainError, match=r"notes\.txt: expected an ONNX model"):
        Runtime(path)


def test_a_model_of_another_shape_is_refused():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "other", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ForetrainError, match="give a file that foretrain exported"):
        Runtime(model.SerializeToString())


def test_no_threads_is_refused(package):
    with pytest.raises(ForetrainError, match="expected at least 1 thread, came 0"):
        Runtime(package.file, threads=0)


@pytest.mark.parametrize("shape", [(3, 65), (64,), (2, 64, 1)])
def test_another_number_of_sensors_is_refused(package, shape):
    with pytest.raises(DataError, match=r"expected values at 64 sensors, \[functions, 64\], came an array of shape"):
        package.predict(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_in_single_precision_are_refused(package, value):
    inputs = np.zeros((3, 64))
    inputs[2, 7] = value
    with pytest.raises(DataError, match="the first in row 2"):
        package.predict(inputs)


def test_complex_values_are_refused(package):
    with pytest.raises(DataError, match="expected real numbers, came values of type complex128"):
        package.predict(np.zeros((1, 64), complex))


def test_no_functions_give_no_answers(package):
    assert package.predict(np.zeros((0, 64))).shape == (0, 64)
