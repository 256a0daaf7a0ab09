"""Functions drawn with characters, for terminals."""

from collections.abc import Sequence

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"


def bars(values: Sequence[float], width: int = 48) -> str:
    """A row of bars from the least to the greatest value."""
    places = np.unique(np.linspace(0, len(values) - 1, min(width, len(values))).astype(int))
    return "".join(BARS[level] for level in _levels(np.asarray(values, float)[places], len(BARS)))


def shades(values: np.ndarray, height: int = 8, width: int = 24) -> str:
    """A map in lines of shaded characters; the first axis runs down."""
    rows, columns = (
        np.unique(np.linspace(0, size - 1, min(most, size)).astype(int))
        for size, most in zip(values.shape, (height, width), strict=True)
    )
    levels = _levels(values[np.ix_(rows, columns)], len(SHADES))
    return "\n".join("".join(SHADES[level] for level in row) for row in levels)


def sketch(values: np.ndarray, shape: tuple[int, ...] | None) -> str:
    """One function: bars along one axis, shades over two, of more the first two; empty where there is no grid."""
    if shape is None or len(values) < 2:
        return ""
    grid = values.reshape(shape)
    while grid.ndim > 2:
        grid = grid[..., -1]
    return bars(grid.tolist()) if grid.ndim == 1 else shades(grid)


def _levels(values: np.ndarray, count: int) -> np.ndarray:
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.minimum((share * count).astype(int), count - 1)
