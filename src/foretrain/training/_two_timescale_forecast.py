"""What two timescales will cost and reach, from a rehearsal of the run's beginning."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.stats

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.models import FilteredFourierOperator
from foretrain.training._two_timescale_run import TwoTimescale, TwoTimescaleRecord, TwoTimescaleRun
from foretrain.training._two_timescales import PATIENCE, train_two_timescales

FEWEST_FUNCTIONS = 80
REHEARSED = 40
LONGER = 4
REHEARSED_SHARE = 0.25
FEWEST_REHEARSED = 16
STEEP = 0.25
CONFIDENCE = 0.9
# Fitted to the runs that `forecast_two_timescales` names.
SLOPE_KEPT = 0.7
STOP_LEVEL = 1.15
STOP_PER_SLOPE = 1.7
STOP_PER_GAP = 1.5
STOP_SPREAD = 0.6
ERROR_SPREAD = 0.1
FALL_SPREAD = 0.4
PROBLEMS_FITTED = 14
NOT_FITTED = 2.0
EARLY = 3
TIMED_PARTS = 8


@dataclass(frozen=True)
class Expected:
    """A number forecast, with the band it falls into nine times of ten."""

    value: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        assert self.lower <= self.value <= self.upper

    def times(self, factor: float) -> "Expected":
        """All three, so many times as large."""
        return Expected(self.value * factor, self.lower * factor, self.upper * factor)

    def holds(self, measured: float) -> bool:
        """Whether the number measured lies in the band."""
        return self.lower <= measured <= self.upper


@dataclass(frozen=True)
class LearningLaw:
    """How the held-out error goes on: per doubling of the steps it falls by a share of what it fell by before.

        log e(2^j K) = log e(K) - s (r + r^2 + ... + r^j)

    Attributes:
        step: K, where the law was read off.
        error: e(K).
        slope: s, the fall of log e over the last doubling before K; 0 where it no longer fell.
        kept: r.
    """

    step: float
    error: float
    slope: float
    kept: float = SLOPE_KEPT

    @classmethod
    def read_off(cls, steps: Sequence[float], errors: Sequence[float], kept: float = SLOPE_KEPT) -> "LearningLaw":
        """By least squares of log e, a parabola with this curvature, over the last two doublings.

        Raises:
            ForetrainError: fewer than three errors to read off.
        """
        at, seen = np.asarray(steps, float), np.asarray(errors, float)
        last = at[-1] if len(at) else 0.0
        chosen = (at >= max(last / 4, 1.0)) & (seen > 0)
        if chosen.sum() < 3:
            raise ForetrainError(
                f"forecast of two timescales: expected 3 held-out errors or more to read a law off, came {chosen.sum()}"
            )
        doublings = np.log2(at[chosen] / last)
        # log e = a + s r (r^j - 1) / (1 - r), j the doublings after K: linear in a and s.
        shape = kept * (kept**doublings - 1) / (1 - kept)
        design = np.stack([np.ones_like(shape), shape], axis=1)
        (level, slope), *_ = np.linalg.lstsq(design, np.log(seen[chosen]), rcond=None)
        return cls(float(last), float(np.exp(level)), max(float(slope), 0.0), kept)

    def at(self, step: float) -> float:
        """e after so many steps."""
        doublings = np.log2(step / self.step)
        fallen = self.slope * self.kept * (1 - self.kept**doublings) / (1 - self.kept)
        return float(self.error * np.exp(-fallen))

    def step_of(self, error: float) -> float | None:
        """When e falls to this, or None if it never does."""
        if error >= self.error:
            return self.step
        least = 1 - np.log(self.error / error) * (1 - self.kept) / (self.slope * self.kept) if self.slope else 0.0
        if least <= 0:
            return None
        return float(self.step * 2 ** (np.log(least) / np.log(self.kept)))


Reach = Literal["expected", "possible", "not expected"]


@dataclass(frozen=True)
class TwoTimescaleForecast:
    """What a run of two timescales is expected to take and to reach, each with a band of 90 %.

    Attributes:
        evaluations: of the loss and its gradient in the inner weights, until the run ends by itself or at `steps`.
        seconds: of the run on this machine under its present load, programs compiled.
        test_error: mean relative L2 error at the end, on as many functions like the training ones as are held out.
        price: of those seconds, or None without a price.
        steps: evaluations at most.
        target_error: asked for, or None.
        target_reached: whether the whole band of the test error lies at or below the target, a part of it, or none.
        steps_to: evaluations until the expected error falls to the target; None if it never does.
        records: of the rehearsal, which this rests on.
        law: of the held-out error, read off them.
        compiling_seconds: what compiling took: paid once in a process, so not again by a run after the forecast.
        spent: seconds of this forecast, compiling included.
    """

    evaluations: Expected
    seconds: Expected
    test_error: Expected
    price: Expected | None
    steps: int
    target_error: float | None
    target_reached: Reach | None
    steps_to: float | None
    records: tuple[TwoTimescaleRecord, ...]
    law: LearningLaw
    compiling_seconds: float
    spent: float

    @property
    def said(self) -> str:
        """In one line."""
        count, seconds, error = self.evaluations, self.seconds, self.test_error
        line = (
            f"{count.value:,.0f} evaluations [{count.lower:,.0f}, {count.upper:,.0f}], {seconds.value:.3g} s "
            f"[{seconds.lower:.3g}, {seconds.upper:.3g}], test error {error.value:.2%} "
            f"[{error.lower:.2%}, {error.upper:.2%}]"
        )
        if self.price is not None:
            line += f", price {self.price.value:.2g} [{self.price.lower:.2g}, {self.price.upper:.2g}]"
        if self.target_error is not None:
            line += f"; {self.target_error:.2%} {self.target_reached}"
        return line


def forecast_two_timescales(
    train: OperatorDataset,
    model: Any,
    method: TwoTimescale | None = None,
    *,
    steps: int,
    target_error: float | None = None,
    price_per_hour: float | None = None,
    key: int = 0,
    progress: Progress = ignore_progress,
) -> TwoTimescaleForecast:
    """Forecasts evaluations, time and test error of `train_two_timescales` with the same arguments.

    Rehearses the run's first K = 40 evaluations, four times as many while the error still falls steeply (never more
    than a quarter of `steps`), and carries on from there:

        log e(2^j K) = log e(K) - s (r + r^2 + ... + r^j),      log(t / K) = 1.15 + 1.7 s - 1.5 g

    e the held-out error, s the fall of log e over the last doubling, r = 0.7, g how far e has parted from the training
    error since evaluation 3 (log of their ratio), t the evaluation of least e, which decides when the run ends.
    Smaller problems say less: a run on a quarter of the functions overfits, and its error follows another law.

    **Estimate**: the numbers above are fitted to 45 runs of 14 problems (Burgers, advection, a nonlinear
    antiderivative; 240 to 3,000 functions; shallow operators and DeepONet; L-BFGS in the limit); the bands' spreads to
    these and 18 more, after which they were widened. On a problem left out of both (heat, 600 functions) evaluations
    fell into the band and test errors did not, by factors of 1.8 and 1.3.
    The lower end of the evaluations is what the rehearsal's own least error asks for. What misses most: many functions
    (3,000), where runs go on for longer than told. For finite ratios, optimisers and minibatches nothing was fitted,
    and the bands are twice as wide. **Assumption: the functions' absolute errors are alike**, which gives the sampling
    error of the held-out error from the outputs' norms. Time: **as long as the machine's load stays**.

    Arguments:
        train: the training data, at least 80 functions.
        model: as for `train_two_timescales`.
        method: settings; some functions must be held out.
        steps: evaluations at most, of the run.
        target_error: mean relative L2 error hoped for.
        price_per_hour: of this machine, in any currency.
        key: the run's.

    Raises:
        ForetrainError: too few functions, none held out, values out of range, or a model of its own training.
    """
    method = method if method is not None else TwoTimescale()
    _require(train, model, method, steps, target_error, price_per_hour)
    begin = time.perf_counter()
    rehearsal, seen, law = _rehearse(train, model, method, steps, key, progress)
    spent = time.perf_counter() - begin
    widened = 1.0 if method.in_limit and method.batch_size is None and method.inner in ("auto", "lbfgs") else NOT_FITTED
    last = _last_fall(seen, law, steps, widened)
    evaluations = Expected(*(float(evaluations_until(step, steps)) for step in (last.value, last.lower, last.upper)))
    each = seconds_each(rehearsal.records)
    seconds = _product(evaluations, each)
    end = law.at(max(last.value, law.step))
    # Of the functions held out, and of as many test functions.
    sampling = 2**0.5 * sampling_spread(train, round(method.held_out * len(train)))
    told = widened * np.sqrt(ERROR_SPREAD**2 + sampling**2 + (FALL_SPREAD * np.log(law.error / end)) ** 2)
    error = _around(end, float(told))
    return TwoTimescaleForecast(
        evaluations,
        seconds,
        error,
        None if price_per_hour is None else seconds.times(price_per_hour / 3600),
        steps,
        target_error,
        None if target_error is None else _reach(error, target_error),
        None if target_error is None else _steps_to(seen, law, target_error, last.upper),
        rehearsal.records,
        law,
        max(0.0, rehearsal.seconds - rehearsal.evaluations * each.value),
        spent,
    )


def evaluations_until(last_fall: float, steps: int) -> int:
    """Of a run whose held-out error fell for the last time at this step."""
    last = round(last_fall)
    return min(last + max(PATIENCE, last // 2), steps) + 1


def seconds_each(records: Sequence[TwoTimescaleRecord]) -> Expected:
    """Of an evaluation: the median over the rehearsal's last parts, which compile nothing, with its least and most."""
    steps, seconds = np.array([record.step for record in records]), np.array([record.seconds for record in records])
    each = (np.diff(seconds) / np.diff(steps))[-TIMED_PARTS:]
    return Expected(float(np.median(each)), float(each.min()), float(each.max()))


