import jax
import numpy as np
import pytest
from scipy.special import ive

from foretrain._foundation import ForetrainError, MemoryBudgetError, ignore_progress
from foretrain.problems import _burgers as module
from foretrain.problems import burgers


def solve(initial, viscosity, time, steps):
    return module._solve(np.atleast_2d(initial), viscosity, time, steps, ignore_progress)


def sine_solution(points, viscosity, time, modes=120):
    """Cole and Hopf: u = -2 viscosity phi_x / phi with phi_t = viscosity phi_xx, for u(x, 0) = sin 2 pi x.

    phi(x, 0) = exp(z cos 2 pi x), z = 1 / (4 pi viscosity), whose Fourier coefficients are modified Bessel functions.
    """
    wave_numbers = 2 * np.pi * np.arange(modes)
    amplitudes = ive(np.arange(modes), 1 / (4 * np.pi * viscosity)) * np.exp(-viscosity * wave_numbers**2 * time)
    amplitudes[1:] *= 2
    angles = np.outer(points, wave_numbers)
    return 2 * viscosity * (np.sin(angles) @ (amplitudes * wave_numbers)) / (np.cos(angles) @ amplitudes)


def transform_solution(initial, viscosity, time):
    """The same for any initial state of zero mean, with transforms on a grid four times as fine."""
    points = initial.shape[-1]
    fine = np.fft.irfft(4 * np.fft.rfft(initial), n=4 * points)
    wave_numbers = 2 * np.pi * np.arange(2 * points + 1)
    spectrum = np.fft.rfft(fine)
    spectrum[..., 1:] /= 1j * wave_numbers[1:]
    heat = np.fft.rfft(np.exp(-np.fft.irfft(spectrum, n=4 * points) / (2 * viscosity)))
    heat = heat * np.exp(-viscosity * wave_numbers**2 * time)
    slope = np.fft.irfft(1j * wave_numbers * heat, n=4 * points)
    return (-2 * viscosity * slope / np.fft.irfft(heat, n=4 * points))[..., ::4]


def test_the_exact_solution_starts_from_the_sine_and_satisfies_the_equation():
    points, step = np.linspace(0, 1, 7), 1e-4
    np.testing.assert_allclose(sine_solution(points, 0.05, 0.0), np.sin(2 * np.pi * points), atol=1e-13)

    def u(shift, later):
        return sine_solution(points + shift, 0.05, 0.3 + later)

    change = (u(0, step) - u(0, -step)) / (2 * step)
    slope = (u(step, 0) - u(-step, 0)) / (2 * step)
    curvature = (u(step, 0) - 2 * u(0, 0) + u(-step, 0)) / step**2
    np.testing.assert_allclose(change + u(0, 0) * slope, 0.05 * curvature, atol=1e-5)


@pytest.mark.parametrize(("viscosity", "points", "time"), [(0.05, 64, 1.0), (0.01, 256, 0.5)])
def test_the_sine_evolves_as_cole_and_hopf_say(viscosity, points, time):
    grid = np.arange(points) / points
    final = solve(np.sin(2 * np.pi * grid), viscosity, time, 200)[0]
    np.testing.assert_allclose(final, sine_solution(grid, viscosity, time), atol=1e-7)


def test_random_states_evolve_as_cole_and_hopf_say():
    data = burgers(samples=5, resolution=256, viscosity=0.05, simulation_resolution=256, time_steps=150)
    expected = transform_solution(data.inputs, 0.05, 1.0)
    np.testing.assert_allclose(data.outputs, expected, atol=1e-7)
    assert np.abs(data.outputs).max() > 0.1


def test_the_error_falls_with_the_fourth_power_of_the_time_step():
    grid = np.arange(64) / 64
    exact = sine_solution(grid, 0.05, 0.5)
    steps = np.array([16, 32, 64])
    errors = [np.abs(solve(np.sin(2 * np.pi * grid), 0.05, 0.5, count)[0] - exact).max() for count in steps]
    orders = -np.diff(np.log2(errors))
    np.testing.assert_allclose(orders, 4.0, atol=0.25)


