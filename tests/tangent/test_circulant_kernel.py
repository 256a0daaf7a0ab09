"""The block-circulant algebra against dense matrices built from the definition, point by point and without any FFT."""

import numpy as np
import pytest

from foretrain.data import OperatorDataset, OutputScale
from foretrain.tangent import CirculantKernel, FourierKernel, FourierSettings, _circulant, _fourier_kernel
from foretrain.tangent._closed_forms import FourierSolution

FUNCTIONS = 5
TOLERANCE = 1e-10


class Definition:
    """The kernel Theta((u, y), (u', y')) of a wide Fourier layer, evaluated pair by pair."""

    def __init__(self, settings, grid_shape, training_inputs):
        self.settings, self.grid_shape = settings, grid_shape
        waves = np.meshgrid(*[np.arange(size) - (size - 1) // 2 for size in grid_shape], indexing="ij")
        self.waves = np.stack(waves, axis=-1).reshape(-1, len(grid_shape))
        grid = np.meshgrid(*[np.arange(size) / size for size in grid_shape], indexing="ij")
        self.grid = np.stack(grid, axis=-1).reshape(-1, len(grid_shape))
        self.prior = (1 + np.sum(self.waves**2, axis=1) / settings.mode_scale**2) ** -settings.decay
        self.factor = 1.0
        powers = [np.sum(self.prior * np.abs(self.coefficients(u)) ** 2) for u in training_inputs]
        self.factor = settings.input_norm / np.sqrt(np.mean(powers))

    def coefficients(self, function):
        return self.factor * np.exp(-2j * np.pi * self.waves @ self.grid.T) @ function / len(self.grid)

    def features(self, functions, points):
        """One row for each (function, point): what the filter's Gaussian coefficients are multiplied with."""
        waves = np.exp(2j * np.pi * points @ self.waves.T)
        return np.concatenate([np.sqrt(self.prior) * self.coefficients(u) * waves for u in functions])

    def plain(self, functions, points, others, other_points):
        left, right = self.features(functions, points), self.features(others, other_points)
        bias, place = self.settings.bias**2, self.settings.place**2
        one_wave = np.mean(np.cos(2 * np.pi * (points[:, None] - other_points[None])), axis=-1)
        covariance = (left @ right.conj().T).real + bias
        covariance += place * np.tile(one_wave, (len(functions), len(others)))
        v = np.sum(np.abs(left) ** 2, axis=1)[:, None] + bias + place
        w = np.sum(np.abs(right) ** 2, axis=1)[None, :] + bias + place
        value, slope = duals(self.settings.activation, v, w, covariance)
        return value + covariance * slope if self.settings.train_filters else value

    def averaged(self, functions, points, others, other_points):
        """The mean over the reflection acting on either side, 1/4 sum_gh Theta(g x, h x')."""
        sign = self.settings.reflection
        if not sign:
            return self.plain(functions, points, others, other_points)
        total = 0.0
        for left, here, left_sign in ((functions, points, 1), (self.reflect(functions), -points, sign)):
            for right, there, right_sign in ((others, other_points, 1), (self.reflect(others), -other_points, sign)):
                total = total + left_sign * right_sign * self.plain(left, here, right, there) / 4
        return total

    def reflect(self, functions):
        """(R u)(x) = s u(-x), by looking every point's mirror image up."""
        mirror = [int(np.argmin(np.sum(((self.grid + point + 0.5) % 1 - 0.5) ** 2, axis=1))) for point in self.grid]
        return self.settings.reflection * functions[:, mirror]

    def gram(self, functions):
        dense = self.averaged(functions, self.grid, functions, self.grid)
        own = np.mean(np.diagonal(self.plain(functions, self.grid, functions, self.grid)))
        return dense + self.settings.ridge * own * np.eye(len(dense))


def duals(name, v, w, c):
    if name == "relu":
        # Kahan's angle from lengths and their product.
        lengths = np.sqrt(v * w)
        apart = np.sqrt(np.maximum(2 - 2 * c / lengths, 0))
        angle = 2 * np.arctan2(np.where(apart < 1e-7, 0, apart), np.sqrt(2 + 2 * c / lengths))
        opening = np.pi - angle
        return lengths * (np.sin(angle) + opening * np.cos(angle)) / (2 * np.pi), opening / (2 * np.pi)
    if name == "erf":
        root = (1 + 2 * v) * (1 + 2 * w)
        return 2 / np.pi * np.arcsin(2 * c / np.sqrt(root)), 4 / np.pi / np.sqrt(root - 4 * c**2)
    assert name == "matern52"
    distance = np.sqrt(5 * np.maximum(v + w - 2 * c, 0))
    slope = 5 / 3 * (1 + distance) * np.exp(-distance)
    return (1 + distance + distance**2 / 3) * np.exp(-distance), slope


CASES = {
    "matern, readout trained": ((9,), FourierSettings("matern52", 1.0, 1.0, 0.5)),
    "relu, filters trained, bias": ((9,), FourierSettings("relu", 1.0, 2.0, 0.5, 0.7, True, ridge=1e-3)),
    "erf, even number of points": ((8,), FourierSettings("erf", 2.0, 1.0, 0.5, 0.3, True, ridge=1e-4)),
    "odd reflection": ((8,), FourierSettings("matern52", 1.5, 1.0, 0.5, 0.2, True, -1, 1e-4)),
    "even reflection": ((9,), FourierSettings("relu", 1.0, 1.0, 0.5, 0.5, False, 1, 1e-3)),
    "two dimensions": ((6, 4), FourierSettings("matern52", 1.5, 1.0, 0.5, 0.4)),
    "two dimensions, odd reflection": ((6, 4), FourierSettings("relu", 1.0, 2.0, 0.5, 0.5, True, -1, 1e-3)),
    "place": ((9,), FourierSettings("matern52", 1.0, 1.0, 0.5, place=0.6)),
    "place, two dimensions, odd reflection": (
        (6, 4),
        FourierSettings("relu", 1.0, 2.0, 0.5, 0.5, True, -1, 1e-3, place=0.7),
    ),
    "two dimensions, even reflection": ((3, 5), FourierSettings("erf", 2.0, 2.0, 0.5, 0.5, True, 1, 1e-4)),
}


class Case:
    def __init__(self, grid_shape, settings):
        rng = np.random.default_rng(len(grid_shape))
        points = int(np.prod(grid_shape))
        self.grid_shape, self.settings = grid_shape, settings
        self.inputs, self.new_inputs = rng.normal(size=(FUNCTIONS, points)), rng.normal(size=(3, points))
        self.residual = rng.normal(size=(FUNCTIONS, points))
        self.definition = Definition(settings, grid_shape, self.inputs)
        self.dense = self.definition.gram(self.inputs)
        self.kernel = FourierKernel.for_inputs(settings, self.inputs, grid_shape)
        self.gram = self.kernel.gram(self.kernel.filter(self.inputs))
        self.data = OperatorDataset(self.inputs, self.residual, self.definition.grid, self.definition.grid)

    def solved(self, offset=0.3, scale=2.0):
        return FourierSolution.solve(self.data, self.settings, OutputScale(offset, scale), self.grid_shape)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request):
    built = Case(*request.param)
    assert np.linalg.cond(built.dense) < 1e6, "the comparison to 1e-10 is meant for well-conditioned kernels"
    return built


def relative_difference(value, truth):
    return np.linalg.norm(np.ravel(value) - np.ravel(truth)) / np.linalg.norm(truth)


def test_apply_is_the_dense_product(case):
    assert relative_difference(case.gram.apply(case.residual), case.dense @ case.residual.ravel()) < TOLERANCE


def test_solve_is_the_dense_solve(case):
    solution = case.gram.solve_with_report(case.residual)
    assert relative_difference(solution.value, np.linalg.solve(case.dense, case.residual.ravel())) < TOLERANCE
    assert solution.relative_residual < TOLERANCE
    assert solution.jitter == (0.0, 0.0)


def test_logdet_is_the_dense_one(case):
    sign, logdet = np.linalg.slogdet(case.dense)
    assert sign == 1
    assert case.gram.logdet() == pytest.approx(logdet, rel=TOLERANCE, abs=1e-9)
    assert case.gram.jitter == (0.0, 0.0)


def test_extreme_eigenvalues_are_the_dense_ones(case):
    values = np.linalg.eigvalsh(case.dense)
    assert case.gram.eigenvalue_max() == pytest.approx(values[-1], rel=TOLERANCE)
    assert case.gram.eigenvalue_min() == pytest.approx(values[0], rel=1e-9)


def test_extreme_eigenpairs_are_dense_ones(case):
    values = np.linalg.eigvalsh(case.dense)
    for pair, value in ((case.gram.eigenpair_min(), values[0]), (case.gram.eigenpair_max(), values[-1])):
        vector = pair.vector.ravel()
        assert pair.vector.shape == case.gram.shape
        assert pair.converged
        assert pair.value == pytest.approx(value, rel=1e-9)
        assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-13)
        mismatch = np.linalg.norm(case.dense @ vector - pair.value * vector)
        assert mismatch == pytest.approx(pair.residual, abs=1e-14 * values[-1])
        assert mismatch < 1e-7 * values[-1]
    assert np.linalg.norm(case.gram.apply(case.gram.eigenpair_min().vector)) == pytest.approx(values[0], rel=1e-9)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("sign", [None, -1, 1])
