"""Curves from the Krylov space against dense matrix powers and against training a linear model step by step."""

import numpy as np
import pytest

from foretrain.forecast import GradientDescent, GradientFlow, HeavyBall, spectral_curves

FUNCTIONS, POINTS, TEST_FUNCTIONS, TEST_POINTS, WEIGHTS = 6, 7, 4, 5, 60
ROWS = FUNCTIONS * POINTS
MARKS = np.array([0, 1, 10, 100, 1000])


class LinearModel:
    """f(weights) = start + J weights on training and test rows; training it is what the linearised theory describes."""

    def __init__(self, decades, seed=0):
        rng = np.random.default_rng(seed)
        vectors, _ = np.linalg.qr(rng.normal(size=(ROWS, ROWS)))
        features, _ = np.linalg.qr(rng.normal(size=(WEIGHTS, ROWS)))
        self.jacobian = (vectors * np.logspace(0, -decades / 2, ROWS)) @ features.T
        self.test_jacobian = rng.normal(size=(TEST_FUNCTIONS * TEST_POINTS, WEIGHTS)) / np.sqrt(WEIGHTS)
        truth = rng.normal(size=WEIGHTS)
        self.start, self.test_start = rng.normal(size=ROWS), rng.normal(size=TEST_FUNCTIONS * TEST_POINTS)
        self.target = self.jacobian @ truth + 0.3 * rng.normal(size=ROWS)
        self.test_truth = self.test_jacobian @ truth
        self.kernel = self.jacobian @ self.jacobian.T
        self.offset = 0.7

    @property
    def residual(self):
        return (self.start - self.target).reshape(FUNCTIONS, POINTS)

    def apply(self, values):
        return (self.kernel @ values.ravel()).reshape(values.shape)

    def apply_test(self, values):
        return (self.test_jacobian @ (self.jacobian.T @ values.ravel())).reshape(TEST_FUNCTIONS, TEST_POINTS)

    def curves(self, method, steps, **options):
        return spectral_curves(
            self.apply,
            self.residual,
            method,
            steps,
            test=self.apply_test,
            test_start=self.test_start.reshape(TEST_FUNCTIONS, TEST_POINTS),
            test_truth=self.test_truth.reshape(TEST_FUNCTIONS, TEST_POINTS),
            offset=self.offset,
            **options,
        )

    def train(self, method, marks):
        """Mean squared residuals and test errors at the marks, by descending the weights themselves."""
        weights, velocity = np.zeros(WEIGHTS), np.zeros(WEIGHTS)
        momentum = getattr(method, "momentum", 0.0)
        losses, errors = [], []
        for step in range(marks[-1] + 1):
            residual = self.start + self.jacobian @ weights - self.target
            if step in marks:
                losses.append(np.mean(residual**2))
                errors.append(self.test_error(weights))
            velocity = momentum * velocity - method.step_size * (self.jacobian.T @ residual)
            weights = weights + velocity
        return np.array(losses), np.array(errors)

    def test_error(self, weights):
        mismatch = (self.test_start + self.test_jacobian @ weights - self.test_truth).reshape(TEST_FUNCTIONS, -1)
        size = np.linalg.norm(self.test_truth.reshape(TEST_FUNCTIONS, -1) + self.offset, axis=1)
        return np.mean(np.linalg.norm(mismatch, axis=1) / size)


@pytest.fixture(scope="module", params=[2, 6, 12], ids=lambda decades: f"{decades} decades")
def model(request):
    return LinearModel(request.param)


@pytest.mark.parametrize("krylov", [4, 12, ROWS])
def test_the_dense_matrix_power_lies_between_the_bounds(model, krylov):
    method = GradientDescent(1.0)
    curves = model.curves(method, 1000, tolerance=0.0, max_krylov=krylov)
    lower, upper = curves.loss(method, MARKS)
    values, vectors = np.linalg.eigh(model.kernel)
    coefficients = vectors.T @ model.residual.ravel()
    for steps, low, high in zip(MARKS, lower, upper, strict=True):
        power = np.linalg.matrix_power(np.eye(ROWS) - model.kernel, int(steps))
        dense = np.mean((power @ model.residual.ravel()) ** 2)
        assert dense == pytest.approx(np.sum(((1 - values) ** steps * coefficients) ** 2) / ROWS, rel=1e-9)
        assert low * (1 - 1e-9) <= dense <= high * (1 + 1e-9)


def test_bounds_meet_once_the_krylov_space_is_everything(model):
    method = GradientDescent(1.0)
    lower, upper = model.curves(method, 1000, tolerance=0.0, max_krylov=ROWS).loss(method, MARKS)
    np.testing.assert_allclose(upper, lower, rtol=1e-6)


def test_the_krylov_space_grows_until_the_bounds_agree_to_the_tolerance():
    model, method = LinearModel(6), GradientDescent(1.0)
    sizes = []
    for tolerance in (0.3, 1e-3, 1e-6):
        curves = model.curves(method, 300, tolerance=tolerance)
        lower, upper = curves.loss(method, np.array([30, 100, 300]))
        assert np.all(upper - lower <= tolerance * lower)
        sizes.append(curves.basis_size)
    assert sizes[0] <= sizes[1] <= sizes[2] <= ROWS
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("method", [GradientDescent(1.0), GradientDescent(0.4), HeavyBall(0.8, 1.0)], ids=str)
def test_loss_and_test_error_are_those_of_training_the_linear_model(model, method):
    losses, errors = model.train(method, MARKS)
    curves = model.curves(method, 1000, tolerance=1e-8)
    lower, upper = curves.loss(method, MARKS)
    np.testing.assert_allclose(np.sqrt(lower * upper), losses, rtol=1e-6, atol=1e-28)
    np.testing.assert_allclose(curves.test_error(method, MARKS), errors, rtol=1e-5)


def test_flow_is_what_many_small_steps_do():
    model = LinearModel(2)
    losses, errors = model.train(GradientDescent(0.002), np.array([0, 500, 5000]))
    flow = GradientFlow(1.0)
    curves = model.curves(flow, 10, tolerance=1e-8)
    np.testing.assert_allclose(curves.loss(flow, np.array([0, 1, 10]))[0], losses, rtol=5e-3)
    np.testing.assert_allclose(curves.test_error(flow, np.array([0, 1, 10])), errors, rtol=5e-3)


def test_one_krylov_space_serves_every_method_and_step_size():
    model = LinearModel(2)
    curves = model.curves(GradientDescent(1.0), 100, tolerance=0.0, max_krylov=ROWS)
    for method in (GradientDescent(0.5), HeavyBall(0.5, 1.2)):
        losses, errors = model.train(method, np.array([0, 3, 30]))
        np.testing.assert_allclose(curves.loss(method, np.array([0, 3, 30]))[0], losses, rtol=1e-8)
        np.testing.assert_allclose(curves.test_error(method, np.array([0, 3, 30])), errors, rtol=1e-8)


def test_a_residual_without_test_functions_has_no_test_error():
    model = LinearModel(2)
    curves = spectral_curves(model.apply, model.residual, GradientDescent(1.0), 10)
    assert not curves.has_test
    with pytest.raises(ValueError, match="test functions"):
        curves.test_error(GradientDescent(1.0), MARKS)
