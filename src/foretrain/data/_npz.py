"""Datasets as npz files, read without executing anything."""

import json
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, require_memory, write_atomically
from foretrain.data._dataset import OperatorDataset

POINT_KEYS = ("sensor_points", "query_points")
# NumPy, zipfile and zlib each have their own ways of meeting bytes that are not what they should be.
DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_npz(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes inputs, outputs, points and label to a compressed npz file."""
    arrays = {key: getattr(data, key) for key in ("inputs", "outputs", *POINT_KEYS)}
    return write_atomically(path, lambda file: np.savez_compressed(file, **arrays, label=np.array(label)))


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Raises:
        DataError: no such file, not a zip archive, damaged, or holding pickled objects (they could run code).
        MemoryBudgetError: if the arrays would not fit into memory.
    """
    path = Path(path)
    advice = "read fewer functions (functions=) or keep fewer points in the file"
    require_memory(2 * check_archive(path), f"reading {path}", advice)
    key = "the file"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for key in archive.files:
                arrays[key] = archive[key]
            return arrays
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise DataError(
                f"{path}: expected plain arrays, came pickled objects in {key}, which could run code and are never "
                "loaded; save numbers as float arrays"
            ) from error
        raise _damaged(path, error) from error
    except MemoryError as error:
        raise DataError(
            f"{path}: expected arrays that fit into memory, came a header of {key} that asks for more; write it again"
        ) from error
    except DAMAGE as error:
        raise _damaged(path, error) from error


def check_archive(path: Path) -> int:
    """Refuses what is no zip archive; else the bytes it unpacks to."""
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected a data file, came a folder; name the file in it")
        if not path.is_file():
            raise DataError(f"{path}: expected a data file, found nothing there; check the path")
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError(f"{path}: expected an npz file, came an empty file; write it again with numpy.savez")
            if not zipfile.is_zipfile(file):
                raise DataError(
                    f"{path}: expected an npz file (a zip archive), came something else; write it with numpy.savez"
                )
            with zipfile.ZipFile(file) as archive:
                return sum(member.file_size for member in archive.infolist())
    except OSError as error:
        raise DataError(
            f"{path}: expected a file that can be read, came one that cannot ({error.strerror}); "
            "check the path and its permissions"
        ) from error
    except (ValueError, *DAMAGE) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path}: expected a readable npz file, came a damaged one ({reason}); write it again")


def label_of(label: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Name and description out of a label that foretrain wrote; the file's name without one."""
    try:
        told = json.loads(label)
        return str(told["name"]), dict(told["description"])
    except (KeyError, ValueError, TypeError):
        return path.stem, {}


def join(train: OperatorDataset, test: OperatorDataset) -> OperatorDataset:
    """The functions of both, one after the other."""
    return OperatorDataset(
        np.concatenate([train.inputs, test.inputs]),
        np.concatenate([train.outputs, test.outputs]),
        train.sensor_points,
        train.query_points,
        train.name,
        train.description,
    )


def check_test_count(test: int | float | None, train: int, held_out: int, path: Path) -> None:
    """Refuses a number of test functions other than the file's own."""
    asked = test if test is None or isinstance(test, int) else round(test * (train + held_out))
    if asked not in (None, held_out):
        raise DataError(
            f"{path}: expected no number of test functions, for the file brings {held_out} of its own, came "
            f"{test}; leave it away, or store inputs and outputs undivided"
        )


def check_parts(path: Path, train: OperatorDataset, test: OperatorDataset) -> tuple[OperatorDataset, OperatorDataset]:
    """A file's own training and test functions, if they belong together and share no function."""
    for name in ("sensor_points", "query_points"):
        here, there = getattr(train, name), getattr(test, name)
        if not np.array_equal(here, there):
            raise DataError(
                f"{path}: expected the same {name} in both parts, came {len(here)} for training and {len(there)} for "
                "testing, or other places; measure all functions at the same points"
            )
    seen = {row.tobytes() for row in train.inputs}
    shared = [row for row, values in enumerate(test.inputs) if values.tobytes() in seen]
    if shared:
        raise DataError(
            f"{path}: expected test functions that are not learnt from, came {len(shared)} test_inputs that are also "
            f"train_inputs, the first in row {shared[0]}; keep each in one part"
        )
    return train, test


def dataset_of(arrays: dict[str, np.ndarray], path: Path, prefix: str) -> OperatorDataset:
    """The dataset whose keys begin with `prefix`."""
    for name in ("inputs", "outputs"):
        if prefix + name not in arrays:
            found = ", ".join(sorted(arrays)) or "none"
            raise DataError(
                f"{path}: expected the key {prefix + name!r}, came the keys {found}; "
                "rename them to inputs and outputs (optional: sensor_points, query_points), or name them: "
                "layout=FileLayout(inputs=..., outputs=...), on the command line --inputs KEY --outputs KEY"
            )
    name, description = label_of(str(arrays.get("label", "")), path)
    points: dict[str, Any] = {key: arrays.get(prefix + key, arrays.get(key)) for key in POINT_KEYS}
    try:
        return OperatorDataset(
            arrays[prefix + "inputs"], arrays[prefix + "outputs"], **points, name=name, description=description
        )
    except DataError as error:
        raise DataError(f"{path}: {prefix}{error}") from error
