import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _half_waves as half_waves
from foretrain.problems import _poisson as module
from foretrain.problems import poisson


def solver(nodes, strength):
    eigenvalues = (np.pi * np.arange(1, nodes - 1)) ** 2
    return module._CubicSolver(eigenvalues[:, None] + eigenvalues, strength)


def five_point_solution(source, spacing, steps=30):
    """Second-order finite differences with Newton's method and a direct solver, boundary left out."""
    count = len(source)
    second = scipy.sparse.diags([-np.ones(count - 1), 2 * np.ones(count), -np.ones(count - 1)], [-1, 0, 1])
    laplacian = scipy.sparse.kronsum(second, second, format="csc") / spacing**2
    solution = np.zeros(count**2)
    for _ in range(steps):
        residual = source.ravel() - laplacian @ solution - solution**3
        solution += scipy.sparse.linalg.spsolve(laplacian + scipy.sparse.diags(3 * solution**2, format="csc"), residual)
    assert np.abs(residual).max() < 1e-6 * np.abs(source).max()
    return solution.reshape(count, count)


def test_a_manufactured_solution_is_found():
    x = np.linspace(0, 1, 49)[1:-1]
    exact = 9 * np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x) + 4 * np.sin(3 * np.pi * x)[:, None] * np.sin(
        np.pi * x
    )
    laplacian = 5 * np.pi**2 * 9 * np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x)
    laplacian += 10 * np.pi**2 * 4 * np.sin(3 * np.pi * x)[:, None] * np.sin(np.pi * x)
    both = np.stack([laplacian + exact**3, 0.01 * laplacian + 1e-6 * exact**3])
    found = solver(49, 1.0).solve(both)
    np.testing.assert_allclose(found, np.stack([exact, 0.01 * exact]), atol=1e-9)


def test_the_linear_equation_divides_every_sine_by_its_eigenvalue():
    x = np.linspace(0, 1, 33)[1:-1]
    source = np.sin(2 * np.pi * x)[:, None] * np.sin(5 * np.pi * x)
    np.testing.assert_allclose(solver(33, 0.0).solve(source[None])[0], source / (29 * np.pi**2), atol=1e-15)


def test_finite_differences_converge_to_the_solution_at_second_order():
    errors = []
    for nodes in (33, 65):
        data = poisson(2, resolution=nodes, simulation_resolution=nodes, amplitude=400.0, key=2)
        source, exact = (values[0].reshape(nodes, nodes)[1:-1, 1:-1] for values in (data.inputs, data.outputs))
        errors.append(np.linalg.norm(five_point_solution(source, 1 / (nodes - 1)) - exact) / np.linalg.norm(exact))
    assert errors[1] < 1e-2
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def test_the_default_grid_is_exact_to_a_hundred_millionth():
    ours = poisson(3, resolution=17)
    finer = poisson(3, resolution=17, simulation_resolution=161)
    np.testing.assert_allclose(finer.inputs, ours.inputs, atol=1e-9)
    assert np.linalg.norm(ours.outputs - finer.outputs) < 1e-8 * np.linalg.norm(finer.outputs)


def test_the_cubic_term_holds_solutions_down_and_the_sign_is_odd():
    linear, cubic = poisson(3, "linear", 17), poisson(3, "cubic", 17)
    np.testing.assert_array_equal(linear.inputs, cubic.inputs)
    assert np.all(np.sum(cubic.outputs**2, axis=1) < 0.9 * np.sum(linear.outputs**2, axis=1))
    source = cubic.inputs[:1].reshape(1, 17, 17)[:, 1:-1, 1:-1]
    one = solver(17, 1.0)
    np.testing.assert_allclose(one.solve(-source), -one.solve(source), atol=1e-10)
    np.testing.assert_allclose(one.solve(source.transpose(0, 2, 1)), one.solve(source).transpose(0, 2, 1), atol=1e-10)


def test_sources_have_the_covariance_they_should():
    deviations = half_waves.field_deviations(0.2)[1:]
    shapes = half_waves.sines(len(deviations), np.array([0.4, 0.5, 0.6]))
    covariance = shapes.T * deviations**2 @ shapes
    expected = np.exp(-(np.subtract.outer([0.4, 0.5, 0.6], [0.4, 0.5, 0.6]) ** 2) / 0.08)
    # Reflections reach a little into the middle.
    np.testing.assert_allclose(covariance, expected, atol=5e-4)
    data = poisson(400, "linear", 11, amplitude=3.0, simulation_resolution=11)
    middle = data.inputs.reshape(400, 11, 11)[:, 5, 5]
    assert middle.std() == pytest.approx(3.0, rel=0.15)


def test_functions_do_not_depend_on_how_many_there_are(monkeypatch):
    few = poisson(3, resolution=9, key=7)
    monkeypatch.setattr(module, "FUNCTIONS_AT_ONCE", 2)
    many = poisson(5, resolution=9, key=7)
    np.testing.assert_allclose(many.inputs[:3], few.inputs, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(many.outputs[:3], few.outputs, atol=1e-9)
    assert poisson(3, resolution=9, key=7).name == few.name == "Poisson, cubic"


def test_progress_is_reported_up_to_the_end():
    calls = []
    poisson(3, resolution=9, progress=lambda *arguments: calls.append(arguments))
    assert calls[0] == ("solving Poisson's equation", 0, 3)
    assert calls[-1] == ("solving Poisson's equation", 3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"equation": "quintic"},
        {"resolution": 7},
        {"amplitude": 0.0},
        {"amplitude": float("nan")},
        {"amplitude": 1e5},
        {"length_scale": 0.01},
        {"simulation_resolution": 40},
        {"simulation_resolution": 5},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ForetrainError, match=r"poisson: expected") as refusal:
        poisson(**{"samples": 2, "resolution": 9} | settings)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"Poisson's equation: .* fewer samples"):
        poisson(10**8, resolution=101)
