import numpy as np
import pytest
import scipy.linalg

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.data import relative_errors
from foretrain.problems import _helmholtz as module
from foretrain.problems import helmholtz
from foretrain.problems._bilinear_elements import BilinearElements


def entering(mode):
    """Integral of sqrt(2) cos(mode pi x), or of 1, from .35 to .65."""
    if mode == 0:
        return 0.3
    return np.sqrt(2) * (np.sin(mode * np.pi * 0.65) - np.sin(mode * np.pi * 0.35)) / (mode * np.pi)


def layered_solution(square, grid, heights, degree=80):
    """For k^2 that depends on x only: eigenfunctions in x by Legendre polynomials, cosines of y in closed form."""
    nodes, weights = np.polynomial.legendre.leggauss(3 * degree)
    x = (nodes + 1) / 2
    scale = np.sqrt(2 * np.arange(degree) + 1)
    values = np.polynomial.legendre.legvander(nodes, degree - 1) * scale
    slopes = np.stack(
        [np.polynomial.legendre.legval(nodes, np.polynomial.legendre.legder(row)) for row in np.diag(scale)], axis=1
    )
    stiffness = (4 * slopes.T * weights) @ slopes / 2 - (values.T * (weights * square(x))) @ values / 2
    eigenvalues, vectors = scipy.linalg.eigh(stiffness)
    # What enters jumps: its integrals are exact only piece by piece.
    inside = 0.35 + 0.3 * x
    load = 0.3 * (np.polynomial.legendre.legvander(2 * inside - 1, degree - 1) * scale).T @ (weights / 2)
    rates = np.sqrt(eigenvalues + 0j)
    profile = np.exp(np.outer(rates, heights - 1)) + np.exp(-np.outer(rates, heights + 1))
    profile /= (rates * (1 - np.exp(-2 * rates)))[:, None]
    shapes = np.polynomial.legendre.legvander(2 * grid - 1, degree - 1) * scale @ vectors
    return np.real((shapes * (vectors.T @ load)) @ profile)


def test_the_sound_of_a_constant_medium_is_its_series():
    grid, square = np.linspace(0, 1, 21), 30.0**2
    modes = np.arange(4000)
    rates = np.sqrt((np.pi * modes) ** 2 - square + 0j)
    shapes = np.sqrt(np.where(modes == 0, 1, 2)) * np.cos(np.pi * np.outer(grid, modes))
    amplitudes = np.array([entering(mode) for mode in modes])
    below = grid[:-1]
    profile = (np.exp(np.outer(rates, below - 1)) + np.exp(-np.outer(rates, below + 1))) / (
        rates * (1 - np.exp(-2 * rates))
    )[:, None]
    ours = module._sound_of_a_constant_medium(21, square)
    np.testing.assert_allclose(ours[:, :-1], np.real((shapes * amplitudes) @ profile), atol=1e-12)
    at_the_top = np.real((shapes * amplitudes) @ (1 / (rates * np.tanh(rates))))
    np.testing.assert_allclose(ours[:, -1], at_the_top, atol=1e-6)


def test_a_layered_medium_sounds_as_its_eigenfunctions_say():
    grid = np.linspace(0, 1, 21)

    def square(x):
        return (20.0 + 2.0 * np.cos(np.pi * x) + np.cos(3 * np.pi * x)) ** 2

    # At the side where sound enters, which jumps, polynomials converge too slowly to judge by.
    expected, errors = layered_solution(square, grid, grid[:-1]), []
    for nodes in (41, 81, 161):
        fine = np.repeat(square(np.linspace(0, 1, nodes))[:, None], nodes, axis=1)
        ours = module._Box(nodes, 20.0).sound(fine)[:: (nodes - 1) // 20, :: (nodes - 1) // 20][:, :-1]
        errors.append(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
    assert errors[-1] < 1e-4
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2.0, atol=0.3)


def test_the_constant_that_is_taken_out_does_not_matter(monkeypatch):
    medium = (
        18.0 / (1 + 0.05 * module._field(np.random.default_rng(0).standard_normal(100), np.linspace(0, 1, 81)))
    ) ** 2
    ours = module._Box(81, 18.0).sound(medium)
    monkeypatch.setattr(module, "_between", lambda eigenvalues, square: square + 7.0)
    theirs = module._Box(81, 18.0).sound(medium)
    assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(ours)


def test_bilinear_elements_converge_to_the_cosines_at_second_order():
    make = {"samples": 2, "frequency": 150.0, "resolution": 21, "variation": 4.0}
    exact = helmholtz(**make, simulation_resolution=401).outputs
    errors = [relative_errors(helmholtz(**make, elements=count).outputs, exact).mean() for count in (40, 80, 160)]
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2.0, atol=0.2)
    assert errors[-1] < 2e-3


