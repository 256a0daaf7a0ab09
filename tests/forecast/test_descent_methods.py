"""Polynomials of the training methods against their recurrences, step by step and as powers of matrices."""

import numpy as np
import pytest
import scipy.linalg

from foretrain._foundation import ForetrainError
from foretrain.forecast import GradientDescent, GradientFlow, HeavyBall

EIGENVALUES = np.array([0.0, 1e-18, 1e-14, 1e-11, 1e-8, 1e-5, 1e-3, 0.03, 0.4, 0.99, 1.0, 1.7])
STEPS = np.array([0, 1, 2, 3, 10, 300, 1000, 10_000])
METHODS = [
    GradientDescent(1.0),
    GradientDescent(0.3),
    HeavyBall(0.0, 1.0),
    HeavyBall(0.5, 0.7),
    HeavyBall(0.9, 1.0),
    HeavyBall(0.99, 1.9),
]


def recurrence(method, eigenvalues, last):
    """P_k and Q_k of all steps up to the last in extended precision; Q_{k+1} = (1 + b - h l) Q_k - b Q_{k-1} + h."""
    step, momentum = np.longdouble(method.step_size), np.longdouble(getattr(method, "momentum", 0.0))
    eigenvalues = np.asarray(eigenvalues, np.longdouble)
    shrink = 1 + momentum - step * eigenvalues
    residual, learnt = [np.ones_like(eigenvalues), 1 - step * eigenvalues], [0 * eigenvalues, step + 0 * eigenvalues]
    for _ in range(last - 1):
        residual.append(shrink * residual[-1] - momentum * residual[-2])
        learnt.append(shrink * learnt[-1] - momentum * learnt[-2] + step)
    return np.array(residual), np.array(learnt)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_residual_factor_satisfies_the_recurrence(method):
    residual, _ = recurrence(method, EIGENVALUES, STEPS[-1])
    np.testing.assert_allclose(
        method.residual_factor(EIGENVALUES, STEPS), residual[STEPS].astype(float), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_learnt_factor_satisfies_the_recurrence_down_to_eigenvalue_zero(method):
    _, learnt = recurrence(method, EIGENVALUES, STEPS[-1])
    np.testing.assert_allclose(
        method.learnt_factor(EIGENVALUES, STEPS), learnt[STEPS].astype(float), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("method", [*METHODS, GradientFlow(0.5)], ids=str)
def test_learnt_and_residual_factor_sum_to_one(method):
    residual, learnt = (factor(EIGENVALUES, STEPS) for factor in (method.residual_factor, method.learnt_factor))
    np.testing.assert_allclose(residual + EIGENVALUES * learnt, 1.0, rtol=0, atol=1e-11)


def test_residual_factor_of_descent_is_the_matrix_power():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    matrix = root @ root.T
    values, vectors = np.linalg.eigh(matrix)
    method = GradientDescent().with_step_size(values[-1])
    for steps in (1, 7, 50):
        power = np.linalg.matrix_power(np.eye(8) - method.step_size * matrix, steps)
        factor = method.residual_factor(values, np.array([steps]))[0]
        np.testing.assert_allclose((vectors * factor) @ vectors.T, power, atol=1e-13)


def test_residual_factor_of_the_heavy_ball_is_the_power_of_its_companion_matrix():
    method = HeavyBall(0.8, 0.6)
    for eigenvalue in (0.0, 0.01, 1.0, 4.0):
        trace = 1 + 0.8 - 0.6 * eigenvalue
        companion = np.array([[trace, -0.8], [1.0, 0.0]])
        for steps in (1, 2, 9, 40):
            truth = (np.linalg.matrix_power(companion, steps) @ np.array([1.0, (trace - 1 + 0.6 * eigenvalue) / 0.8]))[
                0
            ]
            assert method.residual_factor(np.array([eigenvalue]), np.array([steps]))[0, 0] == pytest.approx(
                truth, abs=1e-12
            )


def test_the_heavy_ball_is_continuous_through_its_double_root():
    method = HeavyBall(0.81, 1.0)
    double = (1 - 0.9) ** 2
    eigenvalues = double * (1 + np.array([-1e-6, -1e-10, -1e-14, 0.0, 1e-14, 1e-10, 1e-6]))
    residual, learnt = recurrence(method, eigenvalues, 200)
    steps = np.array([1, 5, 50, 200])
    np.testing.assert_allclose(method.residual_factor(eigenvalues, steps), residual[steps].astype(float), atol=1e-8)
    np.testing.assert_allclose(method.learnt_factor(eigenvalues, steps), learnt[steps].astype(float), rtol=1e-7)


def test_flow_is_the_matrix_exponential_and_its_integral():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 3))
    matrix = root @ root.T
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0)
    method = GradientFlow(0.2)
    steps = np.array([1.0, 2.5, 30.0])
    residual, learnt = method.residual_factor(values, steps), method.learnt_factor(values, steps)
    for step, kept, gained in zip(steps, residual, learnt, strict=True):
        np.testing.assert_allclose(
            (vectors * kept) @ vectors.T, scipy.linalg.expm(-0.2 * step * matrix), rtol=0, atol=1e-12
        )
        # The integral of exp(-s A) is a block of the exponential of [[-A, I], [0, 0]] (Van Loan).
        block = np.block([[-matrix, np.eye(6)], [np.zeros((6, 12))]])
        integral = scipy.linalg.expm(0.2 * step * block)[:6, 6:]
        np.testing.assert_allclose((vectors * gained) @ vectors.T, integral, rtol=0, atol=1e-11)


