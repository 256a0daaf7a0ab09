import numpy as np
import pytest
from scipy.fft import dst
from scipy.integrate import solve_ivp

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _half_waves as half_waves
from foretrain.problems import _wave as module
from foretrain.problems import wave


def reflected_pulse(points, width, copies=6):
    """The pulse in the middle of [0, 1] and its odd reflections, on the whole line."""
    return sum(
        (-1.0) ** copy * np.exp(-((points - 0.5 - copy) ** 2) / (2 * width**2)) for copy in range(-copies, copies + 1)
    )


def chebyshev_string(speed, elapsed, points, width, degree=90):
    """Collocation at Chebyshev points and SciPy's DOP853 in time: nothing in common with sines."""
    nodes = np.cos(np.pi * np.arange(degree + 1) / degree)
    scale = np.where((np.arange(degree + 1) == 0) | (np.arange(degree + 1) == degree), 2.0, 1.0)
    scale *= (-1.0) ** np.arange(degree + 1)
    slope = np.outer(scale, 1 / scale) / (nodes[:, None] - nodes + np.eye(degree + 1))
    slope -= np.diag(slope.sum(axis=1))
    slope *= 2
    operator = (slope @ (speed((nodes + 1) / 2)[:, None] ** 2 * slope))[1:-1, 1:-1]
    start = np.concatenate([reflected_pulse((nodes[1:-1] + 1) / 2, width), np.zeros(degree - 1)])

    def rate(time, state):
        return np.concatenate([state[degree - 1 :], operator @ state[: degree - 1]])

    end = solve_ivp(rate, (0, elapsed), start, "DOP853", rtol=1e-9, atol=1e-11).y[: degree - 1, -1]
    distance = 2 * points[:, None] - 1 - nodes
    hit = np.abs(distance) < 1e-14
    weights = np.where(hit.any(axis=1)[:, None], hit, (1 / scale) / np.where(hit, 1.0, distance))
    return weights @ np.concatenate([[0.0], end, [0.0]]) / weights.sum(axis=1)


def test_the_series_of_the_pulse_is_that_of_its_reflections():
    points = np.linspace(0, 1, 41)
    for width in (0.02, 0.1, 0.2):
        series = module.pulse(256, width) @ half_waves.sines(256, points)
        np.testing.assert_allclose(series, reflected_pulse(points, width), atol=1e-12)


def test_in_an_even_medium_the_pulse_runs_both_ways_as_d_alembert_says():
    points, way = np.linspace(0, 1, 50), 2.0 * np.array([0.1, 0.55, 3.21])
    nodes = np.full((1, 4 * 96 + 1), 4.0)
    ours = module.galerkin_waves(nodes, module.pulse(96, 0.05), way / 2)[0] @ half_waves.sines(96, points)
    for row, distance in enumerate(way):
        halves = reflected_pulse(points - distance, 0.05, 12) + reflected_pulse(points + distance, 0.05, 12)
        np.testing.assert_allclose(ours[row], halves / 2, atol=1e-11)


@pytest.mark.parametrize("contrast", [1.2, 2.0])
def test_random_strings_move_as_collocation_and_a_time_stepper_say(contrast):
    data = wave(2, resolution=33, contrast=contrast, time=0.7, key=5)
    field = half_waves.gaussian_field(2, 0.2, np.random.default_rng(5)) * np.log(contrast) / 2
    points = np.linspace(0, 1, 33)
    for row in range(2):

        def speed(x, row=row):
            return np.exp(field[row] @ half_waves.cosines(field.shape[1], x))

        np.testing.assert_allclose(data.inputs[row], speed(points), rtol=1e-12)
        np.testing.assert_allclose(data.outputs[row], chebyshev_string(speed, 0.7, points, 0.1), atol=2e-6)