def test_the_least_eigenvector_is_found_at_whichever_frequency_it_lies(alone, sign):
    grid_shape, functions = (4, 6), 3
    own = _circulant.self_conjugate_frequencies(grid_shape)
    blocks = np.tile(np.eye(functions, dtype=complex), (own.size, 1, 1))
    reflected = None if sign is None else 0.1 * np.tile(np.eye(functions, dtype=complex), (own.size, 1, 1))
    place = np.flatnonzero(own)[1] if alone else np.flatnonzero(~own)[0]
    mode = np.random.default_rng(0).normal(size=(2, functions))
    mode = mode[0] + 0j if alone else mode[0] + 1j * mode[1]
    blocks[place] -= 0.5 * np.outer(mode, mode.conj()) / np.linalg.norm(mode) ** 2
    pair = CirculantKernel(blocks, grid_shape, reflected, sign or 1).eigenpair_min()
    spectrum = np.abs(_circulant.transform(pair.vector, grid_shape)).sum(axis=1)
    assert spectrum[place] > 0.1
    assert pair.residual < 1e-14


def test_prediction_on_the_grid_is_the_dense_one(case):
    weights = np.linalg.solve(case.dense, (case.residual.ravel() - 0.3) / 2.0)
    if case.settings.reflection < 0:
        weights = np.linalg.solve(case.dense, case.residual.ravel() / 2.0)
    grid = case.definition.grid
    cross = case.definition.averaged(case.new_inputs, grid, case.inputs, grid)
    truth = 2.0 * cross @ weights + (0.0 if case.settings.reflection < 0 else 0.3)
    assert relative_difference(case.solved().predict(case.new_inputs, None), truth) < TOLERANCE


