import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import ellipj, ellipk

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _half_waves as half_waves
from foretrain.problems import _pendulum as module
from foretrain.problems import pendulum


@pytest.mark.parametrize(("gravity", "damping", "amplitude"), [(1.0, 0.0, 0.3), (4.0, 0.5, 3.0)])
def test_pendulums_swing_as_another_solver_says(gravity, damping, amplitude):
    data = pendulum(3, 25, 2, gravity=gravity, damping=damping, amplitude=amplitude)
    field = amplitude * half_waves.gaussian_field(3, 1 / 6, np.random.default_rng(2))
    times = np.linspace(0, 6, 25)
    for row in range(3):

        def push(time, row=row):
            return field[row] @ half_waves.cosines(field.shape[1], np.array([time / 6]))[:, 0]

        def rate(time, state, push=push):
            return [state[1], push(time) - gravity * np.sin(state[0]) - damping * state[1]]

        exact = solve_ivp(rate, (0, 6), [0, 0], "DOP853", times, rtol=1e-11, atol=1e-12).y[0]
        np.testing.assert_allclose(data.inputs[row], [push(time) for time in times], atol=1e-12)
        np.testing.assert_allclose(data.outputs[row], exact, atol=3e-8 * np.abs(exact).max())


def test_without_gravity_a_constant_push_is_a_parabola_and_damping_bends_it():
    push, times = np.ones((2 * 200 + 1, 1)), np.linspace(0, 2, 201)
    np.testing.assert_allclose(module._angles(push, 0.01, 0.0, 0.0)[:, 0], times**2 / 2, atol=1e-12)
    damped = (times * 3 - 1 + np.exp(-3 * times)) / 9
    np.testing.assert_allclose(module._angles(push, 0.01, 0.0, 3.0)[:, 0], damped, atol=1e-8)


def test_the_energy_of_a_free_swing_is_what_the_push_brought():
    """A short push sets it swinging; then its period is that of Jacobi's elliptic functions."""
    steps, step = 4000, 0.002
    push = np.zeros((2 * steps + 1, 1))
    push[: 2 * 500] = 1.5
    angles = module._angles(push, step, 1.0, 0.0)[:, 0]
    speed = (angles[2:] - angles[:-2]) / (2 * step)
    energy = speed**2 / 2 + 1 - np.cos(angles[1:-1])
    free = energy[600:]
    np.testing.assert_allclose(free, free[0], rtol=1e-5)
    modulus = free[0] / 2
    turn = 600 + int(np.argmax(angles[601:3000]))
    quarter = ellipk(modulus)
    later = np.arange(200) * step
    sine = ellipj(quarter + later, modulus)[0] * np.sqrt(modulus)
    np.testing.assert_allclose(angles[turn + 1 : turn + 201], 2 * np.arcsin(sine), atol=2e-3)


def test_the_error_falls_with_the_fourth_power_of_the_step():
    exact = pendulum(3, 11, time_steps=2000).outputs
    errors = [np.abs(pendulum(3, 11, time_steps=steps).outputs - exact).max() for steps in (50, 100, 200)]
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 4.0, atol=0.25)


def test_the_future_does_not_act_on_the_past_and_the_sign_is_odd():
    push = np.random.default_rng(0).standard_normal((201, 1)) * 5
    other = push.copy()
    other[102:] += 3.0
    ours, theirs = module._angles(push, 0.05, 1.0, 0.1), module._angles(other, 0.05, 1.0, 0.1)
    np.testing.assert_array_equal(ours[:51], theirs[:51])
    assert np.abs(ours[60:] - theirs[60:]).max() > 0.01
    np.testing.assert_allclose(module._angles(-push, 0.05, 1.0, 0.1), -ours, atol=1e-12)


def test_functions_do_not_depend_on_how_many_there_are_nor_on_the_grid(monkeypatch):
    few = pendulum(3, 16, key=3)
    monkeypatch.setattr(module, "FUNCTIONS_AT_ONCE", 2)
    many, fine = pendulum(5, 16, key=3), pendulum(3, 31, key=3)
    np.testing.assert_allclose(many.outputs[:3], few.outputs, atol=1e-12)
    np.testing.assert_allclose(fine.outputs[:, ::2], few.outputs, atol=1e-8)
    np.testing.assert_allclose(fine.inputs[:, ::2], few.inputs, atol=1e-12)


def test_progress_is_reported_up_to_the_end():
    calls = []
    pendulum(3, progress=lambda *arguments: calls.append(arguments))
    assert calls[0] == ("simulating pendulums", 0, 3)
    assert calls[-1] == ("simulating pendulums", 3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"resolution": 7},
        {"duration": 0.0},
        {"duration": float("nan")},
        {"duration": 200.0},
        {"gravity": -1.0},
        {"damping": 1000.0},
        {"amplitude": 0.0},
        {"length_scale": 0.01},
        {"length_scale": 7.0},
        {"time_steps": 100},
        {"time_steps": 0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ForetrainError, match=r"pendulum: expected") as refusal:
        pendulum(**{"samples": 2, "resolution": 9} | settings)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"pendulum: .* fewer samples"):
        pendulum(10**9, resolution=1000)
