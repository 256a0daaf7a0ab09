"""Trust at run time: a band around the answer, and a score of how unlike the training inputs an input is."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from foretrain._foundation import DataError, ForetrainError

Array = np.ndarray

# Energies of differences from sensor to sensor: up to the fourth.
DIFFERENCES = 4
# Of the values: what rounding to single precision leaves in differences must not count as roughness.
ROUNDING = 4e-6
# Of a log energy: inputs that all have the same norm must not be held to its last digit.
LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class ConformalBand:
    """A band around predictions that contains the truth with a stated probability, whatever the model.

    At each point: the truth's value there lies in prediction +- half_width with probability at least `coverage`.
    Simultaneously: the whole function lies in prediction +- simultaneous_half_width with that probability.

    **Assumption:** new functions are exchangeable with the calibration functions, which took no part in training;
    the probability is over the draw of both.

    Attributes:
        coverage: the stated probability.
        functions: how many calibration functions the widths rest on.
        half_width, simultaneous_half_width: [points], physical units.

    Source: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world" (2005); Lei et al., JASA 2018.
    """

    coverage: float
    functions: int
    half_width: Float[Array, " points"]
    simultaneous_half_width: Float[Array, " points"]

    @classmethod
    def fit(
        cls,
        residuals: Float[Array, "functions points"],
        coverage: float = 0.9,
        scale: Float[Array, " points"] | None = None,
    ) -> "ConformalBand":
        """The band from residuals prediction - truth on calibration functions.

            half_width = the k-th smallest |residual|, k = ceil((functions + 1) coverage), point by point
            simultaneous_half_width = scale * (the k-th smallest of max over points of |residual| / scale)

        Arguments:
            residuals: of functions that were not trained on.
            coverage: probability, between 0 and 1.
            scale: the shape of the simultaneous band, known without these residuals; by default the root mean square
                of every second residual, and the other residuals alone are ranked.

        Raises:
            ForetrainError: a coverage outside (0, 1), or one that needs more functions.
            DataError: residuals that are not a finite table.
        """
        if not 0 < coverage < 1:
            raise ForetrainError(f"expected a coverage between 0 and 1, came {coverage:g}")
        sizes = np.abs(_table(residuals, "residuals"))
        ranked = sizes
        if scale is None:
            ranked, shape = sizes[::2], np.sqrt(np.mean(sizes[1::2] ** 2, axis=0)) if len(sizes) > 1 else sizes[0]
        else:
            shape = np.asarray(scale, np.float64)
        # Points where nothing ever went wrong, a boundary for one, would divide by zero.
        shape = np.maximum(shape, 1e-6 * shape.max()) if shape.max() > 0 else np.ones(sizes.shape[1])
        factor = _conformal_quantile(np.max(ranked / shape, axis=1), coverage)
        return cls(coverage, len(sizes), _conformal_quantile(sizes, coverage), factor * shape)

    def around(
        self, prediction: Float[Array, "functions points"], simultaneous: bool = False
    ) -> tuple[Float[Array, "functions points"], Float[Array, "functions points"]]:
        """(lower, upper) edges of the band, point by point or for whole functions at once."""
        width = self.simultaneous_half_width if simultaneous else self.half_width
        prediction = np.asarray(prediction, np.float64)
        return prediction - width, prediction + width


@dataclass(frozen=True)
class OutOfRange:
    """Scores how far an input is from the training inputs, on either side, and flags those beyond a stated quantile.

        score(u)^2 = sum_j ((log energy_j(u) - centre_j) / spread_j)^2

    with six energies of v = u - mean: within the principal components, sum_k (v . direction_k / deviation_k)^2; what
    the components leave; first to fourth differences from sensor to sensor. An input that is too small or too smooth
    lies as far from the centre as one that is too large or too rough. Among the differences is one that weighs the
    wave numbers of a smooth input about alike, so that all of them tell of another length-scale, where the components
    know a few. The energies are not decorrelated: what several of them see counts as often (benchmarks/trust.py).

    **Assumption:** the flag's rate of false alarms, at most 1 - quantile, holds for inputs exchangeable with those of
    `fit`. A low score is no proof of a good answer: the score sees inputs only, never another equation behind them.

    Attributes:
        mean: [sensors]; directions: [sensors, components]; deviations: [components].
        residual_deviation: root mean square of what the components leave of a training input.
        centre, spread: [energies], mean and standard deviation of the logarithms.
        threshold: the score at the quantile of training inputs that nothing else was fitted to.
        quantile: the share of inputs like the training inputs that stay below the threshold.
    """

    mean: Float[Array, " sensors"]
    directions: Float[Array, "sensors components"]
    deviations: Float[Array, " components"]
    residual_deviation: float
    centre: Float[Array, " energies"]
    spread: Float[Array, " energies"]
    threshold: float
    quantile: float

    @classmethod
    def fit(
        cls,
        inputs: Float[Array, "functions sensors"],
        quantile: float = 0.99,
        explained: float = 0.999,
        components: int = 8,
    ) -> "OutOfRange":
        """Components from every second training input, centre and spread from an eighth, the threshold from the rest.

        All is rounded to the digits that a file keeps before the threshold is drawn, so that a detector read back from
        a file is the same to the last bit.

        Arguments:
            inputs: training inputs.
            quantile: share of such inputs that must not be flagged, between 0 and 1.
            explained: share of the variance that the components kept explain.
            components: at most so many are kept, whatever they explain; each costs as many numbers as sensors.

        Raises:
            ForetrainError: shares outside (0, 1), no component, or a quantile that needs more functions.
            DataError: inputs that are not a finite table, or all equal.
        """
        if not (0 < quantile < 1 and 0 < explained < 1):
            raise ForetrainError(
                f"expected a quantile and an explained share between 0 and 1, came {quantile:g}, {explained:g}"
            )
        if components < 1:
            raise ForetrainError(f"expected at least 1 component, came {components}")
        values = _table(inputs, "inputs")
        fitted, ranked = values[1::2], np.concatenate([values[2::8], values[4::8], values[6::8]])
        _rank(len(ranked), quantile)
        mean = _single(fitted.mean(axis=0))
        centred = fitted - mean
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        energy = singular**2
        if energy.sum() <= 1e-12 * np.sum(fitted**2):
            raise DataError("inputs: expected functions that differ, came equal ones; there is no spread to measure")
        kept = int(np.searchsorted(np.cumsum(energy) / energy.sum(), explained)) + 1
        directions = rows[: min(kept, components)].T.astype(np.float16).astype(np.float64)
        coefficients = centred @ directions
        left = np.sum((centred - coefficients @ directions.T) ** 2, axis=1)
        # Inputs that the components explain to the last digit leave only rounding, which is no yardstick.
        residual = math.sqrt(max(float(np.mean(left)), 1e-6 * float(energy.sum()) / len(fitted)))
        deviations = _single(np.sqrt(np.mean(coefficients**2, axis=0)))
        bare = cls(mean, directions, deviations, float(np.float32(residual)), np.zeros(0), np.zeros(0), 0.0, quantile)
        energies = bare._log_energies(values[::8], min(DIFFERENCES, values.shape[1] - 1))
        spread = np.maximum(energies.std(axis=0, ddof=1), LEAST_SPREAD)
        scored = replace(bare, centre=_single(energies.mean(axis=0)), spread=_single(spread))
        threshold = float(_conformal_quantile(scored.score(ranked), quantile))
        return replace(scored, threshold=threshold)

    def score(self, inputs: Float[Array, "functions sensors"]) -> Float[Array, " functions"]:
        """How unlike the training inputs each input is; about 2.4, the root of six energies, for one like them.

        Raises:
            DataError: inputs that are not a finite table of the training inputs' width.
        """
        values = _table(inputs, "inputs")
        if values.shape[1] != len(self.mean):
            raise DataError(f"inputs: expected values at {len(self.mean)} sensors, came {values.shape[1]}")
        # Older files know fewer differences.
        away = (self._log_energies(values, len(self.centre) - 2) - self.centre) / self.spread
        return np.asarray(np.sqrt(np.sum(away**2, axis=1)))

    def flags(self, inputs: Float[Array, "functions sensors"]) -> Bool[Array, " functions"]:
        """Which inputs score above the threshold."""
        return self.score(inputs) > self.threshold

    def _log_energies(self, values: Array, differences: int) -> Array:
        """[functions, 2 + differences]"""
        centred = values - self.mean
        coefficients = centred @ self.directions
        residual = centred - coefficients @ self.directions.T
        yardstick = np.sum(self.deviations**2) + self.residual_deviation**2
        energies = [
            np.mean((coefficients / self.deviations) ** 2, axis=1),
            np.sum(residual**2, axis=1) / self.residual_deviation**2,
        ]
        for order in range(1, differences + 1):
            rounding = math.comb(2 * order, order) * ROUNDING**2
            energies.append(np.sum(np.diff(centred, order, axis=1) ** 2, axis=1) / yardstick + rounding)
        # An input that is the mean itself has no energy: its logarithm shall be finite.
        return np.log(np.stack(energies, axis=1) + 1e-30)


def _conformal_quantile(values: Array, share: float) -> Array:
    """The k-th smallest along the first axis, k = ceil((n + 1) share): exceeded by a new value at most 1 - share."""
    return np.asarray(np.sort(values, axis=0)[_rank(len(values), share) - 1])


def _rank(count: int, share: float) -> int:
    rank = math.ceil((count + 1) * share - 1e-9)
    if rank > count:
        needed = math.ceil(share / (1 - share) - 1e-9)
        raise ForetrainError(
            f"a share of {share:g} needs at least {needed} functions to rank, came {count}; add functions or lower it"
        )
    return rank


def _single(values: Array) -> Array:
    """Rounded to single precision, as files keep it."""
    return np.asarray(values, np.float32).astype(np.float64)


def _table(values: Array, name: str) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"{name}: expected an array [functions, points], came shape {list(values.shape)}")
    if not np.all(np.isfinite(values)):
        raise DataError(f"{name}: expected finite numbers, came NaN or infinite ones; remove those functions")
    return values
