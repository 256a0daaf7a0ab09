"""A forecast beside a training loop of the user's own, renewed like the weather's."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PyTree

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset, OutputScale
from foretrain.forecast._adam import AdamForecast, forecast_adam
from foretrain.forecast._adam_relay import TestFunctions
from foretrain.forecast._adam_stage import AdamSettings, Moments, adam_state
from foretrain.tangent import EmpiricalKernel, empirical_kernel

Array = np.ndarray
RECENT = 50
"""Losses that tell the present level and its noise."""
NORMAL_90 = 1.645
"""Half-width of the 90 % interval of a normal error, in standard deviations."""
ENOUGH_CHECKS = 6
LARGEST_WIDTH = 20.0


@dataclass(frozen=True)
class Bulletin:
    """One forecast of the rest of a run.

    Attributes:
        step: when it was made.
        steps: the last step of the run.
        loss: the level of the loss now, in the user's units.
        expected: the loss forecast for the last step.
        lower, upper: its band, about 90 %, from what the forecast measured of itself and how earlier ones fared.
        horizon: the step up to which the forecast is more than an extrapolation.
        expected_at_horizon: the loss forecast for it.
        verdict: how the bulletin before fared: "first forecast", "as foretold", "better than foretold", "worse than
            foretold".
        sentence: all this in one line.
        seconds: what making it took; the first one compiles.
        share: that, over the time of the training since the bulletin before; None for the first.
        curve: the loss forecast for every step from now to the last, in the user's units.
        width: the half-width of its band, as a logarithm.
        forecast: of the functions it rests on, in units of the mean squared residual.
    """

    step: int
    steps: int
    loss: float
    expected: float
    lower: float
    upper: float
    horizon: int
    expected_at_horizon: float
    verdict: str
    sentence: str
    seconds: float
    share: float | None
    curve: Float[Array, " steps"]
    width: Float[Array, " steps"]
    forecast: AdamForecast


class Outlook:
    """Forecasts the loss of an optax loop while it runs, and learns from its own errors.

        outlook = Outlook(data, steps=20_000, learning_rate=schedule)
        for step in range(20_000):
            network, state, loss = update(network, state)
            bulletin = outlook(step + 1, network, state, loss)
            if bulletin is not None:
                bar.set_description(bulletin.sentence)

    When one is due it makes a bulletin; else a call keeps the loss and returns None. A bulletin applies the kernel
    `applications` times on `functions` functions, about as much work as 2.5 applications * functions / batch steps of
    training, 50 for batches of 200 (`Bulletin.share` measures it).

    Arguments:
        data: what the network is trained on, in the units of its outputs.
        steps: of the whole run.
        every: steps between bulletins, at least.
        growth: of the step from one bulletin to the next, at least: late forecasts reach further, and need renewal more
            rarely. 1 for a bulletin every `every` steps.
        learning_rate, b1, b2, eps, weight_decay: as given to `optax.adam` or `optax.adamw`; the rate a number or a
            schedule.
        full_batch: whether every step sees all functions.
        loss_scale: the loss trained over the mean squared error in units of the data's root mean square; by default
            what the losses handed in say.
        functions: how many of the data's the forecast rests on, drawn with `key`. Where they are not all, the
            forecast lies between their loss and that of as many others at the foretold weights, up to halfway for a
            small share: training on all of them fits each less closely than training on a few.
        applications: of the kernel for a bulletin.

    **Assumption:** the loss is a multiple of the mean squared error over all functions and points; the network maps
    (inputs [functions, sensors], points) to outputs and treats every function by itself.
    """

    def __init__(
        self,
        data: OperatorDataset,
        steps: int,
        every: int = 500,
        *,
        growth: float = 1.25,
        learning_rate: float | Callable[[Any], Any] = 1e-3,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        full_batch: bool = True,
        loss_scale: float | None = None,
        functions: int = 64,
        applications: int = 60,
        key: int = 0,
        progress: Progress = ignore_progress,
    ) -> None:
        if steps < 1 or every < 1 or functions < 1:
            raise ForetrainError(
                f"an outlook: expected at least one step, function, and step between bulletins, came {steps}, "
                f"{functions} and {every}"
            )
        order = np.random.default_rng(key).permutation(len(data))
        rows, others = np.sort(order[:functions]), np.sort(order[functions : 2 * functions])
        self._share = len(rows) / len(data)
        self._data, self._target = data.take(rows), _scaled(data.take(rows), data.take(rows))
        self._others = None
        if len(others):
            rest = data.take(others)
            self._others = TestFunctions(rest.inputs, rest.query_points, _scaled(rest, self._data))
        self._steps, self._every, self._growth = steps, every, growth
        self._settings = AdamSettings(learning_rate, b1, b2, eps, weight_decay=weight_decay)
        self._full_batch, self._loss_scale = full_batch, loss_scale
        self._applications, self._progress = applications, progress
        self._recent: deque[ArrayLike] = deque(maxlen=RECENT)
        self._kernel: EmpiricalKernel | None = None
        self._trained: PyTree = None
        self._bulletins: list[Bulletin] = []
        self._checks: list[tuple[int, float]] = []
        self._ended = math.nan

    @property
    def bulletins(self) -> tuple[Bulletin, ...]:
        """All so far, the latest last."""
        return tuple(self._bulletins)

    def __call__(self, step: int, network: Any, optimiser_state: PyTree, loss: ArrayLike) -> Bulletin | None:
        """A bulletin if one is due after `step` steps, else None.

        Arguments:
            step: how many steps were taken.
            network: after them.
            optimiser_state: of optax, after them; Adam's is found in it.
            loss: of the last step; read only when a bulletin is due, so that it does not hold up the device.

        Raises:
            ForetrainError: no Adam in the state, or a loss that is not finite and positive.
        """
        self._recent.append(loss)
        if not self._due(step):
            return None
        started = time.perf_counter()
        level, noise = self._level()
        kernel = self._kernel_of(network, adam_state(optimiser_state).mu)
        present = float(np.mean((np.asarray(kernel.outputs(), np.float64) - self._target) ** 2))
        forecast = forecast_adam(
            kernel,
            self._target,
            Moments.of(adam_state(optimiser_state), self._settings),
            self._settings,
            self._steps - step,
            loss_scale=self._loss_scale if self._loss_scale is not None else level / max(present, 1e-300),
            full_batch=self._full_batch,
            noise=noise,
            test=self._others,
            applications=self._applications,
            progress=self._progress,
        )
        verdict = self._check(step, level, noise)
        bulletin = self._bulletin(step, level, noise, verdict, forecast, started)
        self._bulletins.append(bulletin)
        self._ended = time.perf_counter()
        return bulletin

    def _due(self, step: int) -> bool:
        last = self._bulletins[-1].step if self._bulletins else 0
        return step % self._every == 0 and self._growth * last <= step < self._steps and step > last

    def _level(self) -> tuple[float, float]:
        """The loss of the last steps, and the half-width of its scatter, as a logarithm."""
        losses = np.asarray([float(np.asarray(loss)) for loss in self._recent])
        if not np.all(np.isfinite(losses)) or np.any(losses <= 0):
            raise ForetrainError(f"an outlook: expected finite, positive losses, came {losses[-1]:g} among the last")
        logs = np.log(losses)
        trend = np.polyval(np.polyfit(np.arange(len(logs)), logs, 1), np.arange(len(logs))) if len(logs) > 2 else logs
        return float(np.exp(trend[-1])), NORMAL_90 * float(np.std(logs - trend))

    def _kernel_of(self, network: Any, momentum: PyTree) -> EmpiricalKernel:
        """One function for all bulletins, so that its derivatives are compiled once."""
        if self._kernel is None:
            self._trained = jax.tree.map(lambda leaf: leaf is not None, momentum, is_leaf=lambda leaf: leaf is None)
            self._kernel = empirical_kernel(network, self._data, trained=self._trained)
        return replace(self._kernel, weights=eqx.partition(network, self._trained)[0])

    def _check(self, step: int, level: float, noise: float) -> str:
        """Compares what is with what was foretold."""
        if not self._bulletins:
            return "first forecast"
        for earlier in self._bulletins:
            lead = step - earlier.step
            self._checks.append((lead, abs(math.log(level / earlier.curve[lead]))))
        last = self._bulletins[-1]
        error = math.log(level / last.curve[step - last.step])
        if abs(error) <= max(last.width[step - last.step], noise):
            return "as foretold"
        return "better than foretold" if error < 0 else "worse than foretold"

    def _experienced(self, own: Array, noise: float) -> Array:
        """Half-width of the band: what the forecast says of itself, and what earlier ones missed by at each lead.

        Errors grow about as the lead does; those at the leads nearest to the one asked for count.
        """
        if not self._checks:
            return own
        leads, errors = np.asarray(self._checks, float).T
        slopes = {lead: (errors[leads == lead] / lead) ** 2 for lead in np.unique(leads)}
        known = np.array(list(slopes))
        every = np.arange(1, len(own))
        nearest = np.argmin(np.abs(np.log(every[:, None] / known)), axis=1)
        slope = np.array([math.sqrt(np.mean(slopes[lead])) for lead in known])[nearest]
        often = np.array([len(slopes[lead]) >= ENOUGH_CHECKS for lead in known])[nearest]
        width = NORMAL_90 * slope * every + noise
        return np.append(own[0], np.where(often, width, np.maximum(width, own[1:])))

    def _bulletin(
        self, step: int, level: float, noise: float, verdict: str, forecast: AdamForecast, started: float
    ) -> Bulletin:
        shift = self._shift_to_all(forecast)
        curve = level * forecast.loss / forecast.loss[0] * np.exp(shift)
        own = np.log(forecast.upper / forecast.loss) + np.abs(shift)
        width = np.minimum(self._experienced(own, noise), LARGEST_WIDTH)
        expected, horizon = float(curve[-1]), step + forecast.horizon
        lower, upper = expected * math.exp(-width[-1]), expected * math.exp(width[-1])
        seconds = time.perf_counter() - started
        between = started - self._ended
        sentence = (
            f"step {step}: loss {level:.2e} ({verdict}); at step {self._steps} about {expected:.2e} "
            f"({lower:.1e} to {upper:.1e})"
            + (f", beyond step {horizon} an extrapolation" if horizon < self._steps else "")
        )
        return Bulletin(
            step,
            self._steps,
            level,
            expected,
            lower,
            upper,
            horizon,
            float(curve[forecast.horizon]),
            verdict,
            sentence,
            seconds,
            seconds / between if math.isfinite(between) and between > 0 else None,
            curve,
            width,
            forecast,
        )

    def _shift_to_all(self, forecast: AdamForecast) -> Array:
        """What to add to the logarithm of the loss of some functions for that of all."""
        every = np.arange(len(forecast.loss))
        if forecast.test_error is None:
            return np.zeros(len(every))
        known = forecast.marks <= forecast.horizon
        marks, errors = forecast.marks[known], forecast.test_error[known]
        own = np.log(forecast.loss[marks] / forecast.loss[0])
        gap = np.maximum(2 * np.log(errors / errors[0]) - own, 0)
        return np.interp(np.log1p(every), np.log1p(marks), gap) * (1 - self._share) / 2


def _scaled(data: OperatorDataset, reference: OperatorDataset) -> Float[Array, "functions points"]:
    """Outputs in the units of the kernel of the reference."""
    return data.outputs / OutputScale.of(reference.outputs).scale
