"""Minibatch descent against exact second moments of the linear recursion, simulated runs and training itself."""

import jax
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.forecast import (
    GradientDescent,
    StochasticDescent,
    advance,
    drawn_kernels,
    motion_of,
    outputs_on,
    stochastic_curves,
    training_arrays,
)
from foretrain.forecast._batch_noise import centred_signs, noise_strength
from foretrain.models import ShallowOperator

FUNCTIONS, POINTS, STEPS = 24, 5, 300
ROWS = FUNCTIONS * POINTS
MARKS = np.array([1, 3, 10, 30, 100, 300])
KINDS = ["two products", "one product", "unstructured"]
SETTINGS = {"draws": 4, "krylov": 12}


class LinearTraining:
    """A kernel on functions and points, a rough residual of unequal functions, and what batches do to it."""

    def __init__(self, kind, functions=FUNCTIONS, points=POINTS, seed=0):
        rng = np.random.default_rng(seed)
        place = np.linspace(0, 1, points)
        near = np.exp(-np.abs(place[:, None] - place) / 0.3)
        smooth = np.exp(-((place[:, None] - place) ** 2) / 0.05)
        inputs = rng.normal(size=(functions, functions + 10)) / np.arange(1, functions + 11) ** 0.7
        others = rng.normal(size=(functions, functions + 10))
        first, second = inputs @ inputs.T + 0.5, others @ others.T / functions + 0.2
        self.kernel = {
            "two products": np.kron(first, smooth) + np.kron(second, near),
            "one product": np.kron(first, near),
            "unstructured": np.cov(rng.normal(size=(functions * points, functions * points + 50))),
        }[kind]
        self.kernel /= np.linalg.eigvalsh(self.kernel)[-1]
        learnable = np.linalg.cholesky(self.kernel) @ rng.normal(size=functions * points)
        residual = learnable / np.std(learnable) + 0.3 * rng.normal(size=functions * points)
        self.residual = residual.reshape(functions, points) * np.exp(0.4 * rng.normal(size=(functions, 1)))
        self.functions, self.points = functions, points
        self.known = {}

    def apply(self, values):
        return (self.kernel @ values.ravel()).reshape(values.shape)

    def curves(self, method, steps=STEPS, **options):
        return stochastic_curves(self.apply, self.residual, method, steps, **{**SETTINGS, **options})

    def curves_at_default_step(self, batch):
        """Made once for each batch, as several tests look at them."""
        if batch not in self.known:
            self.known[batch] = self.curves(StochasticDescent(batch))
        return self.known[batch]

    def covariance_of_batches(self, batch):
        """Covariance of the rows' weights n1 / B x (chosen or not), from the probabilities of pairs."""
        functions = self.functions
        pairs = np.full((functions, functions), batch * (batch - 1) / (functions * max(functions - 1, 1)))
        np.fill_diagonal(pairs, batch / functions)
        return np.kron((functions / batch) ** 2 * pairs - 1, np.ones((self.points, self.points)))

    def second_moments(self, batch, step, last):
        """E r r^T after each step, exactly."""
        mean = np.eye(len(self.kernel)) - step * self.kernel
        scatter = self.covariance_of_batches(batch)
        moment = np.outer(self.residual.ravel(), self.residual.ravel())
        yield moment
        for _ in range(last):
            moment = mean @ moment @ mean + step**2 * self.kernel @ (scatter * moment) @ self.kernel
            yield moment

    def exact_losses(self, batch, step, last):
        return np.array([np.trace(moment) for moment in self.second_moments(batch, step, last)]) / self.residual.size

    def runs(self, batch, step, marks, runs=400, seed=1):
        """Losses of simulated runs, [marks, runs]."""
        rng = np.random.default_rng(seed)
        rows, losses = np.repeat(self.residual.ravel()[None], runs, 0), []
        for number in range(marks[-1] + 1):
            if number in marks:
                losses.append(np.mean(rows**2, axis=1))
            weights = np.zeros((runs, self.functions))
            chosen = np.argsort(rng.random(weights.shape), axis=1)[:, :batch]
            np.put_along_axis(weights, chosen, self.functions / batch, axis=1)
            rows = rows - step * ((rows * np.repeat(weights, self.points, axis=1)) @ self.kernel)
        return np.array(losses)


@pytest.fixture(scope="module", params=KINDS)
def training(request):
    return LinearTraining(request.param)


@pytest.fixture(scope="module", params=[1, 4, 16], ids=["batch 1", "batch 4", "batch 16"])
def case(request, training):
    """Training, batch, and curves at the default step, half the limit of stability."""
    return training, request.param, training.curves_at_default_step(request.param)


def test_the_mean_loss_is_that_of_exact_second_moments(case):
    training, batch, curves = case
    exact = training.exact_losses(batch, curves.method.step_size, STEPS)[MARKS]
    np.testing.assert_allclose(curves.loss(MARKS)[0], exact, rtol=0.08)


