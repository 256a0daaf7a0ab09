"""How far a network of finite width strays from its forecast, measured on pilots trained for real."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.forecast._kernels import has_limit
from foretrain.forecast._methods import GradientDescent, Method
from foretrain.forecast._pilot import (
    Basis,
    Deviations,
    Pilot,
    at_step,
    full_batch,
    log_spaced_steps,
    takes_long_steps,
)
from foretrain.models import DeepONet, ShallowOperator, draw_network

Array = np.ndarray
BASES: tuple[Basis, Basis] = ("infinite width", "drawn weights")
STUDENT_QUANTILE = {4: 2.353, 6: 2.015, 8: 1.895, 12: 1.796, 16: 1.753}
"""Two-sided 90 % points of Student's t with pilots - 1 degrees of freedom."""
SHARE_OF_SHIFT = 0.35
SHARE_OF_DRAW = 0.6
"""Of the spread between draws, which pilots show larger than the run: over fewer functions less of it averages out."""
MARGIN_OF_WIDTH = 1.5
"""Pilots tell their own spread to a factor of about 1.5 either way, and it falls more slowly than in theory."""
MOST_FUNCTIONS = 256
"""Of a pilot, by default."""
MOST_CHECKED = 64
"""Functions that a pilot's test error is measured on."""
FEWEST_FUNCTIONS = 32
"""Of the smaller one beside it, a quarter as large, that shows how deviations grow with their number."""
NEARBY = np.log(3)
"""In logarithms of the steps: the spread of the pilots anywhere so near counts."""
SLOPE_NOISE = 0.5
"""Standard deviation of whole less quarters, in those between quarters: the same weights and functions share most."""
PILOTS_APART = 16
"""Keys that one seed's pilots may use."""


