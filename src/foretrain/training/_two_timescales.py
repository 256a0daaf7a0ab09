"""Two timescales as a training method: the outer layer fast or always optimal, the inner layer slow."""

import contextlib
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from foretrain._foundation import ForetrainError, Progress, double_precision, ignore_progress
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.forecast import log_spaced_steps, training_arrays
from foretrain.models import FilteredFourierOperator, draw_network
from foretrain.training._fourier_training import two_timescale_run
from foretrain.training._inner_steps import (
    TrainingArrays,
    finite_steps,
    fits_into_one_chunk,
    optimiser_step,
    reduced,
)
from foretrain.training._outer_features import NormalEquations
from foretrain.training._outer_layer import (
    OuterLayer,
    normal_equations,
    require_affine,
    split_outer,
)
from foretrain.training._ratio import InnerSpectrum, RatioChoice, choose_ratio
from foretrain.training._two_timescale_run import TwoTimescale, TwoTimescaleRecord, TwoTimescaleRun, regime

MEMORY = 30
PATIENCE = 40
ADAM_STEP_SIZE = 3e-3
MINIBATCH = 64
RATIO_ESTIMATES = 5
FEWEST_TO_HOLD_OUT = 20
STEPS_BETWEEN_LOOKS = 25


def train_two_timescales(
    data: OperatorDataset,
    model: Any,
    method: TwoTimescale | None = None,
    *,
    steps: int,
    test: OperatorDataset | None = None,
    key: int = 0,
    progress: Progress = ignore_progress,
) -> TwoTimescaleRun:
    """Trains a network with a linear outer layer: that layer fast or always at its optimum, everything inside slow.

    In the limit on the grid, an inner step costs about two gradients. Weights are kept in their own precision; the
    outer layer's normal equations are in double precision.

    Arguments:
        data: the training data.
        model: a model, or an Equinox module, see `split_outer`.
        method: settings; by default the limit, by L-BFGS.
        steps: at most so many inner steps (evaluations of the reduced loss with L-BFGS); fewer once the held-out error
            has stopped falling.
        test: functions whose error is measured at the records; they decide nothing.
        key: seed of the weights, of the functions held out and of minibatches.

    Raises:
        ForetrainError: a network without a linear outer layer, settings that exclude each other, or a step size at
            which the outer layer blows up.
    """
    method = method if method is not None else TwoTimescale()
    if steps < 1:
        raise ForetrainError(f"two timescales: expected at least 1 step, came {steps}")
    if isinstance(model, FilteredFourierOperator):
        return two_timescale_run(data, model, method, steps=steps, test=test, key=key, progress=progress)
    # Drawn in the caller's precision: within the scope of double precision other weights would be drawn.
    return _trained(draw_network(model, data, key), data, method, steps, test, key, progress)


@double_precision
def _trained(
    network: Any,
    data: OperatorDataset,
    method: TwoTimescale,
    steps: int,
    test: OperatorDataset | None,
    key: int,
    progress: Progress,
) -> TwoTimescaleRun:
    layer = split_outer(network, method.where)
    # The outer layer is trained from here on, whether or not the model trained it.
    network = layer.written(network, layer.coefficients(network))
    arrays = TrainingArrays(*training_arrays(network, data))
    require_affine(layer, network, arrays.inputs, arrays.points)
    watch = _Watch(layer, network, data, arrays, method, steps, test, key, progress)
    descend = _descend_in_the_limit if method.in_limit else _descend_at_a_ratio
    with contextlib.suppress(_Done):
        descend(watch, method, steps, key)
    return watch.finished()


class _Done(Exception):
    """The held-out error has stopped falling, or the evaluations are used up."""


