import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from foretrain.training import optimal_outer_layer, refit_outer_layer, variable_projection
from foretrain.training._variable_projection import _reduced_loss

EPSILON = np.finfo(np.float32).eps
NEURONS, OUTPUTS = 4, 2


def hidden(weights, rows):
    neurons = jnp.tanh(rows @ weights["filters"] + weights["biases"])
    return jnp.concatenate([neurons, jnp.ones((len(rows), 1), rows.dtype)], axis=-1)


def hidden_by_hand(filters, biases, rows):
    return np.column_stack([np.tanh(rows @ filters + biases), np.ones(len(rows))])


@pytest.fixture(scope="module")
def problem():
    """Rows, noisy targets of a teacher of the student's own form, and inner weights somewhat off the teacher's."""
    rng = np.random.default_rng(0)
    rows, filters, biases = (
        rng.standard_normal((60, 3)),
        rng.standard_normal((3, NEURONS)),
        rng.standard_normal(NEURONS),
    )
    outer = rng.standard_normal((NEURONS + 1, OUTPUTS))
    targets = hidden_by_hand(filters, biases, rows) @ outer + 0.1 * rng.standard_normal((60, OUTPUTS))
    start = {
        "filters": filters + 0.3 * rng.standard_normal(filters.shape),
        "biases": biases + 0.3 * rng.standard_normal(NEURONS),
    }
    return rows, targets, start


def single(values):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), values)


def test_the_slope_of_the_reduced_loss_is_that_of_the_loss_with_the_outer_layer_solved_for(problem):
    rows, targets, start = problem

    def reduced(flat):
        features = hidden_by_hand(flat["filters"], flat["biases"], rows)
        outer = np.linalg.lstsq(features, targets, rcond=None)[0]
        return np.sum((features @ outer - targets) ** 2) / np.sum(targets**2)

    with jax.enable_x64(True):
        value, slope = _reduced_loss(hidden, jax.tree.map(jnp.asarray, start), jnp.asarray(rows), jnp.asarray(targets))
        point, restore = ravel_pytree(start)
        steps = 1e-5 * np.eye(len(point))
        differences = [(reduced(restore(point + step)) - reduced(restore(point - step))) / 2e-5 for step in steps]
        slope = np.asarray(ravel_pytree(slope)[0])
    assert float(value) == pytest.approx(reduced(start), rel=1e-6)
    # The outer layer carries a relative ridge of 1e-6, the least-squares solution none.
    assert np.linalg.norm(slope - differences) < 1e-3 * np.linalg.norm(differences)


