"""Datasets as npz files, read without executing anything."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, write_atomically
from foretrain.data._dataset import OperatorDataset

POINT_KEYS = ("sensor_points", "query_points")


def save_dataset(data: OperatorDataset, path: str | Path) -> Path:
    """Writes inputs, outputs, points, name and description to a compressed npz file."""
    label = np.array(json.dumps({"name": data.name, "description": dict(data.description)}))
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
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an npz file, found nothing there; check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected an npz file, came an empty file; write it again with numpy.savez")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected an npz file (a zip archive), came something else; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise DataError(
                f"{path}: expected plain arrays, came pickled objects, which could run code and are never loaded; "
                "save numbers as float arrays"
            ) from error
        raise DataError(
            f"{path}: expected a readable npz file, came a damaged one ({error}); write it again"
        ) from error
    except (OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DataError(
            f"{path}: expected a readable npz file, came a damaged one ({error}); write it again"
        ) from error


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
    if "inputs" not in arrays and "train_inputs" in arrays:
        train, test = load_split(path, test=None)
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
        test: how many functions (or which fraction) to hold out; by default the file's own division, else one in six.
        key: seed of the draw.

    Raises:
        DataError: see `read_npz` and `OperatorDataset`.
    """
    arrays, path = read_npz(path), Path(path)
    if "inputs" in arrays or "train_inputs" not in arrays:
        data = _dataset(arrays, path, prefix="")
        return data.split(test if test is not None else max(2, len(data) // 6), key)
    return _dataset(arrays, path, prefix="train_"), _dataset(arrays, path, prefix="test_")


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
