"""Routes to a target: steps that direct iteration confirms, an estimate of Adam that holds, and memory that lacks."""

from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

from foretrain.data import mean_relative_error
from foretrain.forecast import (
    Chebyshev,
    Cost,
    GradientDescent,
    HeavyBall,
    forecast,
    normalised_outputs,
    spectral_curves,
    training_arrays,
)
from foretrain.forecast import _decisions as decisions
from foretrain.forecast import _routes as routes_module
from foretrain.forecast._cost import step_bytes
from foretrain.forecast._descent_routes import (
    MOMENTA,
    OUTER_RATE,
    Reach,
    chebyshev,
    first_step,
    gradient_descent,
    heavy_ball,
    two_timescales,
)
from foretrain.forecast._held_out import with_held_out_error
from foretrain.forecast._kernels import limit_kernels
from foretrain.forecast._route_pilots import PILOT_FUNCTIONS, AdamPilot, run_adam_pilot
from foretrain.forecast._routes import compare_routes
from foretrain.models import ShallowOperator, draw_network
from foretrain.problems import antiderivative

COST = Cost(seconds_per_step=0.01, bytes=10**6, price_per_hour=7.2)
TARGET = 0.15


class DenseProblem:
    """A kernel of 60 training and 30 test values from features that matter less and less, and what they should be."""

    def __init__(self):
        rng = np.random.default_rng(0)
        decay = np.arange(1, 81.0)
        features = rng.normal(size=(90, 80)) * decay**-1.0
        values = (features @ (rng.normal(size=80) * decay**-0.3)).reshape(-1, 3)
        train, test = features[:60], features[60:]
        self.kernel, self.cross = train @ train.T, test @ train.T
        self.residual, self.truth = -values[:20], values[20:]
        self.largest = float(np.linalg.eigvalsh(self.kernel)[-1])

    def curves(self):
        method = GradientDescent().with_step_size(self.largest)
        return spectral_curves(
            lambda residual: (self.kernel @ residual.ravel()).reshape(20, 3),
            self.residual,
            method,
            1000,
            tolerance=-1.0,
            test=lambda residual: (self.cross @ residual.ravel()).reshape(10, 3),
            test_start=np.zeros((10, 3)),
            test_truth=self.truth,
        )

    def error_after(self, method, steps):
        """By doing them: dual coefficients c with residual r_0 + Theta c and prediction Theta(test, train) c."""
        coefficients, velocity = np.zeros(60), np.zeros(60)
        alpha, beta = method.with_step_size(self.largest).coefficients(np.arange(steps))
        for step in range(steps):
            residual = self.residual.ravel() + self.kernel @ coefficients
            velocity = beta[step] * velocity - alpha[step] * residual
            coefficients = coefficients + velocity
        return mean_relative_error((self.cross @ coefficients).reshape(10, 3), self.truth)


@pytest.fixture(scope="module")
def dense():
    return DenseProblem()


@pytest.fixture(scope="module")
def small_forecast(split, model, deviation):
    return forecast(split[0], model, None, 50, split[1], tolerance=-1.0, deviation=deviation, cost=COST)


@pytest.fixture(scope="module")
def told(small_forecast, dense):
    """A forecast whose curves are the dense problem's."""
    curves, largest = dense.curves(), dense.largest
    method = GradientDescent().with_step_size(largest)
    return replace(small_forecast, method=method, eigenvalue_max=largest, curves=curves, test_curves=curves)


def test_gradient_descent_reaches_the_target_at_its_step_and_not_before(told, dense):
    reach = gradient_descent(told, TARGET)
    assert reach.reached
    assert reach.steps > 100
    assert reach.error == pytest.approx(dense.error_after(GradientDescent(), reach.steps), rel=1e-8)
    assert dense.error_after(GradientDescent(), reach.steps) <= TARGET
    assert dense.error_after(GradientDescent(), reach.steps - 1) > TARGET
    assert reach.steps == told.steps_to(TARGET)


def test_momentum_reaches_the_target_at_its_step_and_not_before(told, dense):
    momentum, reach = heavy_ball(told, TARGET)
    assert reach.reached
    assert dense.error_after(HeavyBall(momentum), reach.steps) <= TARGET
    assert dense.error_after(HeavyBall(momentum), reach.steps - 1) > TARGET