class _Watch:
    """What a run looks at on its way: records, the best weights on held-out functions, when to stop."""

    def __init__(
        self,
        layer: OuterLayer,
        network: Any,
        data: OperatorDataset,
        arrays: TrainingArrays,
        method: TwoTimescale,
        steps: int,
        test: OperatorDataset | None,
        key: int,
        progress: Progress,
    ) -> None:
        self.layer, self.method, self.steps, self.test, self.progress = layer, method, steps, test, progress
        self.inner, self.frozen = eqx.partition(network, layer.inner_marks(network))
        self.all, self.marks = arrays, {int(step) for step in log_spaced_steps(steps)}
        rows = np.random.default_rng(key).permutation(len(data))
        count = round(method.held_out * len(data)) if len(data) >= FEWEST_TO_HOLD_OUT else 0
        self.held_truth = data.outputs[np.sort(rows[:count])] if count else None
        self.held = _taken(arrays, np.sort(rows[:count])) if count else None
        self.arrays = _taken(arrays, np.sort(rows[count:])) if count else arrays
        self.records: list[TwoTimescaleRecord] = []
        self.ratios: list[RatioChoice] = []
        self.best, self.best_error, self.evaluations = self.inner, np.inf, 0
        self.least_error, self.least_step = np.inf, 0
        self.started, self.aside = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """So far, without what is looked at for the user alone."""
        return time.perf_counter() - self.started - self.aside

    def network(self, inner: PyTree, outer: Array) -> Any:
        """With these weights."""
        return self.layer.written(eqx.combine(inner, self.frozen), outer)

    def equations(self, inner: PyTree, arrays: TrainingArrays) -> NormalEquations:
        """Of the outer layer, given the inner weights."""
        return normal_equations(
            self.layer, eqx.combine(inner, self.frozen), arrays.inputs, arrays.points, arrays.target
        )

    def see(self, step: int, inner: PyTree, optimal: Array, loss: float, outer: Array | None = None) -> None:
        """Keeps the best weights; records; raises `_Done` when the held-out error has not fallen for long.

        `optimal` is the best outer layer for these inner weights and `loss` what it reaches; `outer` is the outer layer
        as it is, where it is another.
        """
        if not np.isfinite(loss):
            raise ForetrainError(
                f"two timescales: expected a finite loss, came {loss} at step {step:,}; take a smaller step size or a "
                "larger ridge"
            )
        at_optimum = self._held_error(inner, optimal)
        error = at_optimum if at_optimum is not None else loss
        if error < self.best_error:
            self.best, self.best_error = inner, error
        # At a finite ratio the inner weights may rest while the outer layer still has far to go.
        held_error = at_optimum if outer is None else self._held_error(inner, outer)
        if held_error is not None and held_error < self.least_error:
            self.least_error, self.least_step = held_error, step
        if step in self.marks or step == self.steps:
            self._record(step, inner, optimal, loss, outer, held_error)
        self.progress("two timescales", step, self.steps, {"error": float(np.sqrt(loss))})
        if self.held is not None and step - self.least_step > max(PATIENCE, self.least_step // 2):
            raise _Done

    def _held_error(self, inner: PyTree, outer: Array) -> float | None:
        """On the functions held out, if there are any."""
        if self.held is None or self.held_truth is None:
            return None
        guess = _outputs(self.layer, inner, self.frozen, self.held, outer)
        scale = eqx.combine(inner, self.frozen).scale
        return mean_relative_error(scale.restore(np.asarray(guess)), self.held_truth)

    def _record(
        self, step: int, inner: PyTree, optimal: Array, loss: float, outer: Array | None, held_error: float | None
    ) -> None:
        spent, begin = self.seconds, time.perf_counter()
        test_error, excess, distance, now = None, 0.0, 0.0, loss
        if outer is not None:
            equations = self.equations(inner, self.arrays)
            now = float(equations.misfit(outer)) / self.arrays.target.size
            excess = (now - loss) / max(loss, float(np.finfo(float).tiny))
            distance = float(jnp.linalg.norm(outer - optimal) / jnp.linalg.norm(optimal))
        if self.test is not None:
            network = self.network(inner, optimal if outer is None else outer)
            test_error = mean_relative_error(
                np.asarray(network(self.test.inputs, self.test.query_points)), self.test.outputs
            )
        self.aside += time.perf_counter() - begin
        self.records.append(TwoTimescaleRecord(step, now, held_error, test_error, excess, distance, spent))

    def finished(self) -> TwoTimescaleRun:
        """The best weights, the outer layer fitted to all functions."""
        network = self.network(self.best, _optimum(self.equations(self.best, self.all), self.method.ridge)[0])
        spent = self.seconds
        test_error = None
        if self.test is not None:
            outputs = np.asarray(network(self.test.inputs, self.test.query_points))
            test_error = mean_relative_error(outputs, self.test.outputs)
        self.progress("two timescales", self.steps, self.steps, {"error": float(np.sqrt(self.records[-1].loss))})
        held, verdict = regime(tuple(self.records), self.method)
        return TwoTimescaleRun(
            network,
            tuple(self.records),
            tuple(self.ratios),
            self.method.in_limit,
            held,
            verdict,
            spent,
            self.evaluations,
            test_error,
        )


def _taken(arrays: TrainingArrays, rows: np.ndarray) -> TrainingArrays:
    """Some of the functions, without compiling a program for it."""
    return TrainingArrays(
        jnp.asarray(np.asarray(arrays.inputs)[rows]), arrays.points, jnp.asarray(np.asarray(arrays.target)[rows])
    )


@eqx.filter_jit
def _optimum(equations: NormalEquations, ridge: float) -> tuple[Array, Array]:
    """The best outer layer, and the sum of squared residuals it leaves: compiled as one, not operation by operation."""
    outer = equations.optimum(ridge)
    return outer, equations.misfit(outer)


@eqx.filter_jit
def _outputs(layer: OuterLayer, inner: PyTree, frozen: PyTree, arrays: TrainingArrays, outer: Array) -> Array:
    return layer.features(eqx.combine(inner, frozen), arrays.inputs, arrays.points).outputs(outer)


def _descend_in_the_limit(watch: _Watch, method: TwoTimescale, steps: int, key: int) -> None:
    """Every step at the optimal outer layer."""
    network = eqx.combine(watch.inner, watch.frozen)
    batch_size, inner = method.batch_size, method.inner
    if batch_size is None and inner != "lbfgs" and not fits_into_one_chunk(watch.layer, network, watch.arrays.target):
        batch_size = MINIBATCH
    if inner == "auto" and batch_size is None:
        inner = "lbfgs"
    if inner == "lbfgs":
        _by_lbfgs(watch, method, steps)
        return
    factor = 1.0
    if inner == "auto":
        inner = optax.adam(method.step_size if method.step_size is not None else ADAM_STEP_SIZE)
    elif inner == "gradient descent":
        inner = optax.sgd(1.0)
        factor = watch.arrays.target.size / 2 * (method.step_size or _stable_inner_step(watch))
    assert not isinstance(inner, str)
    _by_optimiser(watch, method, inner, factor, batch_size, steps, key)


def _stable_inner_step(watch: _Watch) -> float:
    """One over the largest inner eigenvalue, the outer layer at its optimum."""
    outer, _ = _optimum(watch.equations(watch.inner, watch.arrays), watch.method.ridge)
    network = watch.network(watch.inner, outer)
    largest = InnerSpectrum(watch.layer, network, watch.arrays.inputs, watch.arrays.points).largest(network)
    return 1 / largest if largest > 0 else 1.0


def _by_lbfgs(watch: _Watch, method: TwoTimescale, steps: int) -> None:
    start, restore = ravel_pytree(watch.inner)

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        inner = restore(jnp.asarray(point, start.dtype))
        now = reduced(watch.layer, inner, watch.frozen, watch.arrays, method.ridge)
        watch.see(watch.evaluations, inner, now.outer, float(now.loss))
        watch.evaluations += 1
        # The last look sees the weights after `steps` evaluations.
        if watch.evaluations > steps:
            raise _Done
        return float(now.value), np.asarray(ravel_pytree(now.slope)[0], np.float64)

    scipy.optimize.minimize(
        evaluate,
        np.asarray(start, np.float64),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "maxfun": steps + 1, "maxcor": MEMORY, "ftol": 0.0, "gtol": 0.0},
    )


