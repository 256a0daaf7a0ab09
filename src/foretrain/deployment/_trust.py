"""Trust at run time: a band around the answer, and a score of how unlike the training inputs an input is."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from foretrain._foundation import DataError, ForetrainError

Array = np.ndarray


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
    """Scores how far an input is from the training inputs, and flags those beyond a stated quantile.

        score(u)^2 = sum_k (c_k / deviation_k)^2 + |u - mean - sum_k c_k direction_k|^2 / residual_deviation^2

    with c_k the principal-component coefficients of u - mean: Mahalanobis distance within the components, energy of
    what they do not explain.

    **Assumption:** the flag's rate of false alarms, at most 1 - quantile, holds for inputs exchangeable with those of
    `fit`. A low score is no proof of a good answer: inputs smoother than the training inputs score low too.

    Attributes:
        mean: [sensors]; directions: [sensors, components]; deviations: [components].
        residual_deviation: root mean square of what the components leave of a training input.
        threshold: the score at the quantile of held-out training inputs.
        quantile: the share of inputs like the training inputs that stay below the threshold.
    """

    mean: Float[Array, " sensors"]
    directions: Float[Array, "sensors components"]
    deviations: Float[Array, " components"]
    residual_deviation: float
    threshold: float
    quantile: float

    @classmethod
    def fit(
        cls, inputs: Float[Array, "functions sensors"], quantile: float = 0.99, explained: float = 0.999
    ) -> "OutOfRange":
        """Components from every second training input, the threshold from the others.

        Arguments:
            inputs: training inputs.
            quantile: share of such inputs that must not be flagged, between 0 and 1.
            explained: share of the variance that the components kept explain.

        Raises:
            ForetrainError: shares outside (0, 1), or a quantile that needs more functions.
            DataError: inputs that are not a finite table, or all equal.
        """
        if not (0 < quantile < 1 and 0 < explained < 1):
            raise ForetrainError(
                f"expected a quantile and an explained share between 0 and 1, came {quantile:g}, {explained:g}"
            )
        values = _table(inputs, "inputs")
        fitted, held_out = values[1::2], values[::2]
        mean = fitted.mean(axis=0) if len(fitted) else values[0]
        _, singular, directions = np.linalg.svd(fitted - mean, full_matrices=False)
        energy = singular**2 / max(1, len(fitted) - 1)
        if energy.sum() == 0:
            raise DataError("inputs: expected functions that differ, came equal ones; there is no spread to measure")
        kept = int(np.searchsorted(np.cumsum(energy) / energy.sum(), explained)) + 1
        # Inputs that the components explain to the last digit leave only rounding, which is no yardstick.
        residual = math.sqrt(max(float(energy[kept:].sum()), 1e-12 * float(energy.sum())))
        scored = cls(mean, directions[:kept].T, np.sqrt(energy[:kept]), residual, math.inf, quantile)
        threshold = float(_conformal_quantile(scored.score(held_out), quantile))
        return cls(mean, scored.directions, scored.deviations, residual, threshold, quantile)

    def score(self, inputs: Float[Array, "functions sensors"]) -> Float[Array, " functions"]:
        """How unlike the training inputs each input is; about sqrt(components) for one like them.

        Raises:
            DataError: inputs that are not a finite table of the training inputs' width.
        """
        values = _table(inputs, "inputs")
        if values.shape[1] != len(self.mean):
            raise DataError(f"inputs: expected values at {len(self.mean)} sensors, came {values.shape[1]}")
        centred = values - self.mean
        coefficients = centred @ self.directions
        residual = centred - coefficients @ self.directions.T
        inside = np.sum((coefficients / self.deviations) ** 2, axis=1)
        return np.sqrt(inside + np.sum(residual**2, axis=1) / self.residual_deviation**2)

    def flags(self, inputs: Float[Array, "functions sensors"]) -> Bool[Array, " functions"]:
        """Which inputs score above the threshold."""
        return self.score(inputs) > self.threshold


def _conformal_quantile(values: Array, share: float) -> Array:
    """The k-th smallest along the first axis, k = ceil((n + 1) share): exceeded by a new value at most 1 - share."""
    count = len(values)
    rank = math.ceil((count + 1) * share - 1e-9)
    if rank > count:
        needed = math.ceil(share / (1 - share) - 1e-9)
        raise ForetrainError(
            f"a share of {share:g} needs at least {needed} functions to rank, came {count}; add functions or lower it"
        )
    return np.asarray(np.sort(values, axis=0)[rank - 1])


def _table(values: Array, name: str) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"{name}: expected an array [functions, points], came shape {list(values.shape)}")
    if not np.all(np.isfinite(values)):
        raise DataError(f"{name}: expected finite numbers, came NaN or infinite ones; remove those functions")
    return values
