import numpy as np
import pytest
import scipy.linalg
from scipy.fft import dst
from scipy.special import erfc

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _heat as module
from foretrain.problems._heat import heat


def temperatures(conductivity, modes, elapsed, points):
    """The rod that starts at one, by a fixed number of sines, for any function of x."""
    medium = conductivity(np.linspace(0, 1, 4 * modes + 1))[None]
    return module._galerkin_solution(medium, np.atleast_1d(elapsed))[0] @ module._sines(modes, points)


def images(elapsed, points, diffusivity=1.0, copies=20):
    """The same for constant conductivity by mirror images, without any sine."""
    reach = 2 * np.sqrt(diffusivity * elapsed)
    heat_lost = np.zeros_like(points)
    for copy in range(copies):
        heat_lost += (-1.0) ** copy * (erfc((copy + points) / reach) + erfc((copy + 1 - points) / reach))
    return 1 - heat_lost


def chebyshev_solution(conductivity, elapsed, points, degree=120):
    """Collocation at Chebyshev points and the exponential of its dense matrix: nothing in common with sines."""
    nodes = np.cos(np.pi * np.arange(degree + 1) / degree)
    scale = np.where((np.arange(degree + 1) == 0) | (np.arange(degree + 1) == degree), 2.0, 1.0)
    scale *= (-1.0) ** np.arange(degree + 1)
    apart = nodes[:, None] - nodes + np.eye(degree + 1)
    slope = np.outer(scale, 1 / scale) / apart
    slope -= np.diag(slope.sum(axis=1))
    slope *= 2
    operator = slope @ (conductivity((nodes + 1) / 2)[:, None] * slope)
    inner = scipy.linalg.expm(elapsed * operator[1:-1, 1:-1]) @ np.ones(degree - 1)
    values = np.concatenate([[0.0], inner, [0.0]])
    weights = 1 / scale
    distance = 2 * points[:, None] - 1 - nodes
    hit = np.abs(distance) < 1e-14
    barycentric = np.where(hit.any(axis=1)[:, None], hit, weights / np.where(hit, 1.0, distance))
    return barycentric @ values / barycentric.sum(axis=1)


def random_conductivity(key, contrast=4.0, length_scale=0.1):
    coefficients = module._gaussian_field(1, length_scale, np.random.default_rng(key))[0] * np.log(contrast) / 2
    return lambda x: np.exp(coefficients @ module._cosines(len(coefficients), x))


def test_the_constant_rod_cools_as_mirror_images_say():
    points = np.linspace(0, 1, 40)
    for elapsed in (0.003, 0.02, 0.3):
        ours = temperatures(lambda x: 2.0 * np.ones_like(x), 64, elapsed, points)[0]
        np.testing.assert_allclose(ours, images(elapsed, points, 2.0), atol=1e-13)


def test_every_sine_decays_at_its_rate_where_the_conductivity_is_constant():
    data = heat(5, "constant", 60, diffusivity=0.03, time=2.0, times=4)
    numbers, times = np.arange(1, 59), np.array([0.5, 1.0, 1.5, 2.0])
    initial = dst(data.inputs[:, 1:-1], type=1, axis=1)
    later = dst(data.outputs.reshape(5, 4, 60)[:, :, 1:-1], type=1, axis=2)
    decay = np.exp(-0.03 * np.outer(times, (np.pi * numbers) ** 2))
    np.testing.assert_allclose(later, initial[:, None] * decay, atol=1e-11)
    assert np.abs(initial).max() > 1
    np.testing.assert_array_equal(np.unique(data.query_points[:, 0]), times)
    np.testing.assert_allclose(data.query_points[61], [1.0, 1 / 59])


@pytest.mark.parametrize(("contrast", "length_scale"), [(4.0, 0.1), (20.0, 0.2), (4.0, 0.06)])
def test_random_rods_cool_as_collocation_says(contrast, length_scale):
    data = heat(3, resolution=33, contrast=contrast, length_scale=length_scale, key=6)
    field = module._gaussian_field(3, length_scale, np.random.default_rng(6))
    for row in range(3):
        exponents = field[row] * np.log(contrast) / 2

        def conductivity(x, exponents=exponents):
            return 0.05 * np.exp(exponents @ module._cosines(len(exponents), x))

        np.testing.assert_allclose(data.inputs[row], conductivity(np.linspace(0, 1, 33)), rtol=1e-12)
        expected = chebyshev_solution(conductivity, 1.0, np.linspace(0, 1, 33))
        assert np.linalg.norm(data.outputs[row] - expected) < 1e-8 * np.linalg.norm(expected)