def sampling_spread(train: OperatorDataset, held_out: int) -> float:
    """Standard deviation of the log of a mean relative error over so many functions, absolute errors being alike."""
    sizes = np.linalg.norm(train.outputs, axis=1)
    weights = 1 / np.maximum(sizes, np.finfo(float).tiny)
    return float(np.std(weights) / np.mean(weights) / held_out**0.5)


def _rehearse(
    train: OperatorDataset, model: Any, method: TwoTimescale, steps: int, key: int, progress: Progress
) -> tuple[TwoTimescaleRun, list[TwoTimescaleRecord], LearningLaw]:
    """The beginning of the run, as far as its error falls steeply; its held-out errors, and their law."""
    count = min(steps, max(FEWEST_REHEARSED, min(REHEARSED, round(REHEARSED_SHARE * steps))))
    while True:
        rehearsal = train_two_timescales(train, model, method, steps=count, key=key, progress=progress)
        seen = [record for record in rehearsal.records if record.held_out_error is not None]
        law = LearningLaw.read_off([record.step for record in seen], [_held_out(record) for record in seen])
        if law.slope <= STEEP or LONGER * count > REHEARSED_SHARE * steps:
            return rehearsal, seen, law
        count *= LONGER


def _held_out(record: TwoTimescaleRecord) -> float:
    assert record.held_out_error is not None
    return record.held_out_error