def test_the_energy_stays_what_it_was():
    """Half the squares of velocity and of c times the slope, by sums over a grid that resolves them."""
    field = half_waves.gaussian_field(1, 0.2, np.random.default_rng(0))[0] * np.log(2.0) / 2
    modes, fine, step = 128, np.linspace(0, 1, 2049), 1e-5
    squares = np.exp(2 * field @ half_waves.cosines(len(field), np.linspace(0, 1, 4 * modes + 1)))[None]
    times = np.array([0.0, 0.3, 0.9, 2.0])
    spectra = module.galerkin_waves(squares, module.pulse(modes, 0.1), np.concatenate([times - step, times + step]))[0]
    before, after = spectra[:4], spectra[4:]
    velocity = (after - before) / (2 * step) @ half_waves.sines(modes, fine)
    numbers = np.pi * np.arange(1, modes + 1)
    slope = ((after + before) / 2 * numbers) @ half_waves.cosines(modes + 1, fine)[1:]
    speeds = np.exp(2 * field @ half_waves.cosines(len(field), fine))
    energy = np.trapezoid(velocity**2 + speeds * slope**2, fine, axis=1) / 2
    np.testing.assert_allclose(energy, energy[0], rtol=1e-6)


def test_every_sine_swings_at_its_own_frequency_where_the_speed_is_constant():
    times, numbers = np.array([0.2, 0.4, 0.6]), np.arange(1, 59)
    for given in ("displacement", "velocity"):
        data = wave(4, given, 60, speed=1.5, time=0.6, times=3)
        start = dst(data.inputs[:, 1:-1], type=1, axis=1)[:, None]
        later = dst(data.outputs.reshape(4, 3, 60)[:, :, 1:-1], type=1, axis=2)
        phases = 1.5 * np.pi * np.outer(times, numbers)
        swing = np.cos(phases) if given == "displacement" else np.sin(phases) / (1.5 * np.pi * numbers)
        np.testing.assert_allclose(later, start * swing, atol=1e-10)
        assert np.abs(start).max() > 1


def test_a_mirrored_medium_has_the_mirrored_string():
    field = half_waves.gaussian_field(1, 0.2, np.random.default_rng(1)) * 0.3
    mirrored = field * (-1.0) ** np.arange(field.shape[1])
    both = np.concatenate([field, mirrored])
    strings = module._strings(both, 0.1, np.array([0.8]), np.linspace(0, 1, 30), lambda *_: None)[:, 0]
    np.testing.assert_allclose(strings[1], strings[0][::-1], atol=1e-11)


def test_functions_do_not_depend_on_how_many_there_are_nor_on_the_grid():
    few, many, fine = wave(3, key=4), wave(7, key=4), wave(3, key=4, resolution=127)
    np.testing.assert_allclose(many.inputs[:3], few.inputs, rtol=1e-12)
    np.testing.assert_allclose(many.outputs[:3], few.outputs, atol=1e-9)
    np.testing.assert_allclose(fine.outputs[:, ::2], few.outputs, atol=1e-9)
    assert np.abs(wave(3, key=5).inputs - few.inputs).max() > 0.01
    assert wave(3, key=4).fingerprint == few.fingerprint


def test_progress_is_reported_up_to_the_end():
    calls = []
    wave(3, progress=lambda *arguments: calls.append(arguments))
    assert calls[0] == ("simulating waves", 0, 3)
    assert calls[-1] == ("simulating waves", 3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"given": "tension"},
        {"resolution": 7},
        {"times": 0},
        {"speed": 0.0},
        {"time": float("nan")},
        {"time": 101.0},
        {"contrast": 1.0},
        {"contrast": 21.0},
        {"length_scale": 0.01},
        {"pulse_width": 0.3},
        {"contrast": 20.0, "length_scale": 0.03, "pulse_width": 0.02},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ForetrainError, match=r"wave: expected") as refusal:
        wave(**{"samples": 2} | settings)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"wave: .* fewer samples"):
        wave(10**8, resolution=1000)