def test_the_error_falls_exponentially_in_the_number_of_sines():
    points, conductivity = np.linspace(0, 1, 33), random_conductivity(3)
    exact = chebyshev_solution(conductivity, 0.05, points)
    errors = [np.linalg.norm(temperatures(conductivity, modes, 0.05, points) - exact) for modes in (12, 24, 48)]
    orders = -np.diff(np.log2(errors))
    assert orders[1] > orders[0] > 4
    assert errors[-1] < 1e-7 * np.linalg.norm(exact)


def test_a_medium_that_reflection_would_kink_is_solved_to_second_order():
    """For a = (1 + x)^2 the eigenfunctions are sin(k pi log(1 + x) / log 2) / sqrt(1 + x)."""
    points, elapsed = np.linspace(0, 1, 41), 0.05
    nodes, weights = np.polynomial.legendre.leggauss(400)
    nodes, weights = (nodes + 1) / 2, weights / 2
    numbers = np.arange(1, 40)[:, None] * np.pi / np.log(2)

    def functions(x):
        return np.sqrt(2 / np.log(2)) * np.sin(numbers * np.log(1 + x)) / np.sqrt(1 + x)

    np.testing.assert_allclose((functions(nodes) * weights) @ functions(nodes).T, np.eye(39), atol=1e-12)
    decay = np.exp(-(0.25 + numbers[:, 0] ** 2) * elapsed)
    exact = (decay * (functions(nodes) @ weights)) @ functions(points)
    errors = [np.abs(temperatures(lambda x: (1 + x) ** 2, m, elapsed, points) - exact).max() for m in (32, 64, 128)]
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2.0, atol=0.2)


def test_little_heat_left_is_as_accurate_as_much():
    points, constant = np.linspace(0, 1, 21), np.ones_like
    slowest = 4 / np.pi * np.exp(-5 * np.pi**2) * np.sin(np.pi * points)
    np.testing.assert_allclose(temperatures(constant, 64, 5.0, points)[0], slowest, rtol=1e-12, atol=1e-34)


def test_temperatures_stay_between_those_of_the_ends_and_the_start_and_fall():
    data = heat(20, resolution=40, contrast=20.0, times=6)
    states = data.outputs.reshape(20, 6, 40)
    assert not states[:, :, [0, -1]].any()
    assert states[:, :, 1:-1].min() > 0
    assert states.max() < 1 + 1e-9
    assert np.all(np.diff(states[:, :, 1:-1], axis=1) < 0)


def test_turning_the_rod_turns_the_solution():
    points, conductivity = np.linspace(0, 1, 31), random_conductivity(4)
    turned = temperatures(lambda x: conductivity(1 - x), 64, 0.05, points)
    np.testing.assert_allclose(turned[:, ::-1], temperatures(conductivity, 64, 0.05, points), atol=1e-12)


@pytest.mark.parametrize("conductivity", ["variable", "constant"])
def test_only_the_product_of_diffusivity_and_time_matters(conductivity):
    slow = heat(4, conductivity, 20, diffusivity=0.02, time=3.0, times=3)
    fast = heat(4, conductivity, 20, diffusivity=0.06, time=1.0, times=3)
    np.testing.assert_allclose(slow.outputs, fast.outputs, rtol=1e-9, atol=1e-13)
    ratio = 3 if conductivity == "variable" else 1
    np.testing.assert_allclose(ratio * slow.inputs, fast.inputs, rtol=1e-13)


