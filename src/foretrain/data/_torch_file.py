"""Tensors in torch files, as neuraloperator ships its data: a dict with x and y. Only tensors are ever read."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, require_extra, write_atomically
from foretrain.data._dataset import OperatorDataset
from foretrain.data._stored import Array, Contents, Part, StoredArray, reading

KIND = "torch file"


@contextmanager
def open_torch(path: Path) -> Iterator[Contents]:
    """The tensors of a torch file. Files in torch's zip format are mapped into memory and read in parts.

    torch's restricted unpickler reads the file: it builds tensors and plain containers and refuses everything else.
    """
    torch = require_extra("torch", "torch")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise DataError(
            f"{path}: expected torch 2.6 or later, which reads tensors without running code, came {torch.__version__}; "
            "pip install 'foretrain[torch]'"
        )
    with reading(path, KIND):
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_archive(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:
            if "weights_only" in str(error) or "Weights only" in str(error):
                raise DataError(
                    f"{path}: expected tensors only, came other objects or damaged bytes, which could run code and are "
                    "never loaded; save a dict of tensors: torch.save({'x': x, 'y': y}, path)"
                ) from error
            raise
    tensors = dict(_tensors(torch, content, ""))
    if not tensors:
        raise DataError(
            f"{path}: expected a dict of tensors, came {type(content).__name__}; save one: "
            "torch.save({'x': x, 'y': y}, path)"
        )
    label = content.get("foretrain", "")
    arrays = {key: _array(torch, tensor) for key, tensor in tensors.items()}
    yield Contents(path, KIND, arrays, label if isinstance(label, str) else "")


def _check_archive(path: Path) -> None:
    """torch never compresses: an archive that unpacks to more than its size would be a trap."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    if packed or unpacked > path.stat().st_size:
        raise DataError(f"{path}: expected a torch file, came an archive that torch did not write; write it again")


def _tensors(torch: Any, content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized:
            yield f"{prefix}{key}", value.detach()
        elif isinstance(value, dict) and prefix.count("/") < 8:
            yield from _tensors(torch, value, f"{prefix}{key}/")


def _array(torch: Any, tensor: Any) -> StoredArray:
    # NumPy has no bfloat16 and its like.
    wide = torch.float32 if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4 else tensor.dtype

    def read(part: Part) -> Array:
        return np.array(tensor[part].to(wide).numpy())

    dtype = torch.zeros(0, dtype=wide).numpy().dtype
    return StoredArray(tuple(tensor.shape), dtype, read)


def save_torch(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes a dict of tensors with neuraloperator's keys x and y, the points, and the label."""
    torch = require_extra("torch", "torch")
    keys = {"x": "inputs", "y": "outputs", "sensor_points": "sensor_points", "query_points": "query_points"}
    content = {key: torch.from_numpy(getattr(data, name).copy()) for key, name in keys.items()}
    return write_atomically(path, lambda file: torch.save({**content, "foretrain": label}, file))