def test_the_momentum_is_the_best_of_those_tried(told, dense):
    momentum, reach = heavy_ball(told, TARGET)
    for other in set(MOMENTA) - {momentum}:
        assert all(dense.error_after(HeavyBall(other), steps) > TARGET for steps in range(0, reach.steps, 7))


def test_chebyshev_made_for_its_steps_reaches_the_target_and_for_one_less_does_not(told, dense):
    reach = chebyshev(told, TARGET)
    assert reach.reached
    assert dense.error_after(Chebyshev(steps=reach.steps), reach.steps) <= TARGET
    assert dense.error_after(Chebyshev(steps=reach.steps - 1), reach.steps - 1) > TARGET
    assert reach.steps < gradient_descent(told, TARGET).steps / 4


def test_two_timescales_reach_the_target_at_their_step_and_not_before(small_forecast, model, split):
    train, test = split
    reach = two_timescales(small_forecast, model, train, test, 0.4)
    assert reach.reached
    gram, cross = limit_kernels(replace(model, train_outer=True), train, test, {"outer": OUTER_RATE})
    network = draw_network(model, train, 0)
    start, target = normalised_outputs(network, train), network.scale.normalise(train.outputs)
    coefficients, errors = np.zeros(start.shape), []
    step_size = 1 / gram.eigenvalue_max(1e-4)
    for _ in range(reach.steps):
        coefficients -= step_size * (start - target + gram.apply(coefficients))
        prediction = network.scale.restore(normalised_outputs(network, test) + cross(coefficients))
        errors.append(mean_relative_error(prediction, test.outputs))
    assert errors[-1] <= 0.4
    assert min(errors[:-1]) > 0.4


def test_the_first_step_is_exact_and_the_least_error_is_given_where_none_reaches():
    assert first_step(lambda step: 1 / (1 + step), 1 / 778.5, 10**6) == Reach(778, 1 / 779, True, 10**6)
    assert first_step(lambda step: 0.1, 0.2, 100) == Reach(0, 0.1, True, 100)
    never = first_step(lambda step: 1 + (step - 10) ** 2, 0.5, 1000)
    assert (never.reached, never.last) == (False, 1000)
    assert 9 <= never.steps <= 11
    assert never.error == 1 + (never.steps - 10) ** 2


def test_held_out_curves_are_on_the_scale_of_the_whole(small_forecast, split, model, deviation):
    learn, check = split[0].split(10, 0)
    stand_in = forecast(learn, model, None, 50, check, deviation=deviation, cost=COST)
    told = with_held_out_error(small_forecast, stand_in)
    for step in (0, 1, 10, 50):
        assert told.error_at(step) == pytest.approx(stand_in.error_at(step), rel=1e-9)
        assert told.error_at(step) == pytest.approx(told.test_error[step], rel=1e-6)


def test_every_route_has_steps_time_memory_and_money(told, split, model):
    pilot = AdamPilot(np.arange(1.0, 101), 2 / np.arange(1.0, 101) ** 0.5, 0.01, 64, 40)
    routes = compare_routes(split[0], told, (), COST, TARGET, model=model, adam=pilot)
    assert [route.name.split(",")[0] for route in routes] == [
        "gradient descent",
        "heavy ball",
        "Chebyshev",
        "Adam (estimated)",
        "two timescales (small network)",
    ]
    weights = 4 * model.parameter_count(split[0])
    for route, copies in zip(routes[:4], (0, 1, 1, 2), strict=True):
        assert route.seconds == pytest.approx(0.01 * route.steps)
        assert route.price == pytest.approx(route.seconds / 3600 * 7.2)
        assert route.bytes == told.bytes + copies * weights
        assert route.test_error <= TARGET
    assert [route.status for route in routes[:4]] == ["computation"] * 3 + ["estimate"]
    chosen = [route for route in routes if route.chosen]
    assert len(chosen) == 1
    assert chosen[0].steps == min(route.steps for route in routes[:4])