def test_prediction_off_the_grid_is_the_dense_one(case):
    if case.settings.place:
        pytest.skip("an interpolant, see test_infinite_width_operator.py")
    # Highest waves removed: what an even number of samples says about them is ambiguous between the points.
    waves = case.definition.waves
    keep = np.all(2 * np.abs(waves) < np.array(case.grid_shape), axis=1)
    basis = np.exp(2j * np.pi * case.definition.grid @ waves[keep].T)
    smooth = (case.new_inputs @ basis.conj() @ basis.T).real / len(waves)
    points = np.random.default_rng(1).uniform(-0.5, 1.5, size=(6, len(case.grid_shape)))
    points[0] = case.definition.grid[3]
    solution = case.solved(offset=0.0, scale=1.0)
    weights = np.linalg.solve(case.dense, case.residual.ravel())
    truth = case.definition.averaged(smooth, points, case.inputs, case.definition.grid) @ weights
    assert relative_difference(solution.predict(smooth, points), truth) < 1e-8


def test_predictions_translate_with_their_inputs_unless_the_place_counts(case):
    def translated(functions):
        shape = (len(functions), *case.grid_shape)
        return np.roll(functions.reshape(shape), (2, 1)[: len(case.grid_shape)], tuple(range(1, len(shape)))).reshape(
            functions.shape
        )

    solution = case.solved()
    moved, still = solution.predict(translated(case.new_inputs), None), solution.predict(case.new_inputs, None)
    difference = np.abs(moved - translated(still)).max() / np.abs(still).max()
    assert difference > 0.01 if case.settings.place else difference < 1e-9


