"""Pruning neurons: the few whose features span those of all."""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int


def select_neurons(features: Float[np.ndarray, "rows neurons"], keep: int) -> Int[np.ndarray, " keep"]:
    """The neurons picked by column-pivoted QR of the feature matrix (an interpolative decomposition).

    Each pick is the neuron whose features lie farthest from the span of those picked before, so what is left out is
    nearly a linear combination of what is kept, and refitting the outer layer makes up for it.

    Source: Cheng, Gimbutas, Martinsson, Rokhlin (2005).
    """
    if keep >= features.shape[1]:
        return np.arange(features.shape[1])
    _, order = scipy.linalg.qr(features, mode="r", pivoting=True)
    return np.sort(order[:keep])