def test_flow_is_the_limit_of_descent_by_small_steps():
    eigenvalues = np.array([1e-3, 0.1, 1.0])
    flow = GradientFlow(0.5).residual_factor(eigenvalues, np.array([8.0]))
    descent = GradientDescent(0.5 / 10_000).residual_factor(eigenvalues, np.array([80_000]))
    np.testing.assert_allclose(descent, flow, rtol=5e-4)


@pytest.mark.parametrize("method", [GradientDescent(1.0), GradientFlow(1.0), HeavyBall(0.9, 1.0)], ids=str)
def test_very_late_steps_stay_finite_and_have_learnt_everything_resolved(method):
    late = np.array([10**9, 10**12])
    eigenvalues = np.array([0.0, 1e-4, 1.0])
    residual, learnt = method.residual_factor(eigenvalues, late), method.learnt_factor(eigenvalues, late)
    np.testing.assert_allclose(residual, [[1.0, 0.0, 0.0]] * 2, atol=1e-15)
    np.testing.assert_allclose(learnt[:, 1:], [[1e4, 1.0]] * 2, rtol=1e-12)
    speed = 10.0 if isinstance(method, HeavyBall) else 1.0
    np.testing.assert_allclose(learnt[:, 0], speed * late, rtol=1e-6)


def test_default_step_sizes_are_half_the_limit_of_stability():
    for method in (GradientDescent(), HeavyBall(0.9), HeavyBall(0.0)):
        sized = method.with_step_size(4.0)
        limit = 2 * (1 + getattr(method, "momentum", 0.0)) / 4.0
        assert sized.step_size == pytest.approx(limit / 2)
        late = np.array([2000])
        inside, outside = (type(method)(**{**vars(sized), "step_size": limit * factor}) for factor in (0.99, 1.01))
        assert abs(inside.residual_factor(np.array([4.0]), late)[0, 0]) < 1
        assert abs(outside.residual_factor(np.array([4.0]), late)[0, 0]) > 1
        assert sized.with_step_size(1.0) == sized


def test_a_missing_step_size_and_an_impossible_momentum_are_refused():
    with pytest.raises(ForetrainError, match="with_step_size"):
        GradientDescent().residual_factor(EIGENVALUES, STEPS)
    for momentum in (1.0, -0.1):
        with pytest.raises(ForetrainError, match=r"momentum in \[0, 1\)"):
            HeavyBall(momentum)
