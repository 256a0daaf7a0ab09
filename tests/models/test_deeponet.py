import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.data import OperatorDataset, OutputScale
from foretrain.models import DeepONet
from foretrain.problems import antiderivative
from foretrain.tangent import empirical_kernel

SMALL = {"width": 6, "outputs": 5, "branch_depth": 3, "trunk_depth": 2}


@pytest.fixture(scope="module")
def line():
    return antiderivative(samples=12, resolution=9)


def drawn(data, key=0, **settings):
    """A small network whose biases are not zero, as after some training."""
    network = DeepONet(**(SMALL | settings)).initialise(data, jax.random.key(key))
    rng = np.random.default_rng(key)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if leaf.ndim < 2 else leaf, network
    )


def dense(layers, values, sigma):
    for number, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        values = (sigma(values) if number else values) @ np.asarray(weight, np.float64) + np.asarray(bias, np.float64)
    return values


def term_by_term(network, data, sigma, ends_active):
    """The equation of the docstring, one term after the other, in double precision."""
    embedding = network.embedding
    inputs = np.column_stack([embedding.input_scale * data.inputs, np.ones(len(data))])
    axis = 2 * (data.query_points[:, 0] - embedding.lower[0]) / embedding.period[0] - 1
    trunk = dense(network.trunk, np.column_stack([axis, np.ones(len(axis))]), sigma)
    trunk, branch = sigma(trunk) if ends_active else trunk, dense(network.branch, inputs, sigma)
    result = np.full((len(inputs), len(axis)), float(network.bias))
    for k in range(branch.shape[1]):
        result += np.outer(branch[:, k], trunk[:, k])
    return result * network.scale.scale + network.scale.offset


@pytest.mark.parametrize("ends_active", [True, False])
@pytest.mark.parametrize(("activation", "sigma"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_the_network_is_the_dot_product_of_its_equation(line, activation, sigma, ends_active, double):
    network = drawn(line, activation=activation, trunk_ends_active=ends_active)
    expected = term_by_term(network, line, sigma, ends_active)
    np.testing.assert_allclose(network(line.inputs, line.query_points), expected, rtol=1e-12, atol=1e-12)


def test_single_precision_is_the_same_up_to_rounding(line):
    network = drawn(line)
    outputs = network(line.inputs, line.query_points)
    assert outputs.dtype == jnp.float32
    expected = term_by_term(network, line, np.tanh, True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * np.abs(expected).max())


def test_any_query_point_has_the_same_value_alone_or_among_others(line):
    network = drawn(line)
    points = np.array([[0.123], [0.9], [0.5]])
    together = network(line.inputs, points)
    for column, point in enumerate(points):
        np.testing.assert_allclose(network(line.inputs, point[None])[:, 0], together[:, column], rtol=1e-4, atol=1e-6)


def test_on_a_periodic_grid_the_outputs_close_up(small_burgers):
    network = DeepONet(**SMALL).initialise(small_burgers, jax.random.key(0))
    inputs = small_burgers.inputs[:5]
    start, end = network(inputs, np.array([[0.0]])), network(inputs, np.array([[1.0]]))
    np.testing.assert_allclose(start, end, atol=1e-5 * np.abs(start).max())


def test_hidden_layers_outputs_and_depths_are_the_settings(line):
    network = DeepONet(**SMALL).initialise(line, jax.random.key(0))
    assert [weight.shape for weight in network.branch.weights] == [(10, 6), (6, 6), (6, 5)]
    assert [weight.shape for weight in network.trunk.weights] == [(2, 6), (6, 5)]
    assert DeepONet(**SMALL).parameter_count(line) == sum(leaf.size for leaf in jax.tree.leaves(network))
    assert DeepONet(width=6).initialise(line, jax.random.key(0)).trunk.weights[-1].shape == (6, 6)


def test_weights_have_glorots_variance_and_biases_start_at_zero(line):
    network = DeepONet(width=300, branch_depth=3, trunk_depth=3).initialise(line, jax.random.key(1))
    for layers in (network.branch, network.trunk):
        for weight, bias in zip(layers.weights, layers.biases, strict=True):
            values = np.asarray(weight, np.float64).ravel() / np.sqrt(2 / sum(weight.shape))
            assert abs(np.mean(values**2) - 1) < 4 * np.sqrt(2 / len(values))
            np.testing.assert_array_equal(bias, 0)
    assert network.bias == 0


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("width", [16, 128, 1024])
def test_initial_outputs_are_of_order_one_at_every_width(small_plane, width, activation):
    networks = [DeepONet(width, activation=activation).initialise(small_plane, jax.random.key(key)) for key in range(4)]
    embedding = networks[0].embedding
    arrays = embedding.inputs(small_plane.inputs), embedding.points(small_plane.query_points)
    size = np.sqrt(np.mean([np.mean(np.square(network.normalised(*arrays))) for network in networks]))
    assert 0.15 < size < 3


def test_units_of_inputs_and_outputs_are_the_datas(line):
    other = OperatorDataset(1e6 * line.inputs, 300 - 40 * line.outputs, line.sensor_points, line.query_points)
    ours, theirs = (
        np.asarray(DeepONet(**SMALL).initialise(data, jax.random.key(0))(data.inputs, data.query_points), np.float64)
        for data in (line, other)
    )
    normalised, expected = OutputScale.of(line.outputs).normalise(ours), OutputScale.of(other.outputs).normalise(theirs)
    np.testing.assert_allclose(normalised, expected, atol=1e-4)


def test_the_same_key_gives_the_same_weights_and_another_key_others(line):
    first, again, other = (DeepONet(**SMALL).initialise(line, jax.random.key(key)) for key in (3, 3, 4))
    matrices = ([leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 2] for tree in (first, again, other))
    for ours, same, different in zip(*matrices, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.any(np.asarray(ours) == np.asarray(different))


def test_the_tangent_kernel_is_the_dense_product_of_jacobians(line, dense_jacobian):
    network = drawn(line)
    own = dense_jacobian(network, line)
    right = np.random.default_rng(0).normal(size=line.outputs.shape)
    pulled = own.T @ right.ravel()
    others, elsewhere = line.inputs[:3] ** 2, np.array([[0.21], [0.77]])
    kernel = empirical_kernel(network, line)
    for applied, truth in (
        (kernel.apply(right), own @ pulled),
        (kernel.apply_to(right, others, elsewhere), dense_jacobian(network, line, others, elsewhere) @ pulled),
    ):
        assert np.linalg.norm(applied.ravel() - truth) < 2e-5 * np.linalg.norm(truth)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_adam_learns_the_training_functions(line, activation, losses_of_adam):
    network = DeepONet(width=32, activation=activation).initialise(line, jax.random.key(0))
    losses = losses_of_adam(network, line, steps=300)
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.03 * losses[0]


def test_a_network_that_cannot_fit_into_memory_is_not_drawn(line):
    with pytest.raises(MemoryBudgetError, match="choose smaller widths"):
        DeepONet(width=10_000_000).initialise(line, jax.random.key(0))


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"branch_depth": 0}, {"trunk_depth": -1}, {"outputs": 0}, {"activation": "?"}]
)
def test_impossible_models_are_refused(arguments):
    with pytest.raises(ForetrainError, match="expected"):
        DeepONet(**arguments)
