"""What Adam would do, from a short pilot trained for real: no theory foretells it from its start."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from foretrain._foundation import Progress, ignore_progress
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.forecast._descent_step import loss_gradient, moved_by, training_arrays
from foretrain.forecast._kernels import outputs_on
from foretrain.forecast._width import log_spaced_steps
from foretrain.models import ShallowOperator, draw_network

Array = np.ndarray
LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
TRIAL = 1 / 3
"""Share of a pilot's steps after which the best learning rate goes on alone."""
REACH = 10
"""A pilot is believed up to so many times its own length."""
PILOT_WIDTH, PILOT_FUNCTIONS, PILOT_POINTS = 128, 200, 32
UNSURE_POWER = 1.0
"""Least relative uncertainty of the power: the error may flatten at any time, or fall twice as fast."""


@dataclass(frozen=True)
class AdamPilot:
    """The test error of a short run of Adam, and the power law that goes on from it.

        error(k) ~ error(K) (K / k)^power      for k beyond the pilot's K steps

    **Estimate.** The power is that of the last decade of steps, or 0 if the error rose. The band is the scatter around
    it and a power between 0 (the error stays where it is) and twice this, or more if it changed more in the decade.

    Attributes:
        steps: where the error was measured, increasing, [marks].
        test_error: mean relative L2 error on functions it did not learn from, [marks].
        learning_rate: the best of a few, of the pilot's width.
        width, functions: of the pilot.
    """

    steps: Float[Array, " marks"]
    test_error: Float[Array, " marks"]
    learning_rate: float
    width: int
    functions: int

    @property
    def horizon(self) -> int:
        """The last step that is estimated."""
        return int(REACH * self.steps[-1])

    @property
    def power(self) -> float:
        """How fast the error falls."""
        return self._fit()[1]

    def error_at(self, step: int) -> float:
        """The test error after so many steps: measured, or by the power law."""
        if step <= self.steps[-1]:
            return float(np.exp(np.interp(np.log1p(step), np.log1p(self.steps), np.log(self.test_error))))
        level, power, _, _ = self._fit()
        return float(np.exp(level - power * np.log(step / self.steps[-1])))

    def band_at(self, step: int) -> tuple[float, float]:
        """Lower and upper end of the error's band."""
        _, _, scatter, unsure = self._fit()
        beyond = np.log(max(step / self.steps[-1], 1.0))
        width, error = np.exp(scatter + unsure * beyond), self.error_at(step)
        return error / width, error * width

    def steps_to(self, target: float) -> int | None:
        """The first step at which the error is estimated to be at most the target; None if not before `horizon`."""
        return self._first(target, self.error_at)

    def steps_between(self, target: float) -> tuple[int | None, int | None]:
        """Likewise where the band's lower end gets there, and its upper."""
        lower = self._first(target, lambda step: self.band_at(step)[0])
        return lower, self._first(target, lambda step: self.band_at(step)[1])

    def _first(self, target: float, error_at: Callable[[int], float]) -> int | None:
        steps = np.unique(np.round(np.geomspace(1, self.horizon, 1000))).astype(int).tolist()
        return next((step for step in steps if error_at(step) <= target), None)

    def _fit(self) -> tuple[float, float, float, float]:
        """Logarithm of the error at the end, power, scatter, and how unsure the power is."""
        late = self.steps >= self.steps[-1] / 10
        time, error = np.log(self.steps[late] / self.steps[-1]), np.log(self.test_error[late])
        slope, level = np.polyfit(time, error, 1)
        recent = time >= np.log(1 / 3)
        recent_slope = np.polyfit(time[recent], error[recent], 1)[0]
        scatter = 2 * float(np.std(error - level - slope * time))
        # Half way between the decade and its last part; a rise is no law.
        power = max(0.0, -float(slope + recent_slope) / 2)
        unsure = max(abs(float(slope - recent_slope)), UNSURE_POWER * power)
        # The law goes on from where the run is, not from where the fit through a bent curve would be.
        return float(np.log(self.test_error[-1])), power, scatter, unsure


