"""How far a network of finite width strays from the infinite-width forecast, measured on small pilots."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.forecast._descent_step import descend
from foretrain.forecast._kernels import drawn_kernels, limit_kernels, normalised_outputs
from foretrain.forecast._methods import GradientDescent
from foretrain.forecast._spectral import spectral_curves
from foretrain.models import ShallowOperator, ShallowOperatorNetwork

Array = np.ndarray
Basis = Literal["infinite width", "drawn weights"]
BASES: tuple[Basis, Basis] = ("infinite width", "drawn weights")
STUDENT_QUANTILE = {4: 2.353, 6: 2.015, 8: 1.895, 12: 1.796, 16: 1.753}
"""Two-sided 90 % points of Student's t with pilots - 1 degrees of freedom."""


@dataclass(frozen=True)
class WidthDeviation:
    """Root-mean-square logarithmic deviation of pilots from their own forecast, and how it shrinks with width.

        log(measured / forecast) ~ deviation(step) sqrt(pilot width / width)

    Kernel noise at the start is of order 1 / sqrt(width) and so is the drift of the kernel while training; both are in
    the pilots, which are trained for real. **Estimate:** the scaling is the theory's, its constant is measured on a
    subset of functions and points.

    Attributes:
        steps: where the pilots were compared, increasing, [marks].
        loss, test_error: the deviations for either kernel a forecast can rest on, [marks]. That of infinite width
            strays by the noise of the draw and by drift, that of the drawn weights by drift alone.
        width, pilots: of the pilots, and how many.
    """

    steps: Float[Array, " marks"]
    loss: Mapping[Basis, Float[Array, " marks"]]
    test_error: Mapping[Basis, Float[Array, " marks"]]
    width: int
    pilots: int

    def loss_band(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """Logarithmic half-width of the 90 % band of the training loss at a width, after each number of steps."""
        return self._band(self.loss[basis], steps, width)

    def test_error_band(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """Logarithmic half-width of the 90 % band of the test error."""
        return self._band(self.test_error[basis], steps, width)

    def width_for(self, tolerance: float, step: int, basis: Basis = "drawn weights") -> float:
        """The width at which the band of the loss stays within a relative tolerance up to a step."""
        worst = float(np.max(self.loss_band(np.arange(step + 1), self.width, basis)))
        return self.width * (worst / np.log1p(tolerance)) ** 2

    def _band(self, deviation: Array, steps: Array, width: int) -> Array:
        # A pilot that happens to cross its forecast has no deviation there; the band must not pinch.
        widest = np.maximum.accumulate(deviation)
        at_steps = np.interp(np.log1p(steps), np.log1p(self.steps), widest)
        return STUDENT_QUANTILE[self.pilots] * at_steps * (self.width / width) ** 0.5


def measure_width_deviation(
    train: OperatorDataset,
    model: ShallowOperator,
    steps: int,
    key: int = 0,
    *,
    pilot_width: int = 128,
    pilots: int = 8,
    functions: int = 128,
    points: int = 16,
    progress: Progress = ignore_progress,
) -> WidthDeviation:
    """Trains pilots of small width on a subset of the data and compares them with their own forecast.

    Arguments:
        train: the training data; a subset of at most `functions` + as many test functions x `points` is used.
        model: its form, branch width and activation are kept, its width is not.
        steps: how long to train (at most 1,000; later deviations are taken as the last).
        key: seed of subset and draws.
        pilot_width, pilots: of the pilots; the number must be one of 4, 6, 8, 12, 16.

    Raises:
        ForetrainError: another number of pilots.
    """
    if pilots not in STUDENT_QUANTILE:
        raise ForetrainError(f"pilots: expected one of {', '.join(map(str, STUDENT_QUANTILE))}, came {pilots}")
    steps = min(steps, 1000)
    rng = np.random.default_rng(key)
    order = rng.permutation(len(train))
    half = min(functions, len(train) // 2)
    stride = max(1, train.outputs.shape[1] // points)
    thin = OperatorDataset(
        train.inputs, train.outputs[:, ::stride], train.sensor_points, train.query_points[::stride], train.name
    )
    learn, check = thin.take(np.sort(order[:half])), thin.take(np.sort(order[half : 2 * half]))
    # The embedding must be that of the full problem: a thinned grid may look different.
    small = replace(model, width=pilot_width, embedding=model.embedding_for(train))
    marks = log_spaced_steps(steps)
    keys = jax.random.split(jax.random.key(key), pilots)
    # One by one: drawing a batch at once gives the same weights and takes twice as long to compile.
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(small.initialise(learn, k) for k in keys))
    step_size = 1.0 / limit_kernels(small, learn, None)[0].eigenvalue_max(1e-4)
    measured = _train_pilots(networks, small, learn, check, step_size, marks, progress)
    loss, test_error = {}, {}
    for basis in BASES:
        told = _forecast_pilots(networks, small, learn, check, step_size, marks, basis)
        loss[basis], test_error[basis] = (
            np.sqrt(np.mean(np.log(real / forecast) ** 2, axis=0))
            for real, forecast in zip(measured, told, strict=True)
        )
    return WidthDeviation(marks.astype(float), loss, test_error, pilot_width, pilots)


def log_spaced_steps(steps: int, per_decade: int = 12) -> Array:
    """0, 1, ..., `steps` on a roughly logarithmic grid that contains 10, 30, 100, 300, 1000, ..."""
    decades = np.log10(max(steps, 1))
    grid = np.unique(np.round(np.logspace(0, decades, int(per_decade * decades) + 2)).astype(int))
    round_ones = [value * 10**power for power in range(1, 12) for value in (1, 3) if value * 10**power <= steps]
    return np.unique(np.concatenate([[0], grid, round_ones, [steps]])).astype(int)


def _embedded(
    model: ShallowOperator, learn: OperatorDataset, check: OperatorDataset
) -> tuple[jax.Array, jax.Array, jax.Array]:
    embedding = model.embedding_for(learn)
    values = (embedding.inputs(learn.inputs), embedding.inputs(check.inputs), embedding.points(learn.query_points))
    return tuple(jnp.asarray(value, jnp.float32) for value in values)  # type: ignore[return-value]


def _train_pilots(
    networks: ShallowOperatorNetwork,
    model: ShallowOperator,
    learn: OperatorDataset,
    check: OperatorDataset,
    step_size: float,
    marks: Array,
    progress: Progress,
) -> tuple[Array, Array]:
    """Losses and test errors of all pilots at the marks, [pilots, marks] each."""
    inputs, check_inputs, points = _embedded(model, learn, check)
    scale = networks.scale
    target = jnp.asarray(scale.normalise(learn.outputs), jnp.float32)
    losses, errors, done = [], [], 0
    for mark in marks:
        # An array, not a number: how many steps must not be compiled in, or every mark is compiled anew.
        networks = _advance(networks, inputs, points, target, step_size, jnp.asarray(mark - done))
        done = int(mark)
        progress("training pilots", done, int(marks[-1]))
        outputs = np.asarray(_evaluate(networks, inputs, points), np.float64)
        checks = np.asarray(_evaluate(networks, check_inputs, points), np.float64)
        losses.append(np.mean((outputs - np.asarray(target)) ** 2, axis=(1, 2)))
        errors.append(_relative_errors(checks, scale.normalise(check.outputs), scale.offset / scale.scale))
    return np.stack(losses, 1), np.stack(errors, 1)


@eqx.filter_jit
def _advance(
    networks: ShallowOperatorNetwork,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: float,
    steps: jax.Array,
) -> ShallowOperatorNetwork:
    def one(network: ShallowOperatorNetwork) -> ShallowOperatorNetwork:
        return jax.lax.fori_loop(
            0, steps, lambda _, moving: descend(moving, inputs, points, target, step_size)[0], network
        )

    return eqx.filter_vmap(one)(networks)


@eqx.filter_jit
def _evaluate(networks: ShallowOperatorNetwork, inputs: jax.Array, points: jax.Array) -> jax.Array:
    return eqx.filter_vmap(lambda network: network.normalised(inputs, points))(networks)


def _forecast_pilots(
    networks: ShallowOperatorNetwork,
    model: ShallowOperator,
    learn: OperatorDataset,
    check: OperatorDataset,
    step_size: float,
    marks: Array,
    basis: Basis,
) -> tuple[Array, Array]:
    """What either kernel foretells for each pilot's own initial outputs, [pilots, marks] each."""
    method = GradientDescent(step_size)
    losses, errors = [], []
    for index in range(len(networks.trunk)):
        network = jax.tree.map(lambda leaf, index=index: leaf[index], networks)
        training, testing = (
            limit_kernels(model, learn, check) if basis == "infinite width" else drawn_kernels(network, learn, check)
        )
        scale = network.scale
        curves = spectral_curves(
            training.apply,
            normalised_outputs(network, learn) - scale.normalise(learn.outputs),
            method,
            int(marks[-1]),
            test=testing,
            test_start=normalised_outputs(network, check),
            test_truth=scale.normalise(check.outputs),
            offset=scale.offset / scale.scale,
        )
        lower, upper = curves.loss(method, marks)
        losses.append(np.sqrt(lower) * np.sqrt(upper))
        errors.append(curves.test_error(method, marks))
    return np.stack(losses), np.stack(errors)


def _relative_errors(predictions: Array, truth: Array, offset: float) -> Array:
    """Mean relative L2 errors in physical units, [pilots]; the offset restores the true functions' size."""
    size = np.linalg.norm(truth + offset, axis=1)
    return np.mean(np.linalg.norm(predictions - truth, axis=2) / size, axis=1)