def test_at_a_quarter_of_the_limit_the_mean_is_closer_still(training):
    step = training.curves_at_default_step(1).step_limit / 4
    curves = training.curves(StochasticDescent(1, step))
    exact = training.exact_losses(1, step, STEPS)[MARKS]
    np.testing.assert_allclose(curves.loss(MARKS)[0], exact, rtol=0.03)


def test_about_nine_in_ten_runs_stay_in_the_band(case):
    training, batch, curves = case
    _, lower, upper = curves.loss(MARKS)
    runs = training.runs(batch, curves.method.step_size, MARKS)
    inside = np.mean((runs > lower[:, None]) & (runs < upper[:, None]), axis=1)
    # In the first steps of small batches the band is known to be too wide: nearly all runs are inside.
    assert np.all(inside > 0.8)
    assert 0.84 < np.mean(inside[MARKS >= 30]) < 0.985


@pytest.mark.parametrize("batch", [FUNCTIONS, FUNCTIONS - 1])
def test_the_noise_vanishes_with_the_full_batch(training, batch):
    step = 0.9
    curves = training.curves(StochasticDescent(batch, step))
    mean, lower, upper = curves.loss(MARKS)
    eigenvalues, vectors = np.linalg.eigh(training.kernel)
    descent = GradientDescent(step).residual_factor(eigenvalues, MARKS) ** 2 @ (
        (vectors.T @ training.residual.ravel()) ** 2 / ROWS
    )
    if batch == FUNCTIONS:
        assert not np.any(curves.noise)
        np.testing.assert_allclose(mean, descent, rtol=2e-3)
        np.testing.assert_allclose(upper, lower, rtol=2e-3)
    else:
        exact = training.exact_losses(batch, step, STEPS)[MARKS]
        np.testing.assert_allclose(np.interp(MARKS, curves.grid, curves.noise), exact - descent, rtol=0.25)
        assert np.all(exact - descent < 0.02 * exact)