def _by_optimiser(
    watch: _Watch,
    method: TwoTimescale,
    optimiser: optax.GradientTransformation,
    factor: float,
    batch_size: int | None,
    steps: int,
    key: int,
) -> None:
    inner, state = watch.inner, optimiser.init(watch.inner)
    random = np.random.default_rng(key + 1)
    functions, looks = len(watch.arrays.inputs), _looks(steps)
    for step in range(steps + 1):
        seen = watch.arrays
        if batch_size is not None and batch_size < functions:
            seen = watch.arrays.take(jnp.asarray(random.permutation(functions)[:batch_size]))
        if seen is not watch.arrays and step in looks:
            optimal, misfit = _optimum(watch.equations(inner, watch.arrays), method.ridge)
            watch.see(step, inner, optimal, float(misfit) / watch.arrays.target.size)
        if step == steps and seen is not watch.arrays:
            return
        before = inner
        inner, state, now = optimiser_step(
            watch.layer, inner, watch.frozen, seen, method.ridge, optimiser, state, factor
        )
        watch.evaluations += 1
        if seen is watch.arrays:
            watch.see(step, before, now.outer, float(now.loss))


def _looks(steps: int) -> set[int]:
    """When a run that does not see all functions at every step looks at them."""
    return {int(step) for step in log_spaced_steps(steps)} | set(range(0, steps + 1, STEPS_BETWEEN_LOOKS))


