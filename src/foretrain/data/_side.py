"""The input or the output functions of an open file: which numbers they are, where they are measured, and the reading
of some of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from foretrain._foundation import DataError, Progress, ignore_progress, require_memory
from foretrain.data._file_points import coordinate, grid_points, scattered_points, with_times_and_channels
from foretrain.data._layout import FileLayout, Times, roles
from foretrain.data._stored import LONG_STEP, Array, Contents, StoredArray, reading, shape_text, stored, strided

BLOCK_BYTES = 2**26
"""Functions are read in blocks of about 64 MB, so that memory holds what is kept and one block."""
SPACE_NAMES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class Piece:
    """One array, its axes by name and by role, and which of its times are read."""

    key: str
    array: StoredArray
    axes: tuple[str, ...]
    roles: tuple[str, ...]
    times: tuple[int, ...]

    def sizes(self, role: str) -> tuple[int, ...]:
        """Sizes of the axes with that role."""
        return tuple(size for size, its in zip(self.array.shape, self.roles, strict=True) if its == role)

    @property
    def channels(self) -> int:
        """How many channels it holds: all its channel axes flattened."""
        return math.prod(self.sizes("channel"))

    def read(self, rows: slice, steps: tuple[int, ...]) -> Float[Array, "functions *space times channels"]:
        """Some of the functions, axes in the order functions are flattened in."""
        space, stride = iter(steps), math.gcd(*np.diff(self.times).tolist()) or 1
        part: list[slice] = []
        for role, size in zip(self.roles, self.array.shape, strict=True):
            if role == "sample":
                part.append(rows)
            elif role == "time":
                part.append(slice(self.times[0], self.times[-1] + 1, stride))
            else:
                part.append(slice(0, size, next(space) if role == "space" else 1))
        taken, kept = strided(tuple(part))
        values = np.asarray(self.array.read(taken))[kept]
        if values.dtype.kind not in "fiub":
            raise DataError(f"expected real numbers, came {self.key} of type {values.dtype}; convert them to floats")
        order = [axis for role in ("sample", "space", "time", "channel") for axis in self._places(role)]
        values = values.transpose(order)
        shape = values.shape[: 1 + len(steps)]
        values = values.reshape(*shape, -1, self.channels)
        if self._places("time"):
            values = values[..., (np.array(self.times) - self.times[0]) // stride, :]
        return values

    def bytes_of_one(self) -> int:
        """What one function takes as it is stored, with the times that are read."""
        stride = math.gcd(*np.diff(self.times).tolist()) or 1
        times = 1 + (self.times[-1] - self.times[0]) // (stride if stride > LONG_STEP else 1)
        return max(1, math.prod(self.sizes("space")) * self.channels * times * self.array.dtype.itemsize)

    def chunk_length(self) -> int:
        """How many functions are stored in one piece, which is read whole."""
        return self.array.chunk[self._places("sample")[0]] if self.array.chunk else 1

    def _places(self, role: str) -> list[int]:
        return [place for place, its in enumerate(self.roles) if its == role]


@dataclass(frozen=True, eq=False)
class Side:
    """The input functions, or the output functions."""

    name: str
    pieces: tuple[Piece, ...]
    steps: tuple[int, ...]
    channels: tuple[int, ...]
    points: Float[Array, "points dimension"]
    contents: Contents

    @property
    def functions(self) -> int:
        """How many functions the file holds."""
        return self.pieces[0].sizes("sample")[0]

    def read(
        self, rows: Int[Array, " functions"], progress: Progress = ignore_progress
    ) -> Float[Array, "functions points"]:
        """The functions with these row numbers, in this order."""
        values = np.empty((len(rows), len(self.points)))
        order = np.argsort(rows, kind="stable")
        for places, run in self._blocks(rows[order]):
            with reading(self.contents.path, self.contents.kind):
                read = [piece.read(run, self.steps) for piece in self.pieces]
                block = read[0] if len(read) == 1 else np.concatenate(read, axis=-1)
            values[order[places]] = block[..., list(self.channels)].reshape(len(block), -1)
            progress(f"reading {self.name}", places.stop, len(rows))
        return values

    def block_bytes(self) -> int:
        """What the reading of one block takes."""
        return sum(2 * self._block_length() * piece.bytes_of_one() for piece in self.pieces)

    def _block_length(self) -> int:
        """As many functions as a block holds, and whole chunks of the file."""
        length = max(1, BLOCK_BYTES // sum(piece.bytes_of_one() for piece in self.pieces))
        chunk = max(piece.chunk_length() for piece in self.pieces)
        return min(-(-length // chunk) * chunk, max(self.functions, 1))

    def _blocks(self, rows: Int[Array, " functions"]) -> Iterator[tuple[slice, slice]]:
        """(places in `rows`, slice of the file) for runs of equal steps, none longer than a block."""
        length, start = self._block_length(), 0
        while start < len(rows):
            step = int(rows[start + 1] - rows[start]) if start + 1 < len(rows) else 1
            end = start + 1
            while end < len(rows) and step > 0 and rows[end] - rows[end - 1] == step and end - start < length:
                end += 1
            yield slice(start, end), slice(int(rows[start]), int(rows[end - 1]) + 1, max(step, 1))
            start = end


def input_side(contents: Contents, layout: FileLayout, steps: int | tuple[int, ...]) -> Side:
    """The input functions as `layout` describes them, every `steps`-th point along each axis."""
    times = layout.input_times
    if times is None and layout.input_keys == layout.output_keys:
        times = 0
    pieces = _pieces(contents, layout.input_keys, layout.input_axes, times, "inputs")
    return _side(contents, layout, "inputs", pieces, steps, layout.input_channels, layout.sensor_points)


def output_side(contents: Contents, layout: FileLayout, steps: int | tuple[int, ...]) -> Side:
    """The output functions, likewise."""
    times = layout.output_times
    if times is None and layout.input_keys == layout.output_keys:
        times = -1
    pieces = _pieces(contents, layout.output_keys, layout.output_axes, times, "outputs")
    return _side(contents, layout, "outputs", pieces, steps, layout.output_channels, layout.query_points)


def _pieces(
    contents: Contents, keys: tuple[str, ...], axes: str | None, times: Times | None, name: str
) -> tuple[Piece, ...]:
    pieces = []
    for key in keys:
        array = stored(contents, key, name, f" (--{name} KEY)")
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name}: expected real numbers, came {key} of type {array.dtype}; convert them to floats")
        # A file may promise any shape; what its axes alone would take is asked for before they are listed.
        require_memory(64 * sum(array.shape), f"{contents.path}: the axes of {key}", "check its shape")
        names = _axes(array, key, axes, name)
        if 0 in array.shape[1:]:
            raise DataError(
                f"{name}: expected at least one number a function, came {key} {shape_text(array.shape)}; choose another"
            )
        its_roles = roles(names, f"axes of {key} (--{name.removesuffix('s')}-axes)")
        count = array.shape[its_roles.index("time")] if "time" in its_roles else 1
        chosen = _numbers(times if "time" in its_roles else None, count, f"times of {key}")
        pieces.append(Piece(key, array, names, its_roles, chosen))
    first = pieces[0]
    for piece in pieces[1:]:
        same = ("sample", "space")
        if any(piece.sizes(role) != first.sizes(role) for role in same) or len(piece.times) != len(first.times):
            raise DataError(
                f"{name}: expected channels on one grid, came {first.key} {shape_text(first.array.shape)} and "
                f"{piece.key} {shape_text(piece.array.shape)}; choose keys that belong together"
            )
    return tuple(pieces)


def _axes(array: StoredArray, key: str, asked: str | None, name: str) -> tuple[str, ...]:
    """Names of the axes: those asked for, else the file's, else the first for the functions and the others in space."""
    if asked is not None:
        names = tuple(asked.split())
        if len(names) != len(array.shape):
            raise DataError(
                f"{name}: expected {len(array.shape)} axes for {key} {shape_text(array.shape)}, came {asked!r}; "
                "name every axis, in the array's order"
            )
        return names
    if array.axes:
        return array.axes
    if len(array.shape) < 2:
        raise DataError(
            f"{name}: expected one row for each function, [functions, points], came {key} "
            f"{shape_text(array.shape)}; add the missing axis"
        )
    extra = len(array.shape) - 1 - len(SPACE_NAMES)
    return ("sample", *SPACE_NAMES[: len(array.shape) - 1], *(f"axis{4 + more}" for more in range(extra)))