def run_adam_pilot(
    learn: OperatorDataset,
    check: OperatorDataset,
    model: ShallowOperator,
    steps: int = 300,
    key: int = 0,
    *,
    width: int = PILOT_WIDTH,
    learning_rates: tuple[float, ...] = LEARNING_RATES,
    progress: Progress = ignore_progress,
) -> AdamPilot:
    """Trains the model at a small width with full-batch Adam on some functions and points.

    Every learning rate gets a third of the steps; the one whose test error is then least goes on.

    Arguments:
        learn, check: the first 200 functions of either are used, at about 32 of their query points.
        model: what is planned; trained here at `width`, if that is smaller.
        steps: of the pilot; a tenth of what it is asked about, at least.
        key: seed of the weights.
        learning_rates: to choose from, on the mean squared residual.
    """
    model = replace(model, width=min(width, model.width), embedding=model.embedding_for(learn))
    stride = max(1, learn.outputs.shape[1] // PILOT_POINTS)
    learn, check = (_subset(data, stride) for data in (learn, check))
    network = draw_network(model, learn, key)
    arrays = training_arrays(network, learn)
    checked = outputs_on(network, check)
    marks = log_spaced_steps(steps)[1:]
    trial = marks[marks <= max(1, round(TRIAL * steps))]
    state = optax.scale_by_adam().init(eqx.filter(network, network.trained()))
    runs = []

    def measured(run: "_Run", upto: Array) -> "_Run":
        for mark in upto:
            run = run.advanced(arrays, int(mark))
            values = network.scale.restore(checked(run.network))
            run = replace(run, errors=(*run.errors, mean_relative_error(values, check.outputs)))
            progress("a pilot of Adam", int(mark), steps)
        return run

    for learning_rate in learning_rates:
        runs.append(measured(_Run(network, state, learning_rate), trial))
    best = measured(min(runs, key=lambda run: run.errors[-1]), marks[len(trial) :])
    return AdamPilot(marks.astype(float), np.array(best.errors), best.learning_rate, model.width, len(learn))


@dataclass(frozen=True)
class _Run:
    """One pilot on its way."""

    network: Any
    state: Any
    learning_rate: float
    done: int = 0
    errors: tuple[float, ...] = ()

    def advanced(self, arrays: Any, step: int) -> "_Run":
        """After so many steps in all."""
        rate, count = jnp.float32(self.learning_rate), jnp.asarray(step - self.done)
        network, state = _adam_steps(self.network, self.state, arrays, rate, count)
        return replace(self, network=network, state=state, done=step)


@eqx.filter_jit
def _adam_steps(
    network: Any,
    state: Any,
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    learning_rate: jax.Array,
    count: jax.Array,
) -> tuple[Any, Any]:
    """Some steps on the mean squared residual."""
    moving, fixed = eqx.partition(network, eqx.is_array)

    def one(_step: int, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        now = eqx.combine(carried[0], fixed)
        gradient, _ = loss_gradient(now, *arrays)
        mean = jax.tree.map(lambda slope: 2 * slope / arrays[2].size, gradient)
        change, moments = optax.scale_by_adam().update(mean, carried[1])
        now = moved_by(now, jax.tree.map(lambda part: -learning_rate * part, change))
        return eqx.filter(now, eqx.is_array), moments

    moved, moments = jax.lax.fori_loop(0, count, one, (moving, state))
    return eqx.combine(moved, fixed), moments


def _subset(data: OperatorDataset, stride: int) -> OperatorDataset:
    some = np.arange(min(PILOT_FUNCTIONS, len(data)))
    return OperatorDataset(
        data.inputs[some], data.outputs[some, ::stride], data.sensor_points, data.query_points[::stride], data.name
    )
