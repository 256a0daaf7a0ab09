"""The forecast against dense iteration of the linearised training, and against training real networks."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, OutputScale, mean_relative_error
from foretrain.forecast import Cost, GradientDescent, HeavyBall, forecast, normalised_outputs, training_arrays
from foretrain.forecast._descent_step import training_step
from foretrain.tangent import limit_kernel

STEPS = 100
MARKS = np.array([0, 1, 3, 10, 30, 100])
COST = Cost(seconds_per_step=0.01, bytes=1_000_000, price_per_hour=3.6)


@pytest.fixture(scope="module")
def told(split, model, deviation):
    train, test = split
    return forecast(train, model, steps=STEPS, test=test, deviation=deviation, cost=COST)


@pytest.fixture(scope="module")
def told_of_drawn_weights(split, model, deviation):
    train, test = split
    return forecast(train, model, steps=STEPS, test=test, basis="drawn weights", deviation=deviation, cost=COST)


def trained(train, test, model, step_size):
    """Losses and test errors of the real network at the marks."""
    network = model.initialise(train, jax.random.key(0))
    arrays = training_arrays(network, train)
    step_size = np.float32(step_size)
    losses, errors = [], []
    for step in range(STEPS + 1):
        if step in MARKS:
            losses.append(np.mean((normalised_outputs(network, train) - network.scale.normalise(train.outputs)) ** 2))
            errors.append(mean_relative_error(network.scale.restore(normalised_outputs(network, test)), test.outputs))
        network, _ = training_step(network, *arrays, step_size)
    return np.array(losses), np.array(errors)


@pytest.fixture(scope="module")
def measured(split, model, told):
    return trained(*split, model, told.step_size)


def kron(terms):
    return sum(np.kron(term.functions, term.points) for term in terms)


class LinearisedTraining:
    """Gradient descent with the dense kernel of infinite width, step by step."""

    def __init__(self, train, test, model, step_size, momentum=0.0):
        kernel = limit_kernel(model, train)
        network = model.initialise(train, jax.random.key(0))
        self.gram = kron(kernel.gram(train.inputs, train.query_points).terms)
        self.cross = kron(kernel.between(test.inputs, test.query_points, train.inputs, train.query_points))
        self.residual = (normalised_outputs(network, train) - network.scale.normalise(train.outputs)).ravel()
        self.start, self.scale, self.test = normalised_outputs(network, test), network.scale, test
        self.step_size, self.momentum = step_size, momentum

    def run(self, steps):
        residual, learnt, velocity = self.residual, np.zeros_like(self.residual), np.zeros_like(self.residual)
        losses, errors = [], []
        for _ in range(steps + 1):
            losses.append(np.mean(residual**2))
            prediction = self.start + (self.cross @ learnt).reshape(self.start.shape)
            errors.append(mean_relative_error(self.scale.restore(prediction), self.test.outputs))
            velocity = self.momentum * velocity - self.step_size * residual
            learnt = learnt + velocity
            residual = self.residual + self.gram @ learnt
        return np.array(losses), np.array(errors)


def test_curves_are_those_of_the_dense_linearised_training(told, split, model):
    losses, errors = LinearisedTraining(*split, model, told.step_size).run(STEPS)
    np.testing.assert_allclose(told.loss, losses, rtol=2e-3)
    assert np.all(told.lower <= losses)
    assert np.all(losses <= told.upper)
    np.testing.assert_allclose(told.test_error, errors, rtol=5e-3)


def test_momentum_is_forecast_too(split, model, deviation):
    train, test = split
    method = HeavyBall(0.7)
    told = forecast(train, model, method, steps=50, test=test, deviation=deviation, cost=COST)
    assert told.step_size == pytest.approx(1.7 / told.eigenvalue_max)
    losses, errors = LinearisedTraining(train, test, model, told.step_size, 0.7).run(50)
    np.testing.assert_allclose(told.loss, losses, rtol=5e-3)
    np.testing.assert_allclose(told.test_error, errors, rtol=5e-3)


def test_step_size_is_one_over_the_largest_eigenvalue(told, split, model):
    dense = LinearisedTraining(*split, model, 1.0)
    assert told.eigenvalue_max == pytest.approx(np.linalg.eigvalsh(dense.gram)[-1], rel=1e-6)
    assert told.step_size == pytest.approx(1 / told.eigenvalue_max)


def test_the_forecast_from_drawn_weights_is_what_training_does(told_of_drawn_weights, split, model):
    told = told_of_drawn_weights
    losses, errors = trained(*split, model, told.step_size)
    assert told.basis == "drawn weights"
    assert told.loss[0] == pytest.approx(losses[0], rel=1e-5)
    np.testing.assert_allclose(told.loss[MARKS], losses, rtol=0.05)
    np.testing.assert_allclose(told.test_error[MARKS], errors, rtol=0.05)
    assert np.all((told.lower[MARKS] <= losses) & (losses <= told.upper[MARKS]))


def test_the_forecast_from_the_data_alone_holds_within_its_band(told, measured):
    losses, errors = measured
    assert told.basis == "infinite width"
    inside = np.append(
        (told.lower[MARKS] <= losses) & (losses <= told.upper[MARKS]),
        (told.test_error_lower[MARKS] <= errors) & (errors <= told.test_error_upper[MARKS]),
    )
    # Bands of 90 %: one of ten points may be outside.
    assert np.mean(inside) >= 0.9
    np.testing.assert_allclose(told.test_error[MARKS], errors, rtol=0.1)
    # A band that says nothing would hold too.
    assert np.all(told.upper <= 1.8 * told.lower)


def test_drawn_weights_have_the_narrower_band(told, told_of_drawn_weights):
    assert told_of_drawn_weights.upper[-1] / told_of_drawn_weights.lower[-1] < told.upper[-1] / told.lower[-1]


def test_the_worst_case_is_a_guarantee_above_the_linearised_loss(told, split, model):
    losses, _ = LinearisedTraining(*split, model, told.step_size).run(STEPS)
    assert np.all(told.worst_case_loss >= losses * (1 - 1e-9))
    kernel = limit_kernel(model, split[0]).gram(split[0].inputs, split[0].query_points)
    least = [np.linalg.eigvalsh(np.kron(term.functions, term.points))[0] for term in kernel.terms]
    assert told.worst_case_rate == pytest.approx(told.step_size * sum(least) / 2, rel=1e-6)
    assert told.worst_case_loss[-1] == pytest.approx(losses[0] * (1 - told.worst_case_rate) ** STEPS, rel=1e-6)


def test_steps_to_an_error_is_the_first_step_that_has_it(told, split, model):
    last = 3000
    _, errors = LinearisedTraining(*split, model, told.step_size).run(last)
    for target in (0.6, 0.45, 0.32):
        steps = told.steps_to(target)
        assert told.error_at(steps) <= target < told.error_at(steps - 1)
        assert steps == pytest.approx(int(np.argmax(errors <= target)), rel=0.03)
    assert told.steps_to(10.0) == 0
    assert told.steps_to(1e-9) is None


def test_the_horizon_is_where_the_bounds_part(told):
    lower, upper = told.curves.loss(told.method, np.array([told.horizon, 2.0 * told.horizon]))
    assert told.horizon >= STEPS
    assert upper[0] <= 1.1 * lower[0]
    assert upper[1] > 1.05 * lower[1]


def test_without_test_functions_the_error_is_that_of_training(split, model, deviation):
    told = forecast(split[0], model, steps=50, deviation=deviation, cost=COST)
    assert told.test_error is None
    assert told.best_stopping_step == 50
    steps = told.steps_to(0.5)
    assert told.loss[steps] <= 0.25 * 1.001
    assert told.loss[steps - 1] > 0.25


def noisy(train, noise):
    scale = OutputScale.of(train.outputs).scale
    outputs = train.outputs + noise * scale * np.random.default_rng(3).normal(size=train.outputs.shape)
    return OperatorDataset(train.inputs, outputs, train.sensor_points, train.query_points)


def test_best_stopping_step_of_noisy_data_is_that_of_dense_iteration(split, model, deviation):
    train, test = noisy(split[0], 1.0), split[1]
    told = forecast(train, model, steps=3000, test=test, deviation=deviation, cost=COST)
    _, errors = LinearisedTraining(train, test, model, told.step_size).run(3000)
    best = int(np.argmin(errors))
    assert 10 < best < 2000, "the problem is meant to over-fit within the steps"
    assert told.best_stopping_step == pytest.approx(best, rel=0.05)
    assert errors[told.best_stopping_step] == pytest.approx(errors[best], rel=1e-4)
    assert told.test_error[told.best_stopping_step] == pytest.approx(errors[best], rel=5e-3)
    assert errors[-1] > 1.05 * errors[best]


def test_the_forecast_of_any_mean_and_scale_of_the_outputs_is_the_same(told, split, model, deviation):
    train, test = (
        OperatorDataset(part.inputs, 5.0 + 3.0 * part.outputs, part.sensor_points, part.query_points) for part in split
    )
    shifted = forecast(train, model, steps=STEPS, test=test, deviation=deviation, cost=COST)
    np.testing.assert_allclose(shifted.loss, told.loss, rtol=1e-5)
    _, errors = LinearisedTraining(train, test, model, shifted.step_size).run(STEPS)
    np.testing.assert_allclose(shifted.test_error, errors, rtol=5e-3)


def test_seconds_bytes_and_figures_for_a_file_come_from_the_curves(told):
    assert told.seconds == pytest.approx(0.01 * STEPS)
    assert told.bytes == 1_000_000
    assert COST.price(1000) == pytest.approx(0.01)
    values = told.as_dict(MARKS)
    np.testing.assert_array_equal(values["loss"], told.loss[MARKS])
    np.testing.assert_array_equal(values["test_error_upper"], told.test_error_upper[MARKS])
    assert values["initial_loss"] == told.loss[0]
    assert values["horizon"] == told.horizon


def test_the_same_key_gives_the_same_forecast_and_another_key_another_start(told, split, model, deviation):
    train, test = split
    again, other = (
        forecast(train, model, steps=STEPS, test=test, key=key, deviation=deviation, cost=COST) for key in (0, 1)
    )
    np.testing.assert_array_equal(again.loss, told.loss)
    assert other.loss[0] != told.loss[0]


def test_a_method_with_its_own_step_size_keeps_it(told, split, model, deviation):
    method = GradientDescent(told.step_size / 2)
    slow = forecast(split[0], model, method, steps=STEPS, deviation=deviation, cost=COST)
    assert slow.step_size == method.step_size
    assert slow.loss[-1] > told.loss[-1]


@pytest.mark.parametrize(("method", "limit"), [(GradientDescent(), 2), (HeavyBall(0.9), 3.8)], ids=["plain", "heavy"])
def test_a_step_size_beyond_the_limit_is_called_unstable_and_its_loss_grows(
    told, split, model, deviation, method, limit
):
    below, beyond = (
        forecast(
            split[0],
            model,
            replace(method, step_size=share * limit / told.eigenvalue_max),
            steps=STEPS,
            deviation=deviation,
            cost=COST,
        )
        for share in (0.97, 1.05)
    )
    assert (below.stable, beyond.stable) == (True, False)
    assert below.as_dict(MARKS)["stable"]
    assert beyond.loss[-1] > 3 * beyond.loss[10]
    assert below.loss[-1] < below.loss[0]


def test_no_step_to_forecast_is_refused(split, model):
    with pytest.raises(ForetrainError, match="at least one step"):
        forecast(split[0], model, steps=0)


def test_a_wider_network_has_a_narrower_band(told, split, model, deviation):
    wide = forecast(split[0], replace(model, width=4096), steps=STEPS, deviation=deviation, cost=COST)
    assert np.log(wide.upper[-1] / wide.lower[-1]) < 0.6 * np.log(told.upper[-1] / told.lower[-1])