def parted(records: Sequence[TwoTimescaleRecord]) -> float:
    """How far the held-out error has parted from the training error since evaluation 3: log of their ratio, from 0."""
    early, last = min(records, key=lambda record: abs(record.step - EARLY)), records[-1]
    held = np.log(_held_out(last) / _held_out(early))
    return max(0.0, float(held - np.log(last.loss / early.loss) / 2))


def _last_fall(seen: Sequence[TwoTimescaleRecord], law: LearningLaw, steps: int, widened: float) -> Expected:
    """The step of least held-out error. The run goes the rehearsal's way: hardly before the least one seen there."""
    if seen[-1].step >= steps:
        return Expected(steps, steps, steps)
    # Records are sparse: the least error may lie between them.
    place = min(range(len(seen)), key=lambda place: _held_out(seen[place]))
    earliest, least = seen[max(place - 1, 0)].step, seen[place].step
    doubled = STOP_LEVEL + STOP_PER_SLOPE * law.slope - STOP_PER_GAP * parted(seen)
    told = _around(law.step * float(np.exp(doubled)), widened * STOP_SPREAD)
    return Expected(float(np.clip(told.value, least, steps)), float(earliest), float(np.clip(told.upper, least, steps)))


def _around(value: float, spread: float) -> Expected:
    """A band of so many standard deviations of the logarithm as the few problems fitted ask for."""
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, PROBLEMS_FITTED - 1)) * spread
    return Expected(value, value * float(np.exp(-reach)), value * float(np.exp(reach)))


def _product(first: Expected, second: Expected) -> Expected:
    """Of two independent numbers: their logarithms' reaches add in squares."""
    value = first.value * second.value
    below = np.hypot(np.log(first.value / first.lower), np.log(second.value / second.lower))
    above = np.hypot(np.log(first.upper / first.value), np.log(second.upper / second.value))
    return Expected(value, value * float(np.exp(-below)), value * float(np.exp(above)))


def _reach(error: Expected, target: float) -> Reach:
    if error.upper <= target:
        return "expected"
    return "possible" if error.lower <= target else "not expected"


def _steps_to(seen: Sequence[TwoTimescaleRecord], law: LearningLaw, target: float, last: float) -> float | None:
    """Seen in the rehearsal, or by the law as far as it is believed."""
    for record in seen:
        if record.held_out_error is not None and record.held_out_error <= target:
            return float(record.step)
    step = law.step_of(target)
    return step if step is not None and step <= last else None


def _require(
    train: OperatorDataset,
    model: Any,
    method: TwoTimescale,
    steps: int,
    target_error: float | None,
    price_per_hour: float | None,
) -> None:
    told = "forecast of two timescales: expected"
    if isinstance(model, FilteredFourierOperator):
        raise ForetrainError(f"{told} a network of one linear outer layer, came a FilteredFourierOperator; train it")
    if len(train) < FEWEST_FUNCTIONS:
        raise ForetrainError(f"{told} {FEWEST_FUNCTIONS} functions or more, came {len(train)}; train without it")
    if round(method.held_out * len(train)) < 2:
        raise ForetrainError(f"{told} functions held out, came held_out={method.held_out}; hold out a tenth")
    if steps < 3:
        raise ForetrainError(f"{told} at least 3 steps, came {steps}; train without it")
    for name, value in (("target_error", target_error), ("price_per_hour", price_per_hour)):
        if value is not None and not 0 < value < np.inf:
            raise ForetrainError(f"{told} {name} above 0, came {value}; leave it out")
