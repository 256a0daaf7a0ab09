import exponax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _navier_stokes as module
from foretrain.problems import navier_stokes


def plane(points):
    return np.meshgrid(*[2 * np.pi * np.arange(points) / points] * 2, indexing="ij")


def advance(vorticity, forcing, time, steps, viscosity):
    stepper = module._VorticityStepper(vorticity.shape[-1], viscosity, time / steps)
    return stepper.advance(vorticity[None], forcing[None], steps)[0]


def random_state(points, key, size=1.0):
    return size * module._field(np.random.default_rng(key).standard_normal((1, 2, 50)), points)[0]


def test_a_vortex_of_taylor_and_green_decays_without_moving():
    x, y = plane(32)
    start = np.cos(3 * x) * np.cos(3 * y)
    ours = advance(start, np.zeros_like(start), 2.0, 8, 0.05)
    np.testing.assert_allclose(ours, np.exp(-0.05 * 18 * 2.0) * start, atol=1e-12)


def test_a_wave_that_is_carried_along_by_a_shear_of_its_own_shape_is_forced_as_the_linear_equation_says():
    """Vorticity and forcing that depend on x + y alone carry nothing along themselves."""
    x, y = plane(32)
    start, forcing = np.sin(x + y), np.cos(2 * (x + y))
    ours = advance(start, forcing, 3.0, 6, 0.1)
    expected = np.exp(-0.2 * 3.0) * start + (1 - np.exp(-0.8 * 3.0)) / 0.8 * forcing
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_a_manufactured_steady_state_stays():
    """f = v . grad w - viscosity Laplace w, by hand, for w = sin x + sin 2y, s = sin x + sin(2y) / 4."""
    x, y = plane(48)
    vorticity = np.sin(x) + np.sin(2 * y)
    speed_x, speed_y = np.cos(2 * y) / 2, -np.cos(x)
    forcing = speed_x * np.cos(x) + speed_y * 2 * np.cos(2 * y) + 0.2 * (np.sin(x) + 4 * np.sin(2 * y))
    np.testing.assert_allclose(advance(vorticity, forcing, 1.0, 40, 0.2), vorticity, atol=1e-10)


def test_flows_without_forcing_are_those_of_another_solver(double):
    start = random_state(32, 0, 20.0)
    stepper = exponax.stepper.NavierStokesVorticity(2, 2 * np.pi, 32, 0.02, diffusivity=0.05, order=4)
    # Its vorticity turns the other way.
    theirs = -np.asarray(exponax.repeat(stepper, 50)(jnp.asarray(-start)[None]))[0]
    ours = advance(start, np.zeros_like(start), 1.0, 50, 0.05)
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(ours)
    still = np.exp(-0.05) * start
    assert np.linalg.norm(ours - still) > 0.1 * np.linalg.norm(ours)


def test_forced_flows_are_those_of_a_general_time_stepper():
    """Finite sums of all products of waves, no transform: convolution on the wave vectors up to five."""
    reach = 5
    numbers = np.arange(-reach, reach + 1)
    vectors = np.stack(np.meshgrid(numbers, numbers, indexing="ij"), axis=-1).reshape(-1, 2)
    square = np.sum(vectors**2, axis=1)
    inverse = np.where(square > 0, 1 / np.maximum(square, 1), 0.0)
    index = {tuple(vector): place for place, vector in enumerate(vectors)}
    triples = [
        (a, b, index[tuple(vectors[a] + vectors[b])])
        for a in range(len(vectors))
        for b in range(len(vectors))
        if tuple(vectors[a] + vectors[b]) in index
    ]
    first, second, total = np.array(triples).T
    # Of v . grad w, with v = (i k_y, -i k_x) w / |k|^2 for the first and grad w = i k w for the second.
    cross = vectors[first, 0] * vectors[second, 1] - vectors[first, 1] * vectors[second, 0]
    weight = cross * inverse[first]
    rng = np.random.default_rng(0)
    x, y = plane(16)
    waves = np.exp(1j * (vectors[:, 0, None, None] * x + vectors[:, 1, None, None] * y))
    low = np.abs(vectors).max(axis=1) <= 2

    def real_state():
        values = np.where(low, rng.standard_normal(len(vectors)) + 1j * rng.standard_normal(len(vectors)), 0)
        values[square == 0] = 0
        return (values + np.conj(values[::-1])) / 4

    start, force = real_state(), real_state()

    def rate(time, state):
        carried = np.zeros(len(vectors), complex)
        np.add.at(carried, total, weight * state[first] * state[second])
        return force - carried - 0.1 * square * state

    end = solve_ivp(rate, (0, 0.5), start, "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    at_points = [np.real(np.tensordot(values, waves, axes=1)) for values in (start, force, end)]
    # The two-thirds rule keeps, of sixteen points, the waves up to five.
    ours = advance(at_points[0], at_points[1], 0.5, 100, 0.1)
    np.testing.assert_allclose(ours, at_points[2], atol=1e-7)
    assert np.abs(at_points[2] - at_points[0]).max() > 0.1


def test_without_viscosity_energy_and_enstrophy_stay():
    start = random_state(64, 1, 60.0)
    later = advance(start, np.zeros_like(start), 1.0, 100, 1e-12)
    wave_numbers = np.fft.fftfreq(64, 1 / 64)
    square = wave_numbers[:, None] ** 2 + wave_numbers**2
    for power in (0, 1):
        before, after = (
            np.sum(np.abs(np.fft.fft2(state)) ** 2 / np.where(square > 0, square, np.inf) ** power)
            for state in (start, later)
        )
        assert after == pytest.approx(before, rel=1e-8)
    assert np.linalg.norm(later - start) > 0.1 * np.linalg.norm(start)


def test_the_error_falls_with_the_fourth_power_of_the_time_step():
    start, forcing = random_state(32, 2, 20.0), random_state(32, 3, 20.0)
    exact = advance(start, forcing, 2.0, 320, 0.05)
    errors = [np.abs(advance(start, forcing, 2.0, steps, 0.05) - exact).max() for steps in (10, 20, 40)]
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 4.0, atol=0.3)