def _descend_at_a_ratio(watch: _Watch, method: TwoTimescale, steps: int, key: int) -> None:
    """Outer and inner layer each by steps of their own, the ratio estimated anew on the way."""
    layer, inner, arrays = watch.layer, watch.inner, watch.arrays
    network = eqx.combine(inner, watch.frozen)
    outer = jnp.asarray(layer.coefficients(network), jnp.result_type(float))
    spectrum = InnerSpectrum(layer, network, arrays.inputs, arrays.points)
    own = None if isinstance(method.inner, str) else method.inner
    optimiser = own if own is not None else optax.sgd(1.0)
    state = optimiser.init(inner)
    estimates = {round(part * steps / RATIO_ESTIMATES) for part in range(RATIO_ESTIMATES)}
    stops = sorted(_looks(steps) | estimates)
    for step, following in zip(stops, [*stops[1:], None], strict=True):
        equations = watch.equations(inner, arrays)
        optimal, misfit = _optimum(equations, method.ridge)
        watch.see(step, inner, optimal, float(misfit) / arrays.target.size, outer)
        if following is None:
            return
        if step in estimates:
            choice = choose_ratio(
                equations,
                np.asarray(outer),
                spectrum.largest(watch.network(inner, optimal)),
                ridge=method.ridge,
                outer_steps=method.outer_steps,
                step=step,
                step_size=method.step_size,
                ratio=None if method.ratio == "auto" else float(method.ratio),
            )
            watch.ratios.append(choice)
        # The slope is that of the mean squared residual, the step sizes are those of half the sum of squares.
        factor = 1.0 if own is not None else choice.inner_step_size * arrays.target.size / 2
        inner, outer, state = finite_steps(
            layer,
            inner,
            watch.frozen,
            outer,
            arrays,
            optimiser,
            state,
            jnp.asarray(factor),
            jnp.asarray(choice.outer_step_size),
            jnp.asarray(method.outer_steps),
            jnp.asarray(step),
            jnp.asarray(following - step),
            jax.random.key(key),
            method.batch_size,
        )
        watch.evaluations += following - step
