"""Which format a file is in, told by its first bytes, and how it is opened."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from foretrain._foundation import DataError
from foretrain.data._csv import open_csv
from foretrain.data._hdf5 import MATLAB_HEADER, open_hdf5
from foretrain.data._known_layouts import annotated
from foretrain.data._mat import open_mat
from foretrain.data._netcdf import open_netcdf
from foretrain.data._npz_parts import open_npz
from foretrain.data._stored import Contents
from foretrain.data._torch_file import open_torch
from foretrain.data._zarr import is_zarr, open_zarr

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
OPENERS: dict[str, Callable[[Path], AbstractContextManager[Contents]]] = {
    "npz": open_npz,
    "hdf5": open_hdf5,
    "mat": open_mat,
    "netcdf": open_netcdf,
    "zarr": open_zarr,
    "torch": open_torch,
    "csv": open_csv,
}
SUFFIXES = {
    ".h5": ("hdf5", "an HDF5 file"),
    ".hdf5": ("hdf5", "an HDF5 file"),
    ".hdf": ("hdf5", "an HDF5 file"),
    ".mat": ("mat", "a MATLAB file"),
    ".nc": ("netcdf", "a NetCDF file"),
    ".nc4": ("netcdf", "a NetCDF file"),
    ".cdf": ("netcdf", "a NetCDF file"),
    ".pt": ("torch", "a torch file"),
    ".pth": ("torch", "a torch file"),
    ".csv": ("csv", "a CSV file"),
    ".zarr": ("zarr", "a Zarr store"),
}


def format_of(path: Path) -> str:
    """The format of a file: one of the keys of `OPENERS`; npz where nothing speaks for another.

    Raises:
        DataError: no such file, or bytes that are not of the format its name promises.
    """
    try:
        if path.is_dir():
            if is_zarr(path):
                return "zarr"
            if path.suffix.lower() == ".zarr":
                raise DataError(f"{path}: expected a Zarr store, came a folder without zarr.json; write it again")
            return "npz"
        if not path.is_file():
            return "npz"
        with path.open("rb") as file:
            start = file.read(512)
            is_hdf5 = any(_at(file, place) == HDF5_MAGIC for place in (0, 512, 1024, 2048))
    except OSError as error:
        raise DataError(
            f"{path}: expected a file that can be read, came one that cannot ({error.strerror}); "
            "check the path and its permissions"
        ) from error
    known, words = SUFFIXES.get(path.suffix.lower(), ("", ""))
    if is_hdf5:
        return "netcdf" if known == "netcdf" and not start.startswith(MATLAB_HEADER) else "hdf5"
    if start.startswith(b"CDF"):
        return "netcdf"
    if start.startswith(b"MATLAB 5.0 MAT-file"):
        return "mat"
    if start.startswith(b"PK"):
        return _kind_of_archive(path, known)
    if known and not start:
        raise DataError(f"{path}: expected {words}, came an empty file; write it again")
    # MATLAB 4 has no header: its first four bytes are a small number in either order of bytes.
    is_old = known == "mat" and min(int.from_bytes(start[:4], order) for order in ("little", "big")) < 5000
    if known in ("csv", "torch") or is_old:
        return known
    if known:
        raise DataError(f"{path}: expected {words}, came something else; write it again or give it the right suffix")
    return "npz"


def _at(file: object, place: int) -> bytes:
    file.seek(place)  # type: ignore[attr-defined]
    return bytes(file.read(len(HDF5_MAGIC)))  # type: ignore[attr-defined]


def _kind_of_archive(path: Path, known: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:
        # What is damaged is refused, with its reason, by the format that its name promises.
        return known if known in ("torch", "zarr") else "npz"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    return "zarr" if {"zarr.json", ".zgroup"} & set(names) else "npz"


@contextmanager
def open_file(path: Path) -> Iterator[Contents]:
    """A file of any format, its arrays listed and none of them read, its axes named where its layout implies them."""
    with OPENERS[format_of(path)](path) as contents:
        yield annotated(contents)
