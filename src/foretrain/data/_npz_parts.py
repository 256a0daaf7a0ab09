"""Parts of an npz file: the functions asked for are picked out while the array streams by."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from foretrain._foundation import DataError
from foretrain.data._npz import check_archive
from foretrain.data._stored import Array, Contents, Part, StoredArray, in_memory, reading, shape_text

KIND = "npz file"


@contextmanager
def open_npz(path: Path) -> Iterator[Contents]:
    """The arrays of an npz file, none of them read yet.

    An archive has no parts: rows before the last one asked for are unpacked and let go, never held together.
    """
    check_archive(path)
    with reading(path, KIND), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        arrays = {name.removesuffix(".npy"): _array(path, archive, name) for name in names}
        label = ""
        if "label" in arrays and arrays["label"].dtype.kind == "U" and arrays["label"].shape == ():
            label = str(np.load(path, allow_pickle=False)["label"])
    yield Contents(path, KIND, arrays, label)


def held(path: Path, arrays: dict[str, Array]) -> Contents:
    """Arrays that are in memory already."""
    return Contents(
        path, KIND, {key: in_memory(np.asarray(values)) for key, values in arrays.items()}, str(arrays.get("label", ""))
    )


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> StoredArray:
    with archive.open(name) as file:
        shape, by_columns, dtype = _header(file)
    if dtype.hasobject:
        return StoredArray(shape, dtype, lambda part: np.empty(0), refusal="pickled objects, which could run code")
    if math.prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
        raise DataError(f"{path}: expected all of {name} {shape_text(shape)}, came less; write the file again")

    def read(part: Part) -> Array:
        with zipfile.ZipFile(path) as opened, opened.open(name) as file:
            _header(file)
            if by_columns or not shape:
                values = np.frombuffer(_exactly(file, math.prod(shape) * dtype.itemsize), dtype)
                return values.reshape(shape, order="F" if by_columns else "C")[part]
            return _rows(file, shape, dtype, part)

    return StoredArray(shape, dtype, read, chunk=shape if by_columns else None)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _rows(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, part: Part) -> Array:
    row_shape, cut = shape[1:], part[0]
    row_bytes = math.prod(row_shape) * dtype.itemsize
    numbers = range(shape[0])[cut]
    kept = np.empty((len(numbers), *(len(range(n)[s]) for n, s in zip(row_shape, part[1:], strict=True))), dtype)
    position = 0
    for place, number in enumerate(numbers):
        _skip(file, (number - position) * row_bytes)
        kept[place] = np.frombuffer(_exactly(file, row_bytes), dtype).reshape(row_shape)[part[1:]]
        position = number + 1
    return kept


def _skip(file: IO[bytes], count: int) -> None:
    while count > 0:
        passed = len(file.read(min(count, 2**20)))
        if not passed:
            raise EOFError("the array ends early")
        count -= passed


def _exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise EOFError("the array ends early")
    return content