def test_it_reaches_the_optimum_of_descending_in_all_weights(problem):
    rows, targets, start = problem
    result = variable_projection(hidden, single(start), single(rows), single(targets), evaluations=300)

    def residual(all_weights):
        filters, biases, outer = np.split(all_weights, [3 * NEURONS, 4 * NEURONS])
        features = hidden_by_hand(filters.reshape(3, NEURONS), biases, rows)
        return (features @ outer.reshape(NEURONS + 1, OUTPUTS) - targets).ravel()

    outer = np.linalg.lstsq(hidden_by_hand(start["filters"], start["biases"], rows), targets, rcond=None)[0]
    joint = np.concatenate([start["filters"].ravel(), start["biases"], outer.ravel()])
    best = scipy.optimize.least_squares(residual, joint, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert best.status > 0
    assert result.error == pytest.approx(np.sqrt(2 * best.cost) / np.linalg.norm(targets), rel=1e-5)
    np.testing.assert_allclose(np.ravel(result.weights["filters"]), best.x[: 3 * NEURONS], atol=5e-3)
    np.testing.assert_allclose(result.weights["biases"], best.x[3 * NEURONS : 4 * NEURONS], atol=5e-3)


@pytest.mark.parametrize("evaluations", [1, 2, 7])
def test_no_more_evaluations_than_allowed_and_the_best_of_them_is_kept(problem, evaluations):
    rows, targets, start = problem
    heard = []

    def listen(stage, done, total, figures=None):
        heard.append((stage, done, total, figures["error"]))

    arguments = (hidden, single(start), single(rows), single(targets))
    result = variable_projection(*arguments, evaluations=evaluations, progress=listen, stage="here")
    assert result.evaluations == evaluations
    assert [done for _, done, _, _ in heard] == [*range(1, evaluations + 1), evaluations]
    assert {(stage, total) for stage, _, total, _ in heard} == {("here", evaluations)}
    errors = [error for *_, error in heard]
    assert errors == sorted(errors, reverse=True)
    assert result.error == errors[-1]
    features = hidden_by_hand(*(np.asarray(result.weights[name], np.float64) for name in ("filters", "biases")), rows)
    outer = np.linalg.lstsq(features, targets, rcond=None)[0]
    remaining = np.linalg.norm(features @ outer - targets) / np.linalg.norm(targets)
    assert result.error == pytest.approx(remaining, rel=1e-5)
    again = variable_projection(*arguments, evaluations=evaluations)
    np.testing.assert_array_equal(again.weights["filters"], result.weights["filters"])


def test_more_evaluations_never_end_worse(problem):
    rows, targets, start = problem
    arguments = (hidden, single(start), single(rows), single(targets))
    errors = [variable_projection(*arguments, evaluations=count).error for count in (1, 3, 10, 30, 100)]
    assert errors == sorted(errors, reverse=True)


def test_the_optimal_outer_layer_is_least_squares(problem):
    rows, targets, start = problem
    features = hidden_by_hand(start["filters"], start["biases"], rows)
    exact = np.linalg.lstsq(features, targets, rcond=None)[0]
    conditioning = np.linalg.cond(features) ** 2
    outer = np.asarray(optimal_outer_layer(single(features), single(targets), ridge=0.0))
    assert np.linalg.norm(outer - exact) < 10 * EPSILON * conditioning * np.linalg.norm(exact)


def test_its_ridge_is_relative_to_the_mean_square_of_the_features(problem):
    rows, targets, start = problem
    features = hidden_by_hand(start["filters"], start["biases"], rows)
    ridge = 0.1 * np.sum(features**2) / features.shape[1]
    # The penalty as further rows of a least-squares problem.
    extended = np.concatenate([features, np.sqrt(ridge) * np.eye(NEURONS + 1)])
    exact = np.linalg.lstsq(extended, np.concatenate([targets, np.zeros((NEURONS + 1, OUTPUTS))]), rcond=None)[0]
    for scale in (1.0, 1e3):
        outer = np.asarray(optimal_outer_layer(single(scale * features), single(scale * targets), ridge=0.1))
        np.testing.assert_allclose(outer, exact, rtol=2e-5, atol=1e-6)


def test_refitting_over_batches_is_least_squares_over_all_rows(problem):
    rows, targets, start = problem
    pieces = [slice(0, 7), slice(7, 40), slice(40, 60)]
    outer = refit_outer_layer(
        lambda part: hidden_by_hand(start["filters"], start["biases"], part),
        [(rows[piece], targets[piece]) for piece in pieces],
        ridge=0.0,
    )
    exact = np.linalg.lstsq(hidden_by_hand(start["filters"], start["biases"], rows), targets, rcond=None)[0]
    np.testing.assert_allclose(outer, exact, rtol=1e-9)


def test_refitting_survives_neurons_that_are_copies(problem):
    rows, targets, start = problem

    def twice(part):
        features = hidden_by_hand(start["filters"], start["biases"], part)
        return np.concatenate([features, features], axis=1)

    outer = refit_outer_layer(twice, [(rows, targets)])
    exact = np.linalg.lstsq(twice(rows), targets, rcond=None)[0]
    np.testing.assert_allclose(twice(rows) @ outer, twice(rows) @ exact, rtol=1e-5, atol=1e-6)


def test_nearly_dependent_neurons_do_not_stop_the_descent():
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (500, 1))
    targets = np.abs(rows)
    start = {"filters": rng.standard_normal((1, 200)), "biases": rng.standard_normal(200)}
    # Two hundred smooth functions of one variable: the Gram matrix is singular to single precision many times over.
    assert np.linalg.cond(hidden_by_hand(start["filters"], start["biases"], rows)) > 1 / EPSILON
    errors = [
        variable_projection(hidden, single(start), single(rows), single(targets), evaluations=count).error
        for count in (1, 20)
    ]
    powers = rows ** np.arange(9)
    polynomial = powers @ np.linalg.lstsq(powers, targets, rcond=None)[0]
    assert errors[1] < errors[0] < np.linalg.norm(polynomial - targets) / np.linalg.norm(targets)