def test_centred_signs_have_the_covariance_of_batches():
    rng = np.random.default_rng(0)
    for functions in (5, 6):
        draws = np.array([centred_signs(functions, rng) for _ in range(40_000)])
        np.testing.assert_allclose(draws.sum(axis=1), 0, atol=1e-12)
        np.testing.assert_allclose(draws.T @ draws / len(draws), np.eye(functions) - 1 / functions, atol=0.03)
        small = LinearTraining("one product", functions=functions, points=1)
        np.testing.assert_allclose(
            noise_strength(functions, 2) * (np.eye(functions) - 1 / functions), small.covariance_of_batches(2)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_moment_contracts_below_the_sure_step_and_not_beyond_the_limit(kind):
    small = LinearTraining(kind, functions=10, points=2)
    size = len(small.kernel)
    curves = small.curves(StochasticDescent(1), 10, draws=6)
    scatter = small.covariance_of_batches(1).ravel()

    def radius(step):
        mean = np.eye(size) - step * small.kernel
        noise = step**2 * np.kron(small.kernel, small.kernel) * scatter
        return np.max(np.abs(np.linalg.eigvals(np.kron(mean, mean) + noise)))

    assert radius(curves.sure_step) < 1 < radius(1.2 * curves.step_limit)
    assert radius(curves.method.step_size) < 1
    assert curves.step_limit < 2.5 * curves.sure_step


def test_beyond_the_limit_the_curves_say_so(training):
    limit = training.curves_at_default_step(1).step_limit
    curves = training.curves(StochasticDescent(1, 2 * limit), 100)
    assert not curves.stable
    assert curves.feedback > 1
    assert curves.noise_floor == np.inf
    assert curves.loss(np.array([100]))[0][0] > curves.loss(np.array([10]))[0][0]


def test_what_no_network_can_learn_keeps_the_noise_up():
    """A residual with a part outside the kernel's range: the loss ends at that part and a floor above it."""
    training = LinearTraining("one product", points=4)
    vectors = np.linalg.eigh(training.kernel)[1]
    training.kernel = vectors[:, 48:] @ np.diag(np.linspace(0.2, 1, 48)) @ vectors[:, 48:].T
    curves = training.curves(StochasticDescent(4), 2000)
    stuck = np.sum((vectors[:, :48].T @ training.residual.ravel()) ** 2) / training.residual.size
    exact = training.exact_losses(4, curves.method.step_size, 400)[-1]
    assert exact - stuck == pytest.approx(curves.noise_floor, rel=0.1)
    assert curves.noise[-1] == pytest.approx(curves.noise_floor, rel=0.02)
    assert curves.noise_ratio == pytest.approx(curves.noise_floor / stuck, rel=0.01)


def test_the_noise_on_test_functions_is_that_of_the_weights(training):
    """Features of both: the test outputs move with the weights, whose exact covariance follows from the residual's."""
    rng = np.random.default_rng(3)
    test = rng.normal(size=(5 * POINTS, ROWS)) @ training.kernel
    method = training.curves_at_default_step(4).method
    curves = training.curves(method, 100, draws=6, test=lambda values: (test @ values.ravel()).reshape(5, POINTS))
    # Test outputs are start + test kernel x a with residual = r_0 + kernel x a: a = kernel^-1 (r - r_0).
    back = test @ np.linalg.inv(training.kernel)
    mean, marks = training.residual.ravel(), np.array([3, 30, 100])
    expected = []
    for number, moment in enumerate(training.second_moments(4, method.step_size, 100)):
        if number in marks:
            spread = back @ (moment - np.outer(mean, mean)) @ back.T
            expected.append(np.diag(spread).reshape(5, POINTS).sum(axis=1))
        mean = mean - method.step_size * training.kernel @ mean
    found = curves.test_noise(marks)
    np.testing.assert_allclose(found.sum(axis=1), np.sum(expected, axis=1), rtol=0.4)


def test_the_same_key_gives_the_same_curves_and_another_key_others():
    training = LinearTraining("one product", functions=12, points=3)
    first, again, other = (training.curves(StochasticDescent(3), 100, draws=2, key=key) for key in (5, 5, 6))
    np.testing.assert_array_equal(first.noise, again.noise)
    np.testing.assert_array_equal(first.deviation, again.deviation)
    assert not np.any(first.noise[1:] == other.noise[1:])


def test_a_million_steps_are_cheap():
    training = LinearTraining("one product", functions=12, points=3)
    curves = training.curves(StochasticDescent(3), 10**6, draws=2)
    assert len(curves.grid) < 600
    marks = np.array([100, 1000, 3000])
    exact = training.exact_losses(3, curves.method.step_size, 3000)[marks]
    # Small errors of the rate add up over decades of loss, so it is the decades that agree.
    np.testing.assert_allclose(np.log(curves.loss(marks)[0]), np.log(exact), rtol=0.01)


def test_the_default_step_from_the_largest_eigenvalue_alone_is_stable(training):
    method = StochasticDescent(2, functions=FUNCTIONS).with_step_size(1.0)
    assert training.curves(method, 10).stable
    assert StochasticDescent(FUNCTIONS, functions=FUNCTIONS).with_step_size(2.0).step_size == pytest.approx(0.5)


def test_what_cannot_be_forecast_is_refused(training):
    for make in (
        lambda: StochasticDescent(0),
        lambda: StochasticDescent(7, functions=6),
        lambda: StochasticDescent(4).with_step_size(1.0),
        lambda: training.curves(StochasticDescent(FUNCTIONS + 1)),
        lambda: training.curves(StochasticDescent(4), 0),
        lambda: training.curves(StochasticDescent(FUNCTIONS, 0.5)).loss(np.array([10**6])),
        lambda: training.curves(StochasticDescent(FUNCTIONS, 0.5)).test_noise(np.array([1])),
    ):
        with pytest.raises(ForetrainError, match="expected"):
            make()


class NetworkTraining:
    """Training a network of 512 neurons on 24 functions by minibatches, from the same weights every time."""

    def __init__(self, data):
        self.network = ShallowOperator(width=512, branch_width=4).initialise(data, jax.random.key(0))
        self.kernel, _ = drawn_kernels(self.network, data, None)
        self.arrays = training_arrays(self.network, data)
        self.outputs = outputs_on(self.network, data)
        self.residual = self.residual_of(self.network)

    def residual_of(self, network):
        return self.outputs(network) - np.asarray(self.arrays[2], float)

    def losses(self, method, key, marks):
        motion, losses = motion_of(self.network, method), []
        for done, mark in zip([0, *marks], marks, strict=False):
            motion, _ = advance(motion, *self.arrays, method, done, mark - done, key=key)
            losses.append(np.mean(self.residual_of(motion.network) ** 2))
        return np.array(losses)


@pytest.fixture(scope="module")
def network_training(blurred_tanh):
    return NetworkTraining(blurred_tanh(FUNCTIONS, 8))


def test_the_mean_loss_of_trained_networks_is_in_the_band(network_training):
    marks = np.array([3, 30, 100])
    curves = stochastic_curves(
        network_training.kernel.apply,
        network_training.residual,
        StochasticDescent(2),
        100,
        krylov=10,
        groups=2,
        marks=3,
    )
    mean, lower, upper = curves.loss(marks)
    runs = np.array([network_training.losses(curves.method, jax.random.key(key), marks) for key in range(40)])
    assert np.all((runs.mean(axis=0) > lower) & (runs.mean(axis=0) < upper))
    assert 0.7 < np.mean((runs > lower) & (runs < upper)) < 1
    # The kernel moves a little at this width, as full-batch descent shows; what the batches add to that is forecast.
    full = network_training.losses(GradientDescent(curves.method.step_size), None, marks)
    noise = np.interp(marks, curves.grid, curves.noise)
    np.testing.assert_allclose(full, mean - noise, rtol=0.06)
    error = runs.std(axis=0) / np.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(axis=0) - full - noise) < 3 * error + 0.15 * noise)


def test_batches_of_all_functions_train_as_full_batch_descent_does(network_training):
    marks = np.array([1, 50])
    full, batches = (
        network_training.losses(method, jax.random.key(0), marks)
        for method in (GradientDescent(0.01), StochasticDescent(FUNCTIONS, 0.01))
    )
    np.testing.assert_allclose(batches, full, rtol=1e-4)
