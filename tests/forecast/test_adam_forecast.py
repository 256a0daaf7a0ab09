"""Forecasts of Adam against the recurrence with a dense Jacobian and against optax itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from foretrain._foundation import ForetrainError
from foretrain.forecast._adam import forecast_adam
from foretrain.forecast._adam_relay import TestFunctions
from foretrain.forecast._adam_stage import AdamSettings, Moments, adam_state, preconditioned
from foretrain.forecast._adam_stage import stage as adam_stage
from foretrain.forecast._block_krylov import block_krylov, extended
from foretrain.tangent import EmpiricalKernel

FUNCTIONS, POINTS = 6, 5


def network(weights, inputs, points):
    return jnp.tanh(inputs @ weights["branch"]) @ weights["outer"] @ jnp.tanh(points @ weights["trunk"]).T


def drawn(width, seed=0, dtype=jnp.float32, gain=1.0):
    rng = np.random.default_rng(seed)
    sizes = {"branch": (4, width), "outer": (width, width), "trunk": (2, width)}
    weights = {name: gain * rng.normal(size=size) / np.sqrt(size[0]) for name, size in sizes.items()}
    inputs, points = rng.normal(size=(FUNCTIONS, 4)), rng.normal(size=(POINTS, 2))
    target = np.sin(inputs[:, :1] + 2 * points[:, 0]) + 0.3 * points[:, 1]
    as_arrays = jax.tree.map(lambda value: jnp.asarray(value, dtype), (weights, inputs, points))
    return *as_arrays, target


def kernel_of(weights, inputs, points):
    return EmpiricalKernel(network, weights, inputs, points, chunk=4)


# One optimiser for every learning rate, which is an argument: each would compile the update anew.
ADAM = optax.adam(1.0)
COSINE = optax.cosine_decay_schedule(2e-3, 300)
ADAM_OF_COSINE = optax.adam(COSINE)


@functools.partial(jax.jit, static_argnames="optimiser")
def update(weights, state, inputs, points, target, loss_scale, rate, optimiser):
    def error(weights):
        return jnp.mean((network(weights, inputs, points) - target) ** 2)

    value, gradient = jax.value_and_grad(error)(weights)
    change, state = optimiser.update(jax.tree.map(lambda g: loss_scale * g, gradient), state, weights)
    return optax.apply_updates(weights, jax.tree.map(lambda c: rate * c, change)), state, value


def trained(weights, inputs, points, target, optimiser, steps, loss_scale=1.0, rate=1.0, state=None):
    """Weights, state, and the mean squared error before every step and after the last."""
    target = jnp.asarray(target, inputs.dtype)
    state, losses = optimiser.init(weights) if state is None else state, []
    for _ in range(steps):
        weights, state, value = update(weights, state, inputs, points, target, loss_scale, rate, optimiser)
        losses.append(float(value))
    losses.append(float(update(weights, state, inputs, points, target, loss_scale, rate, optimiser)[2]))
    return weights, state, np.array(losses)


@pytest.mark.parametrize("weight_decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_stage_is_the_recurrence_with_a_dense_jacobian(weight_decay):
    with jax.enable_x64(True):
        weights, inputs, points, target = drawn(7, dtype=jnp.float64)
        weights, state, _ = trained(weights, inputs, points, target, ADAM_OF_COSINE, 40, loss_scale=0.7)
        settings = AdamSettings(COSINE, weight_decay=weight_decay)
        moments = Moments.of(adam_state(state), settings)
        kernel = preconditioned(kernel_of(weights, inputs, points), moments.second, settings)
        residual = np.asarray(kernel.outputs()) - target
        told = adam_stage(kernel, weights, residual, moments, settings, 0.7, (5, 60, 200), 30, 0.0)

        flat, back = jax.flatten_util.ravel_pytree(weights)
        jacobian = np.asarray(jax.jacobian(lambda w: network(back(w), inputs, points).ravel())(flat))
        start, momentum, rates = (
            np.asarray(jax.flatten_util.ravel_pytree(tree)[0]) for tree in (weights, moments.momentum, kernel.rates)
        )
        now, losses, foretold = start.copy(), [], {}
        for step in range(201):
            left = residual.ravel() + jacobian @ (now - start)
            losses.append(np.mean(left**2))
            foretold[step] = now.copy(), momentum.copy()
            momentum = 0.9 * momentum + 0.1 * 0.7 * 2 / target.size * (jacobian.T @ left)
            direction = rates * momentum / (1 - 0.9 ** (40 + step + 1)) + weight_decay * now
            now = now - 1e-3 * (1 + np.cos(np.pi * (40 + step) / 300)) * direction
        assert told.curvature < 0.95
        np.testing.assert_allclose(told.loss, losses, rtol=1e-8)
        for mark in told.marks:
            for value, truth in zip((told.weights(mark), told.momentum(mark)), foretold[mark], strict=True):
                np.testing.assert_allclose(jax.flatten_util.ravel_pytree(value)[0], truth, rtol=1e-8, atol=1e-10)


def test_the_space_is_orthonormal_and_projects_the_operator():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(40, 40))
    matrix = root @ root.T
    starts = [rng.normal(size=(8, 5)) for _ in range(3)]

    def apply(vector):
        return (matrix @ vector.ravel()).reshape(8, 5)

    space = extended(block_krylov(apply, starts, 5), apply, 10)
    vectors = space.vectors
    assert (space.applied, len(vectors)) == (15, 18)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(18), atol=1e-12)
    np.testing.assert_allclose(matrix @ vectors[:15].T, vectors.T @ space.matrix, atol=1e-10)
    np.testing.assert_allclose(vectors.T @ space.coordinates, np.stack([s.ravel() for s in starts], 1), atol=1e-12)
    # The fourth block holds A^3 of every start.
    image = np.linalg.matrix_power(matrix, 3) @ starts[1].ravel()
    np.testing.assert_allclose(vectors.T @ (vectors @ image), image, rtol=1e-7)


def test_dependent_starts_and_invariant_spaces_add_nothing():
    values = np.diag([1.0, 2.0, 3.0, 0.0, 0.0])
    start = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    space = block_krylov(lambda vector: values @ vector, [start, 2 * start, start - 1 + 1], 5)
    assert space.exhausted
    assert space.applied == 3
    np.testing.assert_allclose(np.sort(space.projected()[0]), [1, 2, 3], atol=1e-12)


@pytest.mark.parametrize("weight_decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_a_short_forecast_is_what_optax_then_does(weight_decay):
    weights, inputs, points, target = drawn(32)
    schedule = optax.linear_schedule(1e-3, 2e-4, 600)
    optimiser = optax.chain(optax.adamw(schedule, weight_decay=weight_decay))
    weights, state, _ = trained(weights, inputs, points, target, optimiser, 200)
    settings = AdamSettings(schedule, weight_decay=weight_decay)
    moments = Moments.of(adam_state(state), settings)
    told = forecast_adam(kernel_of(weights, inputs, points), target, moments, settings, 100)
    _, _, truth = trained(weights, inputs, points, target, optimiser, 100, state=state)
    error = np.abs(np.log(told.loss / truth))
    assert np.max(error[:30]) < 0.02
    assert np.max(error) < 0.15
    assert np.all((told.lower < told.loss) & (told.loss < told.upper))


def test_the_scale_of_the_loss_and_of_its_gradient_is_respected():
    weights, inputs, points, target = drawn(32)
    optimiser, curves = optax.adam(1e-3, eps=1e-20), []
    for scale in (1.0, 100.0):
        state = trained(weights, inputs, points, target, optimiser, 100, loss_scale=scale)
        moments = Moments.of(adam_state(state[1]), AdamSettings(eps=1e-20))
        kernel = kernel_of(state[0], inputs, points)
        curves.append(forecast_adam(kernel, target, moments, AdamSettings(eps=1e-20), 50, loss_scale=scale).loss)
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-3)


def forecast_from(weights, inputs, points, target, rate, before, steps, **choices):
    settings = AdamSettings(rate)
    weights, state, _ = trained(weights, inputs, points, target, ADAM, before, rate=rate)
    told = forecast_adam(
        kernel_of(weights, inputs, points), target, Moments.of(adam_state(state), settings), settings, steps, **choices
    )
    return told, trained(weights, inputs, points, target, ADAM, steps, rate=rate, state=state)[2]


def test_the_horizon_shrinks_where_features_move_quickly():
    slow, _ = forecast_from(*drawn(32), 1e-5, 20, 200, relinearise=False)
    fast, _ = forecast_from(*drawn(32), 3e-2, 20, 200, relinearise=False)
    assert slow.horizon == 200
    assert fast.horizon < 100
    assert np.log(fast.upper / fast.lower)[-1] > 5 * np.log(slow.upper / slow.lower)[-1]


def test_the_horizon_is_where_the_real_network_at_the_foretold_weights_departs():
    told, _ = forecast_from(*drawn(32), 2e-3, 20, 200, relinearise=False)
    gaps = np.abs(np.log(told.measured / told.loss[told.marks]))
    within = np.maximum.accumulate(gaps) <= 0.2
    assert told.horizon == max(told.marks[within])


def test_linearising_anew_foretells_further():
    alone, truth = forecast_from(*drawn(32), 1e-3, 100, 400, relinearise=False)
    relay, _ = forecast_from(*drawn(32), 1e-3, 100, 400, applications=400)
    assert relay.stages > 1
    errors = [abs(np.log(told.loss[-1] / truth[-1])) for told in (alone, relay)]
    assert errors[1] < errors[0]
    assert relay.horizon >= alone.horizon


def test_training_at_the_edge_of_stability_does_not_explode():
    # A learning rate a hundred times that of the checkpoint is beyond what is stable for the frozen recurrence.
    weights, inputs, points, target = drawn(32)
    weights, state, _ = trained(weights, inputs, points, target, ADAM, 300, rate=1e-3)
    settings = AdamSettings(1e-1)
    told = forecast_adam(
        kernel_of(weights, inputs, points), target, Moments.of(adam_state(state), settings), settings, 300
    )
    assert told.curvature > 1
    assert np.all(np.isfinite(told.loss))
    assert told.loss[-1] <= told.loss[0]


def test_test_functions_are_foretold_with_the_network():
    weights, inputs, points, target = drawn(32)
    settings = AdamSettings(1e-4)
    weights, state, _ = trained(weights, inputs, points, target, ADAM, 100, rate=1e-4)
    others = jax.random.normal(jax.random.key(3), (4, 4))
    truth = np.asarray(jnp.sin(others[:, :1] + 2 * points[:, 0]) + 0.3 * points[:, 1], np.float64)
    test = TestFunctions(others, points, truth)
    moments = Moments.of(adam_state(state), settings)
    told = forecast_adam(kernel_of(weights, inputs, points), target, moments, settings, 200, test=test)
    for mark, error in zip(told.marks, told.test_error, strict=True):
        later, _, _ = trained(weights, inputs, points, target, ADAM, int(mark), rate=1e-4, state=state)
        real = test.error(np.asarray(network(later, others, points), np.float64))
        assert error == pytest.approx(real, rel=0.02)


def test_optimisers_without_one_adam_are_refused():
    weights = drawn(4)[0]
    assert int(adam_state(optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(weights)).count) == 0
    with pytest.raises(ForetrainError, match="expected one Adam"):
        adam_state(optax.sgd(1e-3).init(weights))
    with pytest.raises(ForetrainError, match="at least one step"):
        Moments.of(adam_state(ADAM.init(weights)), AdamSettings())


def test_targets_of_another_shape_are_refused():
    weights, inputs, points, target = drawn(4)
    _, state, _ = trained(weights, inputs, points, target, ADAM, 2, rate=1e-3)
    moments = Moments.of(adam_state(state), AdamSettings())
    with pytest.raises(ForetrainError, match=r"expected a target of shape \(6, 5\), came \(5, 6\)"):
        forecast_adam(kernel_of(weights, inputs, points), target.T, moments, AdamSettings(), 10)