@pytest.mark.parametrize("name", [name for name in CASES if "reflection" in name])
def test_predictions_reflect_with_their_inputs(name):
    case = Case(*CASES[name])
    solution, reflect = case.solved(), case.definition.reflect
    mirrored, plain = solution.predict(reflect(case.new_inputs), None), solution.predict(case.new_inputs, None)
    np.testing.assert_allclose(mirrored, reflect(plain), rtol=0, atol=1e-9 * np.abs(plain).max())


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("grid_shape", [(7,), (6, 4)])
def test_averaging_over_the_reflection_equals_learning_from_the_reflected_pairs(sign, grid_shape):
    settings = FourierSettings("matern52", 2.0, 2.0, 0.25, reflection=sign, ridge=1e-14)
    case = Case(grid_shape, settings)
    reflect, grid = case.definition.reflect, case.definition.grid
    inputs = np.concatenate([case.inputs, reflect(case.inputs)])
    outputs = np.concatenate([case.residual, reflect(case.residual)])
    dense = case.definition.plain(inputs, grid, inputs, grid)
    cross = case.definition.plain(case.new_inputs, grid, inputs, grid)
    truth = cross @ np.linalg.solve(dense, outputs.ravel())
    assert relative_difference(case.solved(offset=0.0, scale=1.0).predict(case.new_inputs, None), truth) < 1e-8


def test_small_tiles_and_few_frequencies_at_once_change_nothing(monkeypatch):
    whole = Case(*CASES["two dimensions, odd reflection"])
    monkeypatch.setattr(_fourier_kernel, "TILE_ENTRIES", 4 * 24)
    monkeypatch.setattr(_circulant, "CHUNK_BYTES", 32 * FUNCTIONS**2 * 3)
    tiled = Case(*CASES["two dimensions, odd reflection"])
    np.testing.assert_allclose(
        tiled.gram.blocks, whole.gram.blocks, rtol=0, atol=1e-13 * np.abs(whole.dense).max() * 24
    )
    np.testing.assert_allclose(tiled.gram.solve(tiled.residual), whole.gram.solve(whole.residual), rtol=1e-9)
    assert tiled.gram.logdet() == pytest.approx(whole.gram.logdet(), rel=1e-12)
    np.testing.assert_allclose(
        tiled.solved().predict(tiled.new_inputs, None), whole.solved().predict(whole.new_inputs, None), rtol=1e-8
    )


def test_jitter_of_a_repeated_function_is_reported():
    settings = FourierSettings("matern52", 1.0, 1.0, 0.5, ridge=0.0)
    inputs = np.random.default_rng(0).normal(size=(FUNCTIONS, 9))
    inputs[-1] = np.roll(inputs[0], 4)
    kernel = FourierKernel.for_inputs(settings, inputs, (9,))
    gram = kernel.gram(kernel.filter(inputs))
    right = np.random.default_rng(1).normal(size=inputs.shape)
    right[-1] = np.roll(right[0], 4)
    solution = gram.solve_with_report(right)
    dense = Definition(settings, (9,), inputs).gram(inputs)
    assert solution.jitter[0] > 0
    assert gram.jitter == solution.jitter
    assert np.isfinite(gram.logdet())
    assert relative_difference(dense @ solution.value.ravel(), right) < 1e-9
    assert solution.relative_residual < 1e-9


def test_the_residual_of_a_zero_right_hand_side_is_zero():
    case = Case(*CASES["matern, readout trained"])
    solution = case.gram.solve_with_report(np.zeros_like(case.residual))
    assert solution.relative_residual == 0.0
