"""NetCDF files by xarray: 4 (which is HDF5) and classic."""

import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, require_extra
from foretrain.data._dataset import OperatorDataset
from foretrain.data._hdf5 import open_hdf5
from foretrain.data._stored import Array, Contents, Part, StoredArray, reading
from foretrain.data._zarr import DIMENSIONS

KIND = "NetCDF file"


@contextmanager
def open_netcdf(path: Path) -> Iterator[Contents]:
    """The variables and coordinates of a NetCDF file, none of them read yet; times stay the numbers they are."""
    xarray = require_extra("xarray", "data")
    with path.open("rb") as file:
        is_classic = file.read(3) == b"CDF"
    if not is_classic:
        require_extra("h5netcdf", "data")
        _stay_inside(path)
    with reading(path, KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = "scipy" if is_classic else "h5netcdf"
        data = xarray.open_dataset(path, engine=engine, decode_times=False, cache=False)
    with data:
        with reading(path, KIND):
            arrays = {str(key): _array(variable) for key, variable in data.variables.items()}
        label = data.attrs.get("foretrain", "")
        yield Contents(path, KIND, arrays, label if isinstance(label, str) else "")


def _array(variable: Any) -> StoredArray:
    def read(part: Part) -> Array:
        return np.array(variable[part].values)

    dims = tuple(map(str, variable.dims))
    axes = () if any(name.startswith("phony_dim") for name in dims) else dims
    chunk = variable.encoding.get("chunksizes")
    chunk = tuple(chunk) if chunk and len(chunk) == len(dims) else None
    return StoredArray(tuple(variable.shape), np.dtype(variable.dtype), read, axes, chunk)


def _stay_inside(path: Path) -> None:
    with open_hdf5(path) as contents:
        for key, array in contents.arrays.items():
            if array.refusal:
                raise DataError(f"{path}: expected the numbers of {key!r} in the file, came {array.refusal}")


def save_netcdf(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes inputs, outputs and points as variables with named dimensions, the label as an attribute."""
    xarray = require_extra("xarray", "data")
    require_extra("h5netcdf", "data")
    variables = {key: (names, getattr(data, key)) for key, names in DIMENSIONS.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        packed = {key: {"zlib": True, "shuffle": True, "fletcher32": True} for key in variables}
        xarray.Dataset(variables, attrs={"foretrain": label}).to_netcdf(temporary, engine="h5netcdf", encoding=packed)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
