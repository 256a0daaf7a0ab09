import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.data import OperatorDataset, choose_embedding
from foretrain.models import MLP
from foretrain.problems import antiderivative
from foretrain.tangent import empirical_kernel


@pytest.fixture(scope="module")
def line():
    return antiderivative(samples=12, resolution=9)


def scaled(data, inputs=1.0, outputs=1.0, offset=0.0):
    return OperatorDataset(inputs * data.inputs, outputs * data.outputs + offset, data.sensor_points, data.query_points)


def layer_by_layer(network, data, sigma):
    """The equation of the docstring with explicit sums, in double precision."""
    embedding, layers = network.embedding, network.layers
    values = np.column_stack([embedding.input_scale * data.inputs, np.ones(len(data))])
    for number, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        values = (sigma(values) if number else values) @ np.asarray(weight, np.float64) + np.asarray(bias, np.float64)
    return values * network.scale.scale + network.scale.offset


def with_biases(network, key=9):
    """The same network with biases that show."""
    keys = jax.random.split(jax.random.key(key), len(network.layers.biases))
    biases = tuple(
        jax.random.normal(key, bias.shape, bias.dtype) for key, bias in zip(keys, network.layers.biases, strict=True)
    )
    return eqx.tree_at(lambda tree: tree.layers.biases, network, biases)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_network_is_its_equation(line, depth, double):
    network = with_biases(MLP(width=7, depth=depth).initialise(line, jax.random.key(0)))
    expected = layer_by_layer(network, line, np.tanh)
    np.testing.assert_allclose(network(line.inputs, line.query_points), expected, rtol=1e-12, atol=1e-13)


def test_single_precision_is_the_same_up_to_rounding(line):
    network = MLP(width=7).initialise(line, jax.random.key(0))
    outputs = network(line.inputs)
    assert outputs.dtype == jnp.float32
    expected = layer_by_layer(network, line, np.tanh)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * np.abs(expected).max())


def test_weights_have_glorots_variance_and_biases_start_at_zero(line):
    network = MLP(width=300, depth=3).initialise(line, jax.random.key(1))
    for weight, bias in zip(network.layers.weights, network.layers.biases, strict=True):
        values = np.asarray(weight, np.float64).ravel() / np.sqrt(2 / sum(weight.shape))
        assert abs(values.mean()) < 4 / np.sqrt(len(values))
        assert abs(np.mean(values**2) - 1) < 4 * np.sqrt(2 / len(values))
        np.testing.assert_array_equal(bias, 0)


def test_every_sensor_enters_at_unit_root_mean_square(line):
    embedded = MLP().embedding_for(line).inputs(line.inputs)
    assert np.sqrt(np.mean(embedded[:, :-1] ** 2)) == pytest.approx(1)


@pytest.mark.parametrize("width", [16, 128, 1024])
def test_initial_outputs_are_of_order_one_at_every_width(line, width):
    networks = [MLP(width).initialise(line, jax.random.key(key)) for key in range(4)]
    embedded = networks[0].embedding.inputs(line.inputs)
    size = np.sqrt(np.mean([np.mean(np.square(network.normalised(embedded))) for network in networks]))
    assert 0.1 < size < 2


def test_units_of_inputs_and_outputs_are_the_datas(line):
    model, key = MLP(width=7), jax.random.key(0)
    ours = model.initialise(line, key)(line.inputs)
    other = scaled(line, inputs=1e6, outputs=-40.0, offset=300.0)
    theirs = model.initialise(other, key)(other.inputs)
    offset, scale = np.mean(line.outputs), np.std(line.outputs)
    expected = (np.asarray(ours) - offset) / scale * np.std(other.outputs) + np.mean(other.outputs)
    np.testing.assert_allclose(theirs, expected, atol=1e-4 * np.std(other.outputs))


def test_a_chosen_embedding_is_used(line):
    embedding = choose_embedding(line, input_norm=0.3)
    network = MLP(width=7, embedding=embedding).initialise(line, jax.random.key(0))
    expected = layer_by_layer(network, line, np.tanh)
    assert network.embedding == embedding
    np.testing.assert_allclose(network(line.inputs), expected, atol=1e-5 * np.abs(expected).max())


def test_the_same_key_gives_the_same_weights_and_another_key_others(line):
    first, again, other = (MLP(width=7).initialise(line, jax.random.key(key)) for key in (3, 3, 4))
    for ours, same, different in zip(*(tree.layers.weights for tree in (first, again, other)), strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.any(np.asarray(ours) == np.asarray(different))


def test_other_points_are_refused_and_rounded_ones_are_not(line):
    network = MLP(width=7).initialise(line, jax.random.key(0))
    expected = network(line.inputs)
    np.testing.assert_array_equal(network(line.inputs, line.query_points.astype(np.float32)), expected)
    with pytest.raises(ForetrainError, match=r"the network's own 9, came others; train a DeepONet"):
        network(line.inputs, line.query_points + 0.01)
    with pytest.raises(ForetrainError, match=r"= \(9, 1\), came \(5, 1\)"):
        network(line.inputs, line.query_points[:5])
    with pytest.raises(ForetrainError, match=r"= \(9, 1\), came \(5, 1\)"):
        eqx.filter_jit(network)(line.inputs, line.query_points[:5])


def test_the_points_are_not_trained(line):
    network = MLP(width=7, depth=2).initialise(line, jax.random.key(0))
    moved = jax.tree.leaves(eqx.filter(network, network.trained()))
    assert [leaf.shape for leaf in moved] == [(10, 7), (7, 9), (7,), (9,)]
    assert MLP(width=7, depth=2).parameter_count(line) == sum(leaf.size for leaf in moved)


def test_the_tangent_kernel_is_the_dense_product_of_jacobians(line, dense_jacobian):
    network = with_biases(MLP(width=7).initialise(line, jax.random.key(5)))
    jacobian = dense_jacobian(network, line)
    right = np.random.default_rng(0).normal(size=line.outputs.shape)
    truth = jacobian @ (jacobian.T @ right.ravel())
    applied = empirical_kernel(network, line).apply(right).ravel()
    assert np.linalg.norm(applied - truth) < 2e-5 * np.linalg.norm(truth)


def test_adam_learns_the_training_functions(line, losses_of_adam):
    losses = losses_of_adam(MLP(width=32).initialise(line, jax.random.key(0)), line, steps=300)
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 1e-3 * losses[0]


def test_a_network_that_cannot_fit_into_memory_is_not_drawn(line):
    with pytest.raises(MemoryBudgetError, match="choose smaller widths"):
        MLP(width=10_000_000).initialise(line, jax.random.key(0))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"depth": 0}, {"activation": "?"}])
def test_impossible_models_are_refused(arguments):
    with pytest.raises(ForetrainError, match="expected"):
        MLP(**arguments)