@dataclass(frozen=True)
class WidthDeviation:
    """Logarithmic deviation of pilots from their own forecast: its mean and its spread.

        log(measured / forecast)  ~  shift(step) +- spread(step)                                    at the pilots' width
        log(measured / forecast)  ~  0 +- sqrt(shift^2 + spread^2) sqrt(pilot width / width)        at another one

    Pilots are trained for real, and so show kernel noise and drift at once. At their own width the forecast is
    corrected by their mean. **Estimate:** they see fewer functions than the run, which changed measured shifts by up to
    a third; that much of the shift counts as spread. The root of the width is the theory's scaling.

    Attributes:
        steps: where the pilots were compared, increasing, [marks].
        loss, test_error: spreads, for each kernel a forecast can rest on, [marks]. That of infinite width strays by the
            noise of the draw and by drift, that of the drawn weights by drift alone. Of the former the band takes 0.6,
            as measured by benchmarks/forecast.py.
        loss_shift, test_error_shift: means, likewise; empty for none.
        width, pilots: of the pilots, and how many.
    """

    steps: Float[Array, " marks"]
    loss: Mapping[Basis, Float[Array, " marks"]]
    test_error: Mapping[Basis, Float[Array, " marks"]]
    width: int
    pilots: int
    loss_shift: Mapping[Basis, Float[Array, " marks"]] = field(default_factory=dict)
    test_error_shift: Mapping[Basis, Float[Array, " marks"]] = field(default_factory=dict)

    def loss_band(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """Logarithmic half-width of the 90 % band of the training loss at a width, after each number of steps."""
        return self._band(self.loss[basis], self.loss_shift.get(basis), steps, width, basis)

    def test_error_band(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """Logarithmic half-width of the 90 % band of the test error."""
        return self._band(self.test_error[basis], self.test_error_shift.get(basis), steps, width, basis)

    def loss_correction(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """What is added to the logarithm of the forecast loss."""
        return self._shift(self.loss_shift.get(basis), steps, width)

    def test_error_correction(self, steps: Float[Array, " steps"], width: int, basis: Basis) -> Float[Array, " steps"]:
        """What is added to the logarithm of the forecast test error."""
        return self._shift(self.test_error_shift.get(basis), steps, width)

    def width_for(self, tolerance: float, step: int, basis: Basis = "drawn weights") -> float:
        """The width from which on draws differ from a forecast corrected at that width by at most a tolerance (90 %).

        Of the mean deviation only that part counts which pilots on fewer functions may miss.
        """
        missed = SHARE_OF_SHIFT * self.loss_shift.get(basis, np.zeros(len(self.steps)))
        off = np.hypot(STUDENT_QUANTILE[self.pilots] * self.loss[basis], missed)
        worst = float(np.max(off[self.steps <= step], initial=0.0))
        return MARGIN_OF_WIDTH * self.width * (worst / np.log1p(tolerance)) ** 2

    def _band(self, spread: Array, shift: Array | None, steps: Array, width: int, basis: Basis) -> Array:
        spread = spread * (SHARE_OF_DRAW if basis == "infinite width" else 1.0)
        if shift is not None:
            share = SHARE_OF_SHIFT if width == self.width else 1.0
            # Of a normal distribution's 90 % the quantile is 1.645; the share is meant as such a half-width.
            spread = np.hypot(spread, share * shift / 1.645)
        # Pilots that happen to cross their forecast have no deviation there; the band must not pinch.
        apart = np.abs(np.subtract.outer(np.log1p(self.steps), np.log1p(self.steps)))
        neighbours = np.abs(np.subtract.outer(np.arange(len(spread)), np.arange(len(spread)))) <= 1
        widest = np.max(np.where((apart <= NEARBY) | neighbours, spread, 0), axis=1)
        # Beyond the pilots' last step nothing was measured: the band grows with the logarithm of the steps.
        beyond = np.maximum(1, np.log1p(steps) / np.log1p(self.steps[-1]))
        return STUDENT_QUANTILE[self.pilots] * beyond * self._at(widest, steps) * (self.width / width) ** 0.5

    def _shift(self, shift: Array | None, steps: Array, width: int) -> Array:
        return np.zeros(len(steps)) if shift is None or width != self.width else self._at(shift, steps)

    def _at(self, values: Array, steps: Array) -> Array:
        # Without kinks, which would draw the minimum of a corrected curve to the marks.
        curve = PchipInterpolator(np.log1p(self.steps), values)
        return np.asarray(curve(np.log1p(np.minimum(steps, self.steps[-1]))))


def measure_width_deviation(
    train: OperatorDataset,
    model: Any,
    steps: int,
    key: int = 0,
    *,
    method: Method | None = None,
    relative_step: float | None = None,
    draws: Literal["fresh", "own"] = "fresh",
    pilot_width: int | None = None,
    pilots: int = 4,
    functions: int | None = None,
    points: int = 32,
    bases: tuple[Basis, ...] = BASES,
    test: OperatorDataset | None = None,
    progress: Progress = ignore_progress,
) -> WidthDeviation:
    """Trains pilots on subsets of the data and compares them with their own forecast.

        d(n) = d_run + c / sqrt(n)          mean logarithmic deviation on n functions

    Features move for all functions together, so deviations grow with their number: pilots are trained on quarters of n
    functions and the first one's weights on all n of them as well, and the line through both leads to the run's number.
    **Estimate:** the root fits what was measured (docs/decisions/0005); where a quarter would be under 32 functions,
    pilots are trained on n, and their deviation stands for the run's.

    Arguments:
        train: the training data. A pilot sees `functions` of them, and as many others for its test error.
        model: what is trained.
        steps: how long to train (at most 1,000; later deviations are taken as the last). Gradient descent's path is
            followed in long steps, at about a seventh of the cost.
        key: seed of subsets and draws.
        method: what the pilots are trained by, gradient descent by default. In place of minibatches they take all
            their functions, as the noise of batches is forecast by itself; in place of flow, gradient descent.
        relative_step: step size times largest eigenvalue, the same for every pilot as for the run; by default, and
            where the run would be unstable, what the method takes by itself.
        draws: "own" pilots have the weights that `key` draws, and see other functions each; "fresh" ones have weights
            of their own, as the forecast of infinite width is for any draw. Where there is none, they are always own.
        pilot_width: of a shallow operator's pilots, if not its own.
        pilots: how many, one of 4, 6, 8, 12, 16.
        functions: of a pilot, and no extrapolation from them; by default n is half of the data and at most 256.
        points: of the pilots of a shallow operator or a DeepONet; others keep all query points.
        bases: the kernels whose forecasts to compare with; only that of the drawn weights where there is no limit.
        test: what the run will be tested on, where known: pilots then are as well. Training functions may be noisier.

    Raises:
        ForetrainError: another number of pilots.
    """
    limited = has_limit(model)
    if pilots not in STUDENT_QUANTILE:
        raise ForetrainError(f"pilots: expected one of {', '.join(map(str, STUDENT_QUANTILE))}, came {pilots}")
    if limited:
        model = replace(model, width=pilot_width or model.width)
    functions_of_run = len(train)
    if isinstance(model, ShallowOperator | DeepONet):
        # The embedding must be that of the full problem: a thinned grid may look different.
        model = replace(model, embedding=model.embedding_for(train))
        train, test = _thinned(train, points), test and _thinned(test, points)
    test = test and test.take(np.arange(min(len(test), MOST_CHECKED)))
    half = min(functions or MOST_FUNCTIONS, len(train) // 2)
    stepping = at_step(full_batch(method or GradientDescent()), relative_step)
    # Gradient descent's path is followed in long steps, the longer the fewer the marks.
    marks = log_spaced_steps(min(steps, 1000), per_decade=6 if takes_long_steps(stepping) else 12)
    rng = np.random.default_rng(key)
    bases = tuple(basis for basis in BASES if basis in bases) if limited else BASES[1:]
    fresh = limited and draws == "fresh"

    def deviations(number: int, learn: Array, check: Array) -> Deviations:
        network = draw_network(model, train, key * PILOTS_APART + number if fresh else key)
        checked = test or train.take(np.sort(check[:MOST_CHECKED]))
        pilot = Pilot(network, train.take(np.sort(learn)), checked, stepping)
        return pilot.deviations(model, bases, marks, number)

    quarter = half // 4
    in_two_sizes = functions is None and quarter >= FEWEST_FUNCTIONS
    found: list[Deviations] = []
    trainings = pilots + in_two_sizes
    order = rng.permutation(len(train))
    for number in range(pilots):
        if in_two_sizes:
            learn = np.take(order, np.arange(number * quarter, (number + 1) * quarter), mode="wrap")
            check = np.setdiff1d(order[half:], learn, assume_unique=True)[:quarter]
        else:
            order = rng.permutation(len(train)) if number else order
            learn, check = order[:half], order[half : 2 * half]
        found.append(deviations(number, learn, check))
        progress("training pilots", number + 1, trainings)
    further = 0.0
    if in_two_sizes:
        further = _further(4 * quarter, functions_of_run)
        whole = deviations(0, order[: 4 * quarter], order[half:])
        # Weights of their own tell the draws apart: only the first pilot's are trained on both.
        grown = _grown(whole, found[:1] if fresh else found[:4], further)
        found = [{basis: each[basis] + grown[basis] for basis in bases} for each in found]
        progress("training pilots", trainings, trainings)
    return _summary(found, marks, model.width if limited else 1, pilots, further)


def _summary(found: list[Deviations], marks: Array, width: int, pilots: int, further: float = 0.0) -> WidthDeviation:
    """Means and spreads over pilots; the spread is that of one more pilot about their mean, wherever it was led to."""
    spread: tuple[dict[Basis, Array], dict[Basis, Array]] = ({}, {})
    shift: tuple[dict[Basis, Array], dict[Basis, Array]] = ({}, {})
    off = np.sqrt(1 + 1 / pilots + (SLOPE_NOISE * further) ** 2)
    for basis in found[0]:
        logs = np.stack([deviations[basis] for deviations in found])
        for which in range(2):
            shift[which][basis] = np.mean(logs[:, which], axis=0)
            spread[which][basis] = np.std(logs[:, which], axis=0, ddof=1) * off
    return WidthDeviation(marks.astype(float), *spread, width, pilots, *shift)


def _further(count: int, wanted: int) -> float:
    """How often the step from a quarter of `count` functions to all of them leads to the number wanted."""
    return ((count / 4) ** -0.5 - wanted**-0.5) / ((count / 4) ** -0.5 - count**-0.5)


def _grown(whole: Deviations, quarters: list[Deviations], further: float) -> Deviations:
    """What c / sqrt(n) adds from a quarter of the functions to the number wanted, c from the whole and the quarters."""
    return {
        basis: further * (whole[basis] - np.mean([quarter[basis] for quarter in quarters], axis=0)) for basis in whole
    }


def _thinned(data: OperatorDataset, points: int) -> OperatorDataset:
    stride = max(1, data.outputs.shape[1] // points)
    return OperatorDataset(
        data.inputs, data.outputs[:, ::stride], data.sensor_points, data.query_points[::stride], data.name
    )