@pytest.mark.parametrize(("conductivity", "sign"), [("variable", 1), ("constant", -1)])
def test_the_field_has_the_reflected_covariance_it_should(conductivity, sign):
    draws, length_scale = 3000, 0.2
    points = np.linspace(0, 1, 9)
    field = module._gaussian_field(draws, length_scale, np.random.default_rng(0))
    if conductivity == "variable":
        data = heat(2, resolution=9, length_scale=length_scale, contrast=9.0, diffusivity=0.07)
        values = field @ module._cosines(field.shape[1], points)
        np.testing.assert_allclose(np.log(data.inputs / 0.07) / np.log(3.0), values[:2], atol=1e-12)
    else:
        values = field[:, 1:] @ module._sines(field.shape[1] - 1, points)
        data = heat(2, "constant", 9, length_scale=length_scale)
        np.testing.assert_allclose(data.inputs, values[:2], atol=1e-12)
    expected = sum(
        np.exp(-((points[:, None] - points + turn) ** 2) / (2 * length_scale**2))
        + sign * np.exp(-((points[:, None] + points + turn) ** 2) / (2 * length_scale**2))
        for turn in range(-6, 7, 2)
    )
    sampling = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / draws)
    assert np.all(np.abs(values.T @ values / draws - expected) < 4.5 * sampling + 1e-12)


@pytest.mark.parametrize("conductivity", ["variable", "constant"])
def test_the_same_key_gives_the_same_functions_whatever_the_grid_and_the_times(conductivity):
    coarse = heat(4, conductivity, 15, key=2, times=2)
    fine = heat(6, conductivity, 29, key=2, times=4)
    np.testing.assert_allclose(fine.inputs[:4, ::2], coarse.inputs, rtol=1e-12, atol=1e-12)
    states = fine.outputs.reshape(6, 4, 29)[:4, 1::2, ::2]
    np.testing.assert_allclose(states.reshape(4, -1), coarse.outputs, rtol=1e-8, atol=1e-10)
    last = heat(4, conductivity, 15, key=2, times=1)
    np.testing.assert_allclose(last.outputs, coarse.outputs[:, 15:], rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(last.query_points, last.sensor_points)
    other = heat(4, conductivity, 15, key=3, times=2)
    assert np.linalg.norm(other.inputs - coarse.inputs) > 0.2 * np.linalg.norm(coarse.inputs)


def test_the_same_settings_give_the_same_data():
    assert heat(3, resolution=12).fingerprint == heat(3, resolution=12).fingerprint


def test_functions_that_need_more_sines_get_them(monkeypatch):
    ours = heat(12, resolution=20, contrast=50.0)
    monkeypatch.setattr(module, "LEAST_MODES", 512)
    monkeypatch.setattr(module, "MATRIX_ENTRIES_AT_ONCE", 3 * 512**2)
    many = heat(12, resolution=20, contrast=50.0)
    difference = np.linalg.norm(ours.outputs - many.outputs, axis=1) / np.linalg.norm(many.outputs, axis=1)
    assert difference.max() < 1e-8
    monkeypatch.setattr(module, "LEAST_MODES", 64)
    monkeypatch.setattr(module, "MOST_MODES", 64)
    with pytest.raises(ForetrainError, match=r"64 sines .* smaller contrast") as refusal:
        heat(12, resolution=20, contrast=50.0)
    assert "\n" not in str(refusal.value)


def test_progress_is_reported_up_to_the_end(monkeypatch):
    monkeypatch.setattr(module, "MATRIX_ENTRIES_AT_ONCE", 64**2)
    calls = []
    heat(3, resolution=8, progress=lambda *arguments: calls.append(arguments))
    assert calls == [("simulating heat conduction", done, 3) for done in range(4)]


@pytest.mark.parametrize(
    "sizes",
    [
        {"samples": 1},
        {"resolution": 7},
        {"conductivity": "random"},
        {"times": 0},
        {"diffusivity": 0.0},
        {"diffusivity": -1.0, "time": -1.0},
        {"diffusivity": float("nan")},
        {"time": float("inf")},
        {"time": 1e300},
        {"time": 1000.0},
        {"time": 1000.0, "conductivity": "constant"},
        {"contrast": 1.0},
        {"contrast": 101.0},
        {"length_scale": 0.01},
        {"length_scale": 2.0},
    ],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ForetrainError, match=r"heat: expected .* came") as refusal:
        heat(**{"samples": 4} | sizes)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused_before_it_is_simulated():
    with pytest.raises(MemoryBudgetError, match=r"heat: .* fewer samples"):
        heat(10**9, times=1000)
