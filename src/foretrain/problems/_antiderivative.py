"""The antiderivative operator: linear, exact, and small enough for tests and first steps."""

import numpy as np

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset


def antiderivative(
    samples: int = 200, resolution: int = 64, key: int = 0, *, modes: int = 8, decay: float = 1.5
) -> OperatorDataset:
    """A function to its antiderivative, s' = u, s(0) = 0 on [0, 1], computed exactly mode by mode.

        u(x) = sum_{k<=modes} c_k cos(pi k x),   s(x) = sum_k c_k sin(pi k x) / (pi k),   c_k ~ N(0, k^(-2 decay))

    Arguments:
        samples: how many pairs of functions.
        resolution: points of the grid, both ends included.
        key: seed.
        modes, decay: how rough the inputs are.

    Raises:
        ForetrainError: if a size is too small.
    """
    if samples < 2 or resolution < 2 or modes < 1:
        raise ForetrainError(
            f"antiderivative: expected samples >= 2, resolution >= 2, modes >= 1, came {samples}, {resolution}, {modes}"
        )
    grid = np.linspace(0.0, 1.0, resolution)
    frequencies = np.arange(1, modes + 1)
    coefficients = np.random.default_rng(key).standard_normal((samples, modes)) * frequencies ** -float(decay)
    inputs = coefficients @ np.cos(np.pi * np.outer(frequencies, grid))
    outputs = (coefficients / (np.pi * frequencies)) @ np.sin(np.pi * np.outer(frequencies, grid))
    return OperatorDataset(
        inputs,
        outputs,
        grid,
        grid,
        name="antiderivative",
        description={"equation": "s' = u, s(0) = 0 on [0, 1]", "problem": "antiderivative", "key": key},
    )