def _numbers(chosen: Times | None, count: int, name: str) -> tuple[int, ...]:
    """Choice of times or channels as numbers from 0."""
    if chosen is None:
        return tuple(range(count))
    if isinstance(chosen, slice):
        numbers = tuple(range(count))[chosen]
    else:
        asked = (chosen,) if isinstance(chosen, int) else chosen
        if any(not -count <= number < count for number in asked):
            raise DataError(f"{name}: expected numbers between 0 and {count - 1}, came {chosen}; count from 0")
        numbers = tuple(number % count for number in asked)
    if not numbers:
        raise DataError(f"{name}: expected at least one of {count}, came none ({chosen}); widen the choice")
    return numbers


def _side(
    contents: Contents,
    layout: FileLayout,
    name: str,
    pieces: tuple[Piece, ...],
    steps: int | tuple[int, ...],
    channels: tuple[int, ...] | None,
    points: str | None,
) -> Side:
    first = pieces[0]
    space = first.sizes("space")
    strides = (steps,) * len(space) if isinstance(steps, int) else tuple(steps)
    if len(strides) != len(space) or any(stride < 1 for stride in strides):
        raise DataError(
            f"{name}: expected a step of at least 1 along each of {len(space)} axes, came {steps}; "
            "give one number for all axes or one for each"
        )
    held = sum(piece.channels for piece in pieces)
    count = math.prod(-(-size // step) for size, step in zip(space, strides, strict=True)) * held * len(first.times)
    advice = "read fewer points (points=) or fewer times"
    require_memory(24 * count * (len(space) + 2), f"{contents.path}: the points of the {name}", advice)
    chosen = _numbers(channels, held, f"channels of {name}")
    axes = [axis for axis, role in zip(first.axes, first.roles, strict=True) if role == "space"]
    used = layout.input_keys + layout.output_keys
    if points is None:
        places = grid_points(contents, axes, space, strides, used)
    else:
        places = scattered_points(contents, points, space, strides, name)
    axis = first.axes[first.roles.index("time")] if "time" in first.roles else "time"
    times = coordinate(contents, axis, max(first.sizes("time"), default=1), used)[list(first.times)]
    grid = with_times_and_channels(places, times, np.array(chosen) / held)
    return Side(name, pieces, strides, chosen, grid, contents)
