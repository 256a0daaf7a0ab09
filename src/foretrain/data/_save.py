"""Datasets into files, in the format that the file's name ends with."""

import json
from pathlib import Path
from typing import Any

from foretrain._foundation import DataError
from foretrain.data._csv import save_csv
from foretrain.data._dataset import OperatorDataset
from foretrain.data._hdf5 import save_hdf5
from foretrain.data._mat import save_mat
from foretrain.data._netcdf import save_netcdf
from foretrain.data._npz import save_npz
from foretrain.data._torch_file import save_torch
from foretrain.data._zarr import save_zarr

WRITERS = {
    ".npz": save_npz,
    ".h5": save_hdf5,
    ".hdf5": save_hdf5,
    ".mat": save_mat,
    ".nc": save_netcdf,
    ".zarr": save_zarr,
    ".pt": save_torch,
    ".pth": save_torch,
    ".csv": save_csv,
}


def save_dataset(data: OperatorDataset, path: str | Path) -> Path:
    """Writes inputs, outputs, points, name and description to a file that `load` reads back exactly.

    The suffix says the format: npz, h5, mat, nc, zarr, pt or csv (without name and description); npz where there is
    none. Files appear whole or not at all.

    Raises:
        DataError: another suffix, or a dataset too large for CSV.
        MissingExtraError: if the format's library is not installed.
    """
    path = Path(path)
    check_suffix(path)
    write = WRITERS[path.suffix.lower() or ".npz"]
    label = json.dumps({"name": data.name, "description": dict(data.description)}, default=_plain)
    return write(data, path, label)


def check_suffix(path: Path) -> None:
    """Refuses a file name whose ending is of no format that is written.

    Raises:
        DataError: naming those that are.
    """
    if (path.suffix.lower() or ".npz") not in WRITERS:
        raise DataError(
            f"{path}: expected one of the suffixes {', '.join(WRITERS)}, came {path.suffix!r}; rename the file"
        )


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