def test_a_route_that_does_not_fit_into_memory_is_not_chosen(told, split, model, monkeypatch):
    monkeypatch.setattr(routes_module, "available_bytes", lambda: told.bytes)
    routes = compare_routes(split[0], told, (), COST, TARGET, model=model)
    assert next(route for route in routes if route.chosen).name == "gradient descent"
    for route in routes[1:3]:
        assert "does not fit" in route.note
        assert route.test_error <= TARGET


def test_memory_that_is_not_there_comes_with_a_width_that_fits(small_forecast, split, model, monkeypatch):
    train = split[0]
    needed = step_bytes(model, train)
    told = replace(small_forecast, cost=replace(COST, bytes=needed))
    fits = decisions.memory_decision(model, told, train)
    assert "fit" not in fits.value
    free = needed // 3
    monkeypatch.setattr(decisions, "available_bytes", lambda: free)
    lacking = decisions.memory_decision(model, told, train)
    assert "does not fit" in lacking.value
    width = int(lacking.reason.split("at most ")[1].split()[0].replace(",", ""))
    assert step_bytes(replace(model, width=width), train) <= free
    assert step_bytes(replace(model, width=width + 64), train) > free


def test_a_pilot_of_adam_takes_the_steps_of_optax(split):
    learn, check = split
    model = ShallowOperator(32, 4)
    pilot = run_adam_pilot(learn, check, model, 12, learning_rates=(0.01,))
    network = draw_network(replace(model, embedding=model.embedding_for(learn)), learn, 0)
    arrays = training_arrays(network, learn)
    moving, fixed = eqx.partition(network, network.trained())
    optimiser = optax.adam(0.01)
    state = optimiser.init(moving)

    @jax.grad
    def gradient(weights):
        return ((eqx.combine(weights, fixed).normalised(*arrays[:2]) - arrays[2]) ** 2).mean()

    errors = []
    for _ in range(12):
        change, state = optimiser.update(gradient(moving), state)
        moving = optax.apply_updates(moving, change)
        errors.append(mean_relative_error(eqx.combine(moving, fixed)(check.inputs, check.query_points), check.outputs))
    np.testing.assert_allclose(pilot.test_error, np.array(errors)[pilot.steps.astype(int) - 1], rtol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_the_estimate_of_adam_holds_within_its_band_when_the_pilot_runs_longer(activation):
    learn, check = antiderivative(150).split(50, 0)
    model = ShallowOperator(64, 4, activation)
    pilot = run_adam_pilot(learn, check, model, 200)
    longer = run_adam_pilot(learn, check, model, 2000, learning_rates=(pilot.learning_rate,))
    for step in (300, 600, 1000, 2000):
        lower, upper = pilot.band_at(step)
        assert lower <= longer.error_at(step) <= upper
        assert upper / lower < 30


def test_a_power_law_is_continued_exactly():
    steps = np.unique(np.round(np.geomspace(1, 400, 40)))
    pilot = AdamPilot(steps, 2 * steps**-0.5, 0.01, 64, 40)
    assert pilot.power == pytest.approx(0.5)
    assert pilot.error_at(3000) == pytest.approx(2 / 3000**0.5)
    assert pilot.steps_to(2 / 3000**0.5) == pytest.approx(3000, rel=0.02)
    assert pilot.steps_to(2 / 10_000**0.5) is None
    soonest, latest = pilot.steps_between(2 / 1000**0.5)
    assert soonest < 1000
    assert latest is None


def test_an_error_that_rises_is_not_promised_to_fall():
    steps = np.unique(np.round(np.geomspace(1, 400, 40)))
    pilot = AdamPilot(steps, 0.1 * steps**0.1, 0.01, 64, 40)
    assert pilot.power == 0
    assert pilot.error_at(4000) == pytest.approx(pilot.test_error[-1])
    assert pilot.steps_to(0.09) is None


def test_a_pilot_sees_no_more_functions_than_it_says(split):
    pilot = run_adam_pilot(*split, ShallowOperator(16, 2), 3, learning_rates=(0.01,))
    assert pilot.functions == min(PILOT_FUNCTIONS, len(split[0]))
    assert pilot.width == 16
