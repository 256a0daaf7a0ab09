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


def save_dataset(data: OperatorDataset, path: str | Path) -> Path:
    """Writes inputs, outputs, points, name and description to a compressed npz file."""
    label = np.array(json.dumps({"name": data.name, "description": dict(data.description)}, default=_plain))
    return write_atomically(
        path,
        lambda file: np.savez_compressed(
            file,
            inputs=data.inputs,
            outputs=data.outputs,
            sensor_points=data.sensor_points,
            query_points=data.query_points,
            label=label,
        ),
    )


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file.

    Raises:
        DataError: no such file, not a zip archive, damaged, or holding pickled objects (they could run code).
        MemoryBudgetError: if the arrays would not fit into memory.
    """
    path = Path(path)
    _check_archive(path)
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


def _check_archive(path: Path) -> None:
    """Refuses what is no zip archive, and one that would not fit into memory, before any of it is unpacked."""
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected an npz file, came a folder; name the file in it")
        if not path.is_file():
            raise DataError(f"{path}: expected an npz file, found nothing there; check the path")
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError(f"{path}: expected an npz file, came an empty file; write it again with numpy.savez")
            if not zipfile.is_zipfile(file):
                raise DataError(
                    f"{path}: expected an npz file (a zip archive), came something else; write it with numpy.savez"
                )
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
    except OSError as error:
        raise DataError(
            f"{path}: expected a file that can be read, came one that cannot ({error.strerror}); "
            "check the path and its permissions"
        ) from error
    except (ValueError, *DAMAGE) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, error) from error
    require_memory(2 * unpacked, f"reading {path}", "keep fewer functions or fewer points in the file")


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path}: expected a readable npz file, came a damaged one ({reason}); write it again")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _label(arrays: dict[str, np.ndarray], path: Path) -> tuple[str, dict[str, Any]]:
    try:
        label = json.loads(str(arrays["label"]))
        return str(label["name"]), dict(label["description"])
    except (KeyError, ValueError, TypeError):
        return path.stem, {}


def load(path: str | Path) -> OperatorDataset:
    """Reads a dataset: keys inputs [functions, sensors], outputs [functions, points], optional points.

    Files with train_inputs, train_outputs, test_inputs, test_outputs are read by `load_split`; here their two parts
    are joined.

    Raises:
        DataError: see `read_npz` and `OperatorDataset`.
    """
    arrays, path = read_npz(path), Path(path)
    if _is_divided(arrays):
        train, test = _parts(arrays, path)
        return OperatorDataset(
            np.concatenate([train.inputs, test.inputs]),
            np.concatenate([train.outputs, test.outputs]),
            train.sensor_points,
            train.query_points,
            train.name,
            train.description,
        )
    return _dataset(arrays, path, prefix="")


def load_split(
    path: str | Path, test: int | float | None = None, key: int = 0
) -> tuple[OperatorDataset, OperatorDataset]:
    """Reads a file as (train, test): as the file itself divides it, else by drawing `test` functions at random.

    Arguments:
        path: npz file with train_inputs, train_outputs, test_inputs, test_outputs, or with inputs and outputs.
        test: how many functions (or which fraction) to hold out; by default one in six. A file that divides itself is
            read as it does.
        key: seed of the draw.

    Raises:
        DataError: see `read_npz` and `OperatorDataset`; and if a file's own parts do not belong together, share
            functions, or are not of the size asked for.
    """
    arrays, path = read_npz(path), Path(path)
    if not _is_divided(arrays):
        data = _dataset(arrays, path, prefix="")
        return data.split(test if test is not None else max(2, len(data) // 6), key)
    train, held_out = _parts(arrays, path)
    asked = test if test is None or isinstance(test, int) else round(test * (len(train) + len(held_out)))
    if asked not in (None, len(held_out)):
        raise DataError(
            f"{path}: expected no number of test functions, for the file brings {len(held_out)} of its own, came "
            f"{test}; leave it away, or store inputs and outputs undivided"
        )
    return train, held_out


def _is_divided(arrays: dict[str, np.ndarray]) -> bool:
    return "inputs" not in arrays and "train_inputs" in arrays


def _parts(arrays: dict[str, np.ndarray], path: Path) -> tuple[OperatorDataset, OperatorDataset]:
    """A file's own training and test functions."""
    train, test = _dataset(arrays, path, prefix="train_"), _dataset(arrays, path, prefix="test_")
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


def _dataset(arrays: dict[str, np.ndarray], path: Path, prefix: str) -> OperatorDataset:
    for name in ("inputs", "outputs"):
        if prefix + name not in arrays:
            found = ", ".join(sorted(arrays)) or "none"
            raise DataError(
                f"{path}: expected the key {prefix + name!r}, came the keys {found}; "
                "rename them to inputs and outputs (optional: sensor_points, query_points)"
            )
    name, description = _label(arrays, path)
    points: dict[str, Any] = {key: arrays.get(prefix + key, arrays.get(key)) for key in POINT_KEYS}
    try:
        return OperatorDataset(
            arrays[prefix + "inputs"], arrays[prefix + "outputs"], **points, name=name, description=description
        )
    except DataError as error:
        raise DataError(f"{path}: {prefix}{error}") from error
