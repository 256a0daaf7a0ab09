"""Chebyshev's method against the iteration it stands for, against doubling formulas, and against other choices."""

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.forecast import GradientDescent, HeavyBall, spectral_curves
from foretrain.forecast._chebyshev import Chebyshev

INTERVALS = [(0.3, 1.0), (1e-2, 1.2), (1e-5, 1.0), (1e-9, 2.0)]
NAMES = [f"[{low:g}, {high:g}]" for low, high in INTERVALS]
BELOW_INSIDE_ABOVE = np.array([0.0, 1e-18, 1e-13, 1e-10, 1e-7, 1e-5, 1e-4, 0.01, 0.03, 0.3, 0.4, 0.99, 1.0, 1.2])
STEPS = np.array([0, 1, 2, 3, 10, 300, 1000, 5000])


def iterates(low, high, eigenvalues, last):
    """P_k and Q_k by Young's three-term iteration for l x^2 / 2 - x, its coefficients by their own recurrence."""
    low, high, eigenvalues = (np.asarray(value, np.longdouble) for value in (low, high, eigenvalues))
    centre = (high + low) / (high - low)
    here, before = np.zeros_like(eigenvalues), np.zeros_like(eigenvalues)
    ratio, momentum, step = 1 / centre, np.longdouble(0), 2 / (low + high)
    learnt, coefficients = [here], []
    for _ in range(last):
        coefficients.append((step, momentum))
        here, before = here - step * (eigenvalues * here - 1) + momentum * (here - before), here
        learnt.append(here)
        following = 1 / (2 * centre - ratio)
        step, momentum, ratio = 4 * following / (high - low), following * ratio, following
    learnt = np.array(learnt)
    return 1 - eigenvalues * learnt, learnt, np.array(coefficients)


def doubled(low, high, eigenvalues, doublings):
    """P_k and Q_k at k = 2^doublings from T_{2k} = 2 T_k^2 - 1, where 1 - P_k loses no digits."""
    low, high, eigenvalues = (np.asarray(value, np.longdouble) for value in (low, high, eigenvalues))
    learnt, gap = 2 * eigenvalues / (low + high), 4 * low * high / (low + high) ** 2  # 1 - 1 / T_k(centre)^2
    for _ in range(doublings):
        learnt = (4 * learnt - 2 * learnt**2) / (1 + gap)
        gap = 4 * gap / (1 + gap) ** 2
    return 1 - learnt, learnt / eigenvalues