def test_bilinear_elements_hold_a_constant_in_balance():
    """Without waves inside, every row of the stiffness adds up to nothing, and the load to what enters."""
    mesh = BilinearElements(20, 0.35, 0.65)
    assert mesh._load.sum() == pytest.approx(0.3)
    np.testing.assert_allclose(mesh._stiffness.sum(axis=1), 0.0, atol=1e-14)
    assert mesh._masses.sum() == pytest.approx(1.0)
    tiny = mesh.sound(np.full((60, 60), 1e-6))
    np.testing.assert_allclose(tiny * -1e-6, 0.3, rtol=1e-4)


def test_the_field_has_the_published_eigenvalues():
    """The mean square of psi over the box is the sum of the hundred largest eigenvalues of (-Laplace + 9)^-2."""
    squares = np.sort((np.arange(20) ** 2)[:, None].repeat(20, 1).ravel() + np.tile(np.arange(20) ** 2, 20))[1:101]
    expected = np.sum((np.pi**2 * squares + 9.0) ** -2.0)
    fields = [module._field(row, np.linspace(0, 1, 65)) for row in np.random.default_rng(0).standard_normal((400, 100))]
    weights = np.full(65, 1.0 / 64)
    weights[[0, -1]] /= 2
    found = [weights @ field**2 @ weights for field in fields]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 20)


def test_the_default_grid_is_as_exact_as_stated():
    make = {"samples": 2, "resolution": 26}
    ours = helmholtz(**make)
    assert ours.description["simulation_resolution"] == 201
    finer = helmholtz(**make, simulation_resolution=401)
    np.testing.assert_array_equal(ours.inputs, finer.inputs)
    assert relative_errors(ours.outputs, finer.outputs).max() < 2e-4


def test_functions_do_not_depend_on_how_many_there_are_nor_on_the_grid():
    make = {"frequency": 200.0, "simulation_resolution": 41, "key": 3}
    few, many, fine = (
        helmholtz(2, resolution=11, **make),
        helmholtz(3, resolution=11, **make),
        helmholtz(2, resolution=21, **make),
    )
    np.testing.assert_array_equal(many.inputs[:2], few.inputs)
    np.testing.assert_allclose(many.outputs[:2], few.outputs, atol=1e-12)
    np.testing.assert_allclose(fine.outputs.reshape(2, 21, 21)[:, ::2, ::2].reshape(2, -1), few.outputs, atol=1e-12)
    assert np.abs(helmholtz(2, resolution=11, **(make | {"key": 4})).inputs - few.inputs).max() > 0.01


def test_progress_is_reported_up_to_the_end():
    calls = []
    helmholtz(2, 100.0, 9, simulation_resolution=17, progress=lambda *arguments: calls.append(arguments))
    assert calls == [("simulating sound", done, 2) for done in range(3)]


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"resolution": 7},
        {"frequency": 0.0},
        {"frequency": float("nan")},
        {"frequency": 1e5},
        {"speed": -1.0},
        {"variation": 0.0},
        {"variation": 11.0},
        {"simulation_resolution": 100},
        {"simulation_resolution": 9},
        {"elements": 9},
        {"elements": 5},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ForetrainError, match=r"helmholtz: expected") as refusal:
        helmholtz(**{"samples": 2, "resolution": 11} | settings)
    assert "\n" not in str(refusal.value)


def test_a_box_that_resounds_too_loudly_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_ITERATIONS", 2)
    with pytest.raises(ForetrainError, match=r"helmholtz: expected a relative residual"):
        helmholtz(2, resolution=26, simulation_resolution=51)


def test_a_dataset_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"simulating sound: .* fewer samples"):
        helmholtz(10**7)
