"""Students on boxes as files: what the runtimes answer beside the network, in every format it ships in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from foretrain.data import OperatorDataset
from foretrain.deployment import OnnxPackager, Runtime, write_numpy_predictor
from foretrain.models import FilteredBoxOperator

SHAPES = {"line": (17,), "plane": (9, 12)}


def packaged(shape, number_format="float32", dirichlet=True, **settings):
    """A network whose outer layer is not zero, its file, and inputs it has not seen."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij"), axis=-1)
    points = grid.reshape(-1, len(shape))
    inputs, outputs = 3 + rng.standard_normal((2, 60, len(points)))
    if dirichlet:
        outputs = outputs * np.all((points > 0) & (points < 1), axis=1)
    data = OperatorDataset(inputs, outputs, points, points)
    network = FilteredBoxOperator(4, modes=5, output_modes=4, **settings).initialise(data, jax.random.key(1))
    readout = jnp.asarray(rng.standard_normal(network.readout.shape))
    network = eqx.tree_at(lambda net: net.readout, network, readout)
    made = OnnxPackager(latency_repeats=3)(network, number_format, data.inputs, None)
    return network, made, 3 + rng.standard_normal((50, len(points)))


def difference(answer, truth):
    return np.linalg.norm(answer - np.asarray(truth)) / np.linalg.norm(np.asarray(truth))


@pytest.mark.parametrize("dirichlet", [True, False], ids=["clamped", "free"])
@pytest.mark.parametrize("grid", SHAPES)
def test_the_file_answers_as_the_network_at_every_batch_size(grid, dirichlet):
    network, made, inputs = packaged(SHAPES[grid], dirichlet=dirichlet)
    onnx.checker.check_model(onnx.load_model_from_string(made.file), full_check=True)
    runtime = Runtime(made.file)
    for batch in (1, 2, 50):
        assert difference(runtime.predict(inputs[:batch]), network(inputs[:batch])) < 2e-6


@pytest.mark.parametrize("activation", ["relu", "gelu", "cosine"])
def test_other_activations_and_constant_biases_ship_as_well(activation):
    network, made, inputs = packaged((17,), activation=activation, bias_modes=1)
    assert difference(made.predict(inputs), network(inputs)) < 2e-6


@pytest.mark.parametrize(("number_format", "limit"), [("float16", 2e-3), ("int8 weights", 3e-2)])
def test_smaller_numbers_make_a_smaller_file_that_still_answers(number_format, limit):
    _, single, _ = packaged((9, 12))
    network, made, inputs = packaged((9, 12), number_format)
    # At least a byte of every weight.
    assert single.bytes - made.bytes > network.filters.size + network.readout.size
    assert difference(made.predict(inputs), network(inputs)) < limit


def test_the_numpy_predictor_answers_as_the_network(tmp_path):
    network, made, inputs = packaged((9, 12))
    file = write_numpy_predictor(made.file, tmp_path / "predictor.py")
    space = {"__name__": "predictor", "__file__": str(file)}
    exec(compile(file.read_text(), str(file), "exec"), space)
    assert difference(space["predict"](inputs), network(inputs)) < 2e-6


def test_tables_of_waves_are_computed_not_stored():
    network, made, _ = packaged((9, 12))
    weights = sum(int(values.size) for values in (network.filters, network.biases, network.readout))
    assert weights <= made.numbers < weights + 150
