"""Input functions without outputs, and points to answer at, from a user's npz file."""

from pathlib import Path

import numpy as np

from foretrain._foundation import DataError
from foretrain.data import read_npz


def functions_in(path: Path) -> np.ndarray:
    """[functions, sensors] under the key inputs, grids flattened as in training.

    Raises:
        DataError: no such file or key, or an array without one row for each function.
    """
    inputs = _array_in(path, "inputs")
    if len(inputs.shape) < 2 or len(inputs) == 0:
        raise DataError(
            f"{path}: expected one row for each function, [functions, sensors], came an array of shape {inputs.shape}"
        )
    return inputs.reshape(len(inputs), -1)


def points_in(path: Path) -> np.ndarray:
    """[points, dimension] under the key points; what they have to be, the model knows.

    Raises:
        DataError: no such file or key.
    """
    return _array_in(path, "points")


def _array_in(path: Path, key: str) -> np.ndarray:
    arrays = read_npz(path)
    if key not in arrays:
        raise DataError(f"{path}: expected the key {key!r}, came {', '.join(sorted(arrays)) or 'no keys'}")
    return np.asarray(arrays[key])
