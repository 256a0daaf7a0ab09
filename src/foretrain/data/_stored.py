"""What a file holds, before any of it is read: arrays with names, shapes and a way to read parts of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, ForetrainError

Array = np.ndarray
Part = tuple[slice, ...]
"""One slice, with a positive step, for each axis."""
LONG_STEP = 8
"""Longer steps than this are taken in the file, shorter ones in memory."""
MOST_ENTRIES = 200_000
"""Files list at most so many arrays: more is a damaged or hostile file, not a data set."""


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array in a file.

    Arguments:
        shape, dtype: as stored.
        read: reads a part, given one slice for each axis.
        axes: names of the axes where the file or its layout tells them, else empty.
        chunk: sizes of the pieces the array is stored in, where it is; a piece is read whole.
        attributes: what the file says about the array.
        refusal: why the array is never read (it lies in another file), else empty.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Part], Array]
    axes: tuple[str, ...] = ()
    chunk: tuple[int, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""

    @property
    def is_numeric(self) -> bool:
        """Whether the values are real numbers."""
        return self.dtype.kind in "fiub"

    def whole(self) -> Array:
        """All of it."""
        return self.read(tuple(slice(0, size, 1) for size in self.shape))


def in_memory(values: Array) -> StoredArray:
    """An array that has been read."""

    def read(part: Part) -> Array:
        return values[part]

    return StoredArray(values.shape, values.dtype, read)


@dataclass(frozen=True, eq=False)
class Contents:
    """An open file: its kind in words, its arrays by key, and the label of a dataset that foretrain wrote."""

    path: Path
    kind: str
    arrays: Mapping[str, StoredArray]
    label: str = ""


def shape_text(shape: tuple[int, ...]) -> str:
    """(3, 4) -> [3, 4]."""
    return f"[{', '.join(map(str, shape))}]"


def keys_text(arrays: Mapping[str, StoredArray], most: int = 12) -> str:
    """The keys of a file with shapes and types, in one line."""
    told = [f"{key} {shape_text(array.shape)} {array.dtype}" for key, array in arrays.items()]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return (", ".join(told[:most]) + more) or "none"


def stored(contents: Contents, key: str, name: str, flag: str) -> StoredArray:
    """The array of that key, or the refusal that tells which there are."""
    array = contents.arrays.get(key)
    if array is None:
        raise DataError(
            f"{name}: expected the key {key!r}, came the keys {keys_text(contents.arrays)}; choose one of them{flag}"
        )
    if array.refusal:
        raise DataError(f"{name}: expected the numbers of {key!r} in the file, came {array.refusal}")
    return array


def damaged(path: Path, kind: str, error: BaseException) -> DataError:
    """The refusal of a file that its own library cannot read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: expected a readable {kind}, came a damaged one ({reason}); write it again")


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a format's library raises on bad bytes into one `DataError`.

    Libraries raise their own and each other's errors, and more of them with every version: all are caught here, where
    nothing but their reading happens.
    """
    try:
        yield
    except ForetrainError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{path}: expected a {kind} that fits into memory, came one that asks for more; read fewer functions"
        ) from error
    except Exception as error:
        raise damaged(path, kind, error) from error


def strided(part: Part) -> tuple[Part, Part]:
    """A part as what is read from a file and what is then kept of it in memory.

    Libraries pick single numbers out of a file far more slowly than they read runs, so short steps wait.
    """
    short = [1 < cut.step <= LONG_STEP for cut in part]
    taken = tuple(slice(cut.start, cut.stop, 1) if is_short else cut for cut, is_short in zip(part, short, strict=True))
    kept = tuple(slice(None, None, cut.step if is_short else 1) for cut, is_short in zip(part, short, strict=True))
    return taken, kept