@pytest.mark.parametrize(("low", "high"), INTERVALS, ids=NAMES)
def test_both_factors_are_those_of_the_iteration(low, high):
    eigenvalues = BELOW_INSIDE_ABOVE[high + low / 2 >= BELOW_INSIDE_ABOVE]
    residual, learnt, _ = iterates(low, high, eigenvalues, STEPS[-1])
    method = Chebyshev(low, high)
    np.testing.assert_allclose(
        method.residual_factor(eigenvalues, STEPS), residual[STEPS].astype(float), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(
        method.learnt_factor(eigenvalues, STEPS), learnt[STEPS].astype(float), rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize(("low", "high"), INTERVALS, ids=NAMES)
def test_the_coefficients_are_those_of_the_iteration_at_any_step(low, high):
    _, _, expected = iterates(low, high, np.ones(1), 3000)
    sizes, momenta = Chebyshev(low, high).coefficients(np.arange(3000))
    np.testing.assert_allclose(sizes, expected[:, 0].astype(float), rtol=1e-12)
    np.testing.assert_allclose(momenta, expected[:, 1].astype(float), rtol=1e-12)
    size, momentum = Chebyshev(low, high).coefficients(17)
    assert (size, momentum) == (sizes[17], momenta[17])
    assert Chebyshev(low, high).step_size == sizes[0] == np.min(sizes)


def test_late_coefficients_settle_at_those_of_the_best_heavy_ball():
    size, momentum = Chebyshev(0.04, 1.0).coefficients(10**12)
    assert momentum == pytest.approx(((1 - 0.2) / (1 + 0.2)) ** 2, rel=1e-14)
    assert size == pytest.approx(4 / (1 + 0.2) ** 2, rel=1e-14)


@pytest.mark.parametrize("doublings", [10, 20, 30])
def test_slow_modes_keep_their_digits_after_a_thousand_million_steps(doublings):
    # Until half of it is learnt: beyond, doubling itself loses the digits of what remains.
    method, steps = Chebyshev(1e-12, 1.0), np.array([2**doublings])
    eigenvalues = np.array([1e-30, 1e-20, 1e-16, 1e-14])
    residual, learnt = doubled(1e-12, 1.0, eigenvalues, doublings)
    np.testing.assert_allclose(method.residual_factor(eigenvalues, steps)[0], residual.astype(float), rtol=1e-9)
    np.testing.assert_allclose(method.learnt_factor(eigenvalues, steps)[0], learnt.astype(float), rtol=1e-12)


def test_nothing_overflows_however_many_steps_are_asked_for():
    method, steps = Chebyshev(0.1, 1.0), np.array([0, 10**6, 10**12])
    factors = method.residual_factor(np.array([0.0, 1e-15, 0.05, 0.5, 1.05]), steps)
    np.testing.assert_array_equal(factors[0], 1.0)
    np.testing.assert_array_equal(factors[:, 0], 1.0)
    np.testing.assert_array_equal(factors[1:, 2:], 0.0)
    assert 0 < factors[2, 1] < 1
    assert method.residual_factor(np.array([1.2]), np.array([10**6, 10**6 + 1]))[:, 0].tolist() == [np.inf, -np.inf]


def test_learning_starts_with_the_sum_of_the_method_for_an_eigenvalue_of_zero():
    # Q_k(0) = -P_k'(0) = 2 k tanh(k m) / ((b - a) sinh m)
    method, k = Chebyshev(1e-3, 1.0), STEPS[1:]
    rate = np.arccosh(1.001 / 0.999)
    expected = 2 * k * np.tanh(k * rate) / (0.999 * np.sinh(rate))
    np.testing.assert_allclose(method.learnt_factor(np.zeros(1), k)[:, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 4, 13])
def test_it_is_the_smallest_polynomial_on_its_interval(steps):
    # De la Vallee Poussin: equal extremes of alternating sign at k + 1 points leave no smaller polynomial.
    grid = np.linspace(0.05, 1.0, 20001)
    values = Chebyshev(0.05, 1.0).residual_factor(grid, np.array([steps]))[0]
    extremes = values[np.flatnonzero(np.abs(values) >= np.abs(values).max() * (1 - 1e-4))]
    assert np.count_nonzero(np.diff(np.sign(extremes))) == steps
    others = (GradientDescent(2 / 1.05), HeavyBall(((1 - 0.05**0.5) / (1 + 0.05**0.5)) ** 2, 4 / (1 + 0.05**0.5) ** 2))
    for other in others:
        assert np.abs(other.residual_factor(grid, np.array([steps]))).max() >= np.abs(values).max() * (1 - 1e-9)


def test_it_is_stable_up_to_the_sum_of_its_ends():
    method, late = Chebyshev(0.1, 1.0), np.array([20_000])
    assert method.stable_below / method.step_size == pytest.approx(1.1)
    assert abs(method.residual_factor(np.array([1.0999]), late)[0, 0]) < 1
    assert abs(method.residual_factor(np.array([1.1001]), late)[0, 0]) > 1


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("steps", [10, 300, 10_000])
def test_the_default_interval_is_nearly_the_best_for_every_power_law_tail(steps, share):
    places = (np.arange(20_000) + 0.5) / 20_000
    eigenvalues, weights = places**8, share * places ** (8 * share - 1)

    def loss(method):
        return method.residual_factor(eigenvalues, np.array([steps]))[0] ** 2 @ weights

    default = Chebyshev(eigenvalue_max=1.05, steps=steps).with_step_size(1.0)
    lows = default.eigenvalue_max * np.tanh(np.linspace(0.3, 14, 40) / (2 * steps)) ** 2
    best = min(loss(Chebyshev(low, default.eigenvalue_max)) for low in lows)
    assert loss(default) < 1.25 * best
    assert loss(default) < loss(GradientDescent(1.0))


def test_the_interval_follows_the_largest_eigenvalue_unless_it_was_given():
    method = Chebyshev(steps=100).with_step_size(4.0)
    assert method.eigenvalue_max == pytest.approx(8.0)
    assert method.eigenvalue_min == pytest.approx(8.0 * np.tanh(np.log(400) / 200) ** 2)
    assert method.with_step_size(9.0) == method
    assert Chebyshev(0.1).with_step_size(4.0).eigenvalue_min == 0.1
    assert Chebyshev(None, 5.0).with_step_size(4.0).eigenvalue_max == 5.0


def test_a_forecast_of_the_loss_is_that_of_running_it():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 30)) * np.logspace(0, -2, 20)[:, None]
    theta, start = root @ root.T, rng.normal(size=(5, 4))
    method = Chebyshev(steps=80).with_step_size(float(np.linalg.eigvalsh(theta)[-1]))
    curves = spectral_curves(lambda r: (theta @ r.ravel()).reshape(r.shape), start, method, 80, tolerance=0.0)
    here = before = np.zeros(20)
    for step in range(80):
        size, momentum = method.coefficients(step)
        here, before = here - size * (start.ravel() + theta @ here) + momentum * (here - before), here
    residual = start.ravel() + theta @ here
    assert curves.loss(method, np.array([80.0]))[0][0] == pytest.approx(np.mean(residual**2), rel=1e-8)


def test_impossible_settings_are_refused_in_one_line():
    with pytest.raises(ForetrainError, match="above 0"):
        Chebyshev(0.0, 1.0)
    with pytest.raises(ForetrainError, match="above 0"):
        Chebyshev(0.1, np.inf)
    with pytest.raises(ForetrainError, match="below eigenvalue_max"):
        Chebyshev(2.0, 1.0)
    with pytest.raises(ForetrainError, match="at least one step"):
        Chebyshev(steps=0)
    with pytest.raises(ForetrainError, match="call with_step_size"):
        Chebyshev(0.1).coefficients(0)
    with pytest.raises(ForetrainError, match="below eigenvalue_max"):
        Chebyshev(5.0).with_step_size(1.0)