def test_the_default_is_exact_to_a_millionth():
    ours = navier_stokes(2, resolution=16)
    finer = navier_stokes(2, resolution=16, simulation_resolution=96, time_steps=80)
    np.testing.assert_allclose(finer.inputs, ours.inputs, atol=1e-15)
    assert np.linalg.norm(ours.outputs - finer.outputs) < 1e-6 * np.linalg.norm(finer.outputs)


def test_forcing_is_a_hundred_published_waves():
    vectors = module._wave_vectors()
    assert len(vectors) == 50
    assert (vectors**2).sum(axis=1).max() == 32
    coefficients = np.random.default_rng(0).standard_normal((3, 2, 50))
    x, y = plane(12)
    expected = np.zeros((3, 12, 12))
    for (across, along), cosines, sines in zip(vectors, coefficients[:, 0].T, coefficients[:, 1].T, strict=True):
        angle = across * x + along * y
        wave = cosines[:, None, None] * np.cos(angle) + sines[:, None, None] * np.sin(angle)
        expected += wave / (np.sqrt(2) * np.pi * (across**2 + along**2 + 9.0) ** 2)
    np.testing.assert_allclose(module._field(coefficients, 12), expected, atol=1e-15)


def test_functions_do_not_depend_on_how_many_there_are_nor_on_the_grid(monkeypatch):
    few = navier_stokes(3, resolution=16, key=5)
    monkeypatch.setattr(module, "FUNCTIONS_AT_ONCE", 2)
    many, fine = navier_stokes(5, resolution=16, key=5), navier_stokes(3, resolution=32, key=5)
    np.testing.assert_allclose(many.inputs[:3], few.inputs, atol=1e-15)
    np.testing.assert_allclose(many.outputs[:3], few.outputs, atol=1e-12)
    coarse = fine.outputs.reshape(3, 32, 32)[:, ::2, ::2].reshape(3, -1)
    np.testing.assert_allclose(coarse, few.outputs, atol=1e-9)
    assert np.abs(navier_stokes(3, resolution=16, key=6).inputs - few.inputs).max() > 1e-3


def test_progress_is_reported_up_to_the_end():
    calls = []
    navier_stokes(3, resolution=16, time_steps=1, progress=lambda *arguments: calls.append(arguments))
    assert calls[0] == ("simulating the Navier-Stokes equations", 0, 3)
    assert calls[-1] == ("simulating the Navier-Stokes equations", 3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"resolution": 15},
        {"viscosity": 0.0},
        {"viscosity": float("nan")},
        {"time": -1.0},
        {"amplitude": 0.0},
        {"amplitude": 31.0},
        {"simulation_resolution": 40},
        {"simulation_resolution": 8},
        {"time_steps": 0},
        {"amplitude": 30.0, "time": 100.0, "time_steps": 30},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ForetrainError, match=r"navier_stokes: expected") as refusal:
        navier_stokes(**{"samples": 2, "resolution": 16} | settings)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"Navier-Stokes equations: .* fewer samples"):
        navier_stokes(10**7)