def test_the_steps_chosen_by_default_are_accurate_to_a_millionth():
    ours = burgers(samples=3, resolution=16, viscosity=0.05)
    finer = burgers(samples=3, resolution=16, viscosity=0.05, time_steps=4 * ours.description["time_steps"])
    error = np.linalg.norm(ours.outputs - finer.outputs) / np.linalg.norm(finer.outputs)
    assert error < 1e-6


def test_the_mean_is_conserved_and_the_energy_falls():
    initial = np.random.default_rng(0).standard_normal((3, 32)) @ np.eye(32)
    initial = np.fft.irfft(np.fft.rfft(initial)[:, :6], n=32) + 0.3
    final = solve(initial, 0.05, 0.2, 40)
    np.testing.assert_allclose(final.mean(axis=1), initial.mean(axis=1), rtol=1e-12)
    assert np.all(np.sum(final**2, axis=1) < np.sum(initial**2, axis=1))


def test_a_moving_frame_only_moves_the_solution():
    grid = np.arange(64) / 64
    wave = np.sin(2 * np.pi * grid) + 0.3 * np.cos(4 * np.pi * grid)
    still = solve(wave, 0.05, 1.0, 200)[0]
    carried = solve(wave + 0.25, 0.05, 1.0, 200)[0]
    np.testing.assert_allclose(carried, np.roll(still, 16) + 0.25, atol=1e-8)


def test_functions_do_not_depend_on_those_solved_with_them(monkeypatch):
    monkeypatch.setattr(module, "FUNCTIONS_AT_ONCE", 4)
    initial = np.random.default_rng(0).standard_normal((6, 16)) / 4
    together = solve(initial, 0.1, 0.1, 4)
    rows = [5, 0, 4]
    np.testing.assert_allclose(together[rows], solve(initial[rows], 0.1, 0.1, 4), rtol=1e-12, atol=1e-14)


def test_the_same_key_gives_the_same_data_and_another_key_other_data(small_burgers):
    again = burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50)
    other = burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50, key=1)
    assert again.fingerprint == small_burgers.fingerprint
    assert np.abs(np.corrcoef(other.inputs.ravel(), small_burgers.inputs.ravel())[0, 1]) < 0.2


def test_the_initial_states_do_not_depend_on_the_viscosity_or_the_simulation(monkeypatch):
    monkeypatch.setattr(module, "_solve", lambda initial, *rest: initial + 1)
    mild = burgers(samples=2, resolution=16, viscosity=0.05)
    sharp = burgers(samples=2, resolution=16, viscosity=0.004)
    finer = burgers(samples=2, resolution=16, viscosity=0.05, simulation_resolution=1024)
    assert sharp.description["simulation_resolution"] > mild.description["simulation_resolution"]
    np.testing.assert_allclose(sharp.inputs, mild.inputs, atol=1e-12)
    np.testing.assert_allclose(finer.inputs, mild.inputs, atol=1e-12)


def test_the_process_stays_in_single_precision(small_burgers):
    assert small_burgers.outputs.dtype == np.float64
    assert jax.numpy.ones(1).dtype == np.float32


@pytest.mark.parametrize(
    "sizes",
    [
        {"samples": 1},
        {"resolution": 8},
        {"viscosity": 0.0},
        {"viscosity": float("nan")},
        {"viscosity": float("inf")},
        {"time": -1.0},
        {"time": float("nan")},
        {"simulation_resolution": 100},
        {"simulation_resolution": -32},
        {"simulation_resolution": 16},
        {"time_steps": 0},
        {"time_steps": -5},
    ],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ForetrainError, match=r"burgers: expected") as refusal:
        burgers(**{"samples": 4, "resolution": 32} | sizes)
    assert "\n" not in str(refusal.value)


def test_a_simulation_that_does_not_fit_into_memory_is_refused_before_it_starts():
    with pytest.raises(MemoryBudgetError, match=r"simulating Burgers' equation: .* larger viscosity"):
        burgers(samples=1000, viscosity=1e-12)
