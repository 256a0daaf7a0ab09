"""Forecasts of networks of any kind, against their own training written out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.data import mean_relative_error
from foretrain.forecast import (
    Cost,
    GradientDescent,
    HeavyBall,
    WidthDeviation,
    forecast,
    measure_cost,
)
from foretrain.forecast._cost import step_bytes
from foretrain.models import FNO, MLP, DeepONet, ShallowOperator, draw_network
from foretrain.tangent import limit_kernel

STEPS = 100
COST = Cost(1e-4, 10**6)
MARKS = np.array([1, 3, 10, 30, 60, STEPS])


def flat(spread=0.0):
    """A deviation that corrects nothing, for what is not about pilots."""
    each = {name: np.full(2, spread) for name in ("infinite width", "drawn weights")}
    return WidthDeviation(np.array([0.0, STEPS]), each, each, 1, 4)


def train_by_hand(network, data, test, step_size, rates=None):
    """Losses and test errors of gradient descent, from gradients of the loss in single precision."""
    arrays = [network.embedding.inputs(data.inputs), network.embedding.points(data.query_points)]
    inputs, points = (jnp.asarray(array, jnp.float32) for array in arrays)
    target = jnp.asarray((data.outputs - data.outputs.mean()) / data.outputs.std(), jnp.float32)
    moving, fixed = eqx.partition(network, network.trained())

    def loss(weights):
        return 0.5 * jnp.sum((eqx.combine(weights, fixed).normalised(inputs, points) - target) ** 2)

    @jax.jit
    def step(weights):
        value, slope = jax.value_and_grad(loss)(weights)
        named = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * (rates or {}).get(path[0].name, 1.0) * step_size, slope
        )
        return jax.tree.map(jnp.subtract, weights, named), 2 * value / target.size

    losses, errors = {}, {}
    for done in range(STEPS + 1):
        after, value = step(moving)
        if done in MARKS:
            losses[done] = float(value)
            outputs = eqx.combine(moving, fixed)(test.inputs, test.query_points)
            errors[done] = mean_relative_error(np.asarray(outputs), test.outputs)
        moving = after
    return np.array([losses[mark] for mark in MARKS]), np.array([errors[mark] for mark in MARKS])


def compared(split, model, **known):
    """The forecast, and logarithms of what training did relative to it."""
    train, test = split
    told = forecast(train, model, None, STEPS, test, cost=COST, **known)
    losses, errors = train_by_hand(draw_network(model, train, 0), train, test, told.step_size)
    return told, np.log(losses / told.loss[MARKS]), np.log(errors / told.test_error[MARKS])


def test_a_wide_deeponet_follows_its_forecast_without_any_correction(split):
    told, loss, error = compared(split, DeepONet(512), deviation=flat())
    assert told.basis == "drawn weights"
    assert told.worst_case_loss is told.worst_case_rate is None
    assert np.abs(loss).max() < 0.01
    assert np.abs(error).max() < 0.01


def test_a_wide_mlp_follows_its_forecast_within_a_few_per_cent(split):
    told, loss, error = compared(split, MLP(512))
    assert np.abs(loss).max() < 0.04
    assert np.abs(error).max() < 0.02
    band = np.log(told.upper / told.lower)[MARKS] / 2
    assert np.all(np.abs(loss) < band)
    assert band.max() < 0.15


def test_pilots_correct_a_narrow_networks_forecast_where_features_move(split):
    told, loss, error = compared(split, MLP(16))
    measured = told.loss[MARKS] * np.exp(loss)
    assert np.all((told.lower[MARKS] < measured) & (measured < told.upper[MARKS]))
    # Without its pilots' mean deviation the same band would not hold.
    correction = told.loss_correction[MARKS]
    bare = told.loss[MARKS] * np.exp(-correction)
    assert measured[-1] < bare[-1] * (told.lower / told.loss)[STEPS]
    assert np.abs(loss[-1]) < 0.3 * np.abs(loss[-1] + correction[-1])
    assert np.abs(error[-1]) < 0.5 * np.abs(error[-1] + told.test_correction[STEPS])


def test_step_sizes_by_group_are_forecast_as_they_train(split):
    train, test = split
    rates = {"trunk": 4.0, "branch": 0.25}
    model, method = DeepONet(512), GradientDescent(rates=rates)
    told = forecast(train, model, method, STEPS, test, cost=COST, deviation=flat())
    losses, errors = train_by_hand(draw_network(model, train, 0), train, test, told.step_size, rates)
    np.testing.assert_allclose(told.loss[MARKS], losses, rtol=0.02)
    np.testing.assert_allclose(told.test_error[MARKS], errors, rtol=0.02)
    plain = forecast(train, model, None, STEPS, cost=COST, deviation=flat())
    assert np.abs(np.log(plain.loss / told.loss)).max() > 0.1


def test_a_given_module_is_forecast_as_the_model_that_drew_it(split):
    train, test = split
    model = DeepONet(24)
    module = draw_network(model, train, 5)
    method, known = HeavyBall(0.9, rates={"trunk": 3.0}), {"deviation": flat(0.1), "cost": COST}
    drawn = forecast(train, model, method, STEPS, test, key=5, **known)
    given = forecast(train, module, method, STEPS, test, key=99, **known)
    assert given.step_size == pytest.approx(drawn.step_size, rel=1e-4)
    for name in ("loss", "upper", "test_error"):
        np.testing.assert_allclose(getattr(given, name), getattr(drawn, name), rtol=1e-3)
    # Another draw is another forecast.
    other = forecast(train, model, method, STEPS, test, key=6, **known)
    assert np.abs(np.log(other.loss / drawn.loss)).max() > 0.05


@pytest.mark.parametrize("kind", ["MLP", "DeepONet", "FNO", "module"])
def test_infinite_width_is_refused_for_what_has_no_such_kernel(split, kind):
    model = {"MLP": MLP(8), "DeepONet": DeepONet(8), "FNO": FNO(4), "module": lambda inputs, points: inputs}[kind]
    with pytest.raises(ForetrainError, match="expected a shallow operator, came") as refused:
        forecast(split[0], model, None, STEPS, basis="infinite width", deviation=flat(), cost=COST)
    assert 'basis="drawn weights"' in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_theorems_curve_of_a_shallow_operator_is_that_of_gradient_descent_alone(split):
    def worst(model, method=None):
        told = forecast(split[0], model, method, 10, deviation=flat(), cost=COST)
        return told.worst_case_loss, told.worst_case_rate

    curve, rate = worst(ShallowOperator(64, 4))
    assert rate > 0
    np.testing.assert_allclose(curve, curve[0] * (1 - rate) ** np.arange(11), rtol=1e-10)
    assert worst(ShallowOperator(64, 4), HeavyBall()) == (None, None)


def dense_jacobians(network, data):
    """Of the normalised outputs, [outputs, weights] for each group."""
    inputs, points = network.embedding.inputs(data.inputs), network.embedding.points(data.query_points)
    inputs, points = jnp.asarray(inputs, jnp.float32), jnp.asarray(points, jnp.float32)

    @jax.jit
    def jacobians(trunk, branch, outer):
        def outputs(*weights):
            return eqx.tree_at(lambda n: (n.trunk, n.branch, n.outer), network, weights).normalised(inputs, points)

        return jax.jacrev(outputs, argnums=(0, 1, 2))(trunk, branch, outer)

    return jacobians


@pytest.mark.parametrize("form", ["block", "shared"])
def test_the_limit_with_step_sizes_by_group_is_the_mean_over_draws_group_by_group(split, form):
    data = split[0].take(slice(0, 3))
    model = ShallowOperator(32, 8 if form == "block" else 64, form=form, train_outer=True)
    rates = {"trunk": 3.0, "branch": 0.5, "outer": 20.0}
    jacobians = dense_jacobians(draw_network(model, data, 0), data)
    kernels = []
    for key in range(100):
        network = draw_network(model, data, key)
        parts = jacobians(network.trunk, network.branch, network.outer)
        flat_parts = [np.asarray(part, np.float64).reshape(data.outputs.size, -1) for part in parts]
        kernels.append([part @ part.T for part in flat_parts])
    kernels = np.array(kernels)
    weighted = np.einsum("g,kgij->kij", list(rates.values()), kernels)
    for given, drawn in ((rates, weighted), (None, kernels.sum(axis=1)), ({"outer": 0.0}, kernels[:, :2].sum(axis=1))):
        gram = limit_kernel(model, data, given).gram(data.inputs, data.query_points)
        ends = np.eye(data.outputs.size).reshape(-1, *data.outputs.shape)
        expected = np.array([gram.apply(end).ravel() for end in ends])
        error = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
        assert np.abs((drawn.mean(axis=0) - expected) / error).max() < 4.5
        assert error.max() < 0.1 * expected.max()


def test_unknown_groups_and_none_to_forecast_are_refused(split):
    for model in (DeepONet(24), ShallowOperator(64, 4)):
        with pytest.raises(ForetrainError, match=r"step sizes by group: expected some of.*came encoder"):
            forecast(split[0], model, GradientDescent(rates={"encoder": 2.0}), STEPS, deviation=flat(), cost=COST)
    with pytest.raises(ForetrainError, match="at least one step"):
        forecast(split[0], DeepONet(8), None, 0, deviation=flat(), cost=COST)


@pytest.mark.parametrize("kind", ["MLP", "module"])
def test_a_steps_cost_is_measured_and_its_memory_grows_with_the_functions(split, kind):
    data = split[0]
    model = MLP(32) if kind == "MLP" else draw_network(DeepONet(24), data, 0)
    assert measure_cost(model, data).seconds_per_step > 0
    sizes = [step_bytes(model, data.take(slice(0, functions))) for functions in (10, 20, 40)]
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert second == 2 * first
    # Differentiation keeps at least the hidden layer's values and the outputs of every function.
    assert first >= 4 * 10 * (24 + data.outputs.shape[1])
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(draw_network(model, data, 0)) if eqx.is_inexact_array(leaf))
    assert sizes[0] - first >= 2 * weights
