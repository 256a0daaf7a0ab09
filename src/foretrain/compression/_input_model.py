"""A Gaussian model of the training inputs, to draw fresh ones for the teacher to label."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SPREAD = 1.5
"""Largest over least value of positive inputs, from which on their logarithm differs enough to matter."""


@dataclass(frozen=True)
class GaussianInputs:
    """u ~ N(mean, directions diag(deviations^2) directions^T), or log u, fitted to the training inputs.

    Positive inputs, such as a conductivity, are modelled by their logarithm, so that fresh ones are positive as well.

    **Assumption:** the inputs the model will meet look like the training inputs up to second moments.

    Attributes:
        mean: [sensors]; directions: orthonormal, [sensors, components]; deviations: [components].
        logarithm: whether the model is of log u.
    """

    mean: Float[np.ndarray, " sensors"]
    directions: Float[np.ndarray, "sensors components"]
    deviations: Float[np.ndarray, " components"]
    logarithm: bool = False

    @classmethod
    def fit(cls, inputs: Float[np.ndarray, "functions sensors"]) -> "GaussianInputs":
        """Principal components of the inputs, all that are not rounding."""
        logarithm = bool(0 < np.min(inputs) < np.max(inputs) / SPREAD)
        inputs = np.log(inputs) if logarithm else inputs
        mean = inputs.mean(axis=0)
        _, singular, directions = np.linalg.svd(inputs - mean, full_matrices=False)
        kept = singular > 1e-10 * singular[0]
        return cls(mean, directions[kept].T, singular[kept] / np.sqrt(max(1, len(inputs) - 1)), logarithm)

    def draw(self, count: int, key: int) -> Float[np.ndarray, "functions sensors"]:
        """Fresh input functions; the same key gives the same ones."""
        coefficients = np.random.default_rng(key).standard_normal((count, len(self.deviations)))
        drawn = self.mean + (coefficients * self.deviations) @ self.directions.T
        return np.exp(drawn) if self.logarithm else drawn
