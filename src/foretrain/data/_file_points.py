"""Where the functions of a file are measured: coordinates along its axes, scattered points, times and channels."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError
from foretrain.data._layout import TIME_NAMES
from foretrain.data._stored import Array, Contents, Part, reading, shape_text, stored


def coordinate(contents: Contents, axis: str, size: int, used: Sequence[str]) -> Float[Array, " size"]:
    """Coordinates along an axis from the array of its name, else k / size; arrays of functions are not considered."""
    is_time = axis.lower() in TIME_NAMES
    names = dict.fromkeys((axis, "time", "t") if is_time else (axis,))
    forms = ("{}", "{}-coordinate", "{}_coordinate", "dimensions/{}", "grid/{}")
    for key in (form.format(name) for name in names for form in forms):
        array = contents.arrays.get(key)
        if array is None or key in used or not array.is_numeric or array.refusal:
            continue
        # MATLAB has no vectors, only rows and columns; PDEBench lists the end of the last time step too.
        length = max(array.shape, default=1)
        if math.prod(array.shape) == length and (length == size or (is_time and length == size + 1)):
            with reading(contents.path, contents.kind):
                return np.asarray(array.whole(), np.float64).reshape(-1)[:size]
    return np.arange(size) / size


def grid_points(
    contents: Contents, axes: Sequence[str], shape: tuple[int, ...], steps: tuple[int, ...], used: Sequence[str]
) -> Float[Array, "points dimension"]:
    """The points of a grid, last axis fastest; an axis of one point is no coordinate."""
    values = [
        coordinate(contents, axis, size, used)[::step] for axis, size, step in zip(axes, shape, steps, strict=True)
    ]
    values = [along for along in values if len(along) > 1]
    if not values:
        return np.zeros((1, 0))
    return np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(values))


def scattered_points(
    contents: Contents, key: str, shape: tuple[int, ...], steps: tuple[int, ...], name: str
) -> Float[Array, "points dimension"]:
    """The points that an array of coordinates lists, [points, dimension]."""
    array = stored(contents, key, f"points of the {name}", "")
    count = math.prod(shape)
    if not array.is_numeric or count not in (math.prod(array.shape[:-1]), math.prod(array.shape)):
        raise DataError(
            f"points of the {name}: expected coordinates of {count} points, came {key} {shape_text(array.shape)} "
            f"{array.dtype}; give an array [{count}, dimension]"
        )
    with reading(contents.path, contents.kind):
        values = np.asarray(array.whole(), np.float64).reshape(*shape, -1)
    cuts: Part = tuple(slice(None, None, step) for step in steps)
    return values[cuts].reshape(-1, values.shape[-1])


def with_times_and_channels(places: Array, times: Array, channels: Array) -> Float[Array, "points dimension"]:
    """Points in space x times x channels, the last fastest; what has one value is no coordinate."""
    grid = places
    for values in (times, channels):
        if len(values) > 1:
            repeated = np.repeat(grid, len(values), axis=0)
            grid = np.concatenate([repeated, np.tile(values, len(grid))[:, None]], axis=1)
    return grid if grid.shape[1] else np.zeros((len(grid), 1))
