"""HDF5 files, read lazily: plain ones, MATLAB 7.3's, PDEBench's and The Well's."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, require_extra, write_atomically
from foretrain.data._dataset import OperatorDataset
from foretrain.data._stored import MOST_ENTRIES, Array, Contents, Part, StoredArray, reading

MATLAB_HEADER = b"MATLAB 7.3 MAT-file"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Contents]:
    """The arrays of an HDF5 file, none of them read yet.

    Nothing outside the file is ever opened: external links, external storage and virtual arrays over other files are
    listed with a refusal.
    """
    h5py = require_extra("h5py", "data")
    with path.open("rb") as file:
        is_matlab = file.read(len(MATLAB_HEADER)) == MATLAB_HEADER
    kind = "MATLAB 7.3 file" if is_matlab else "HDF5 file"
    with reading(path, kind):
        # A file that another program still writes to is read without waiting for its lock.
        opened = h5py.File(path, "r", locking=False)
    with opened:
        with reading(path, kind):
            arrays = _arrays(h5py, opened, path, is_matlab)
            label = opened.attrs.get("foretrain", "")
        yield Contents(path, kind, arrays, label if isinstance(label, str) else "")


def _arrays(h5py: Any, file: Any, path: Path, is_matlab: bool) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    visited: set[Any] = set()
    # The Well names the axes of its fields once, in another group.
    is_inside = isinstance(file.get("dimensions", getlink=True), h5py.HardLink)
    spatial = file["dimensions"].attrs.get("spatial_dims", ()) if is_inside else ()
    field_notes = {"spatial_dims": tuple(map(_text, np.atleast_1d(spatial)))}

    def visit(group: Any, prefix: str) -> None:
        for name in group:
            key = f"{prefix}{name}"
            if len(visited) > MOST_ENTRIES:
                raise DataError(f"{path}: expected at most {MOST_ENTRIES} arrays, came more; split the file")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                arrays[key] = _elsewhere(f"a link to another file ({link.filename})")
                continue
            if isinstance(link, h5py.SoftLink):
                # Where it leads is listed under its own name, unless it leads out of the file.
                continue
            item = group[name]
            if item.id in visited:
                continue
            visited.add(item.id)
            if isinstance(item, h5py.Group):
                visit(item, f"{key}/")
            elif isinstance(item, h5py.Dataset) and item.shape is not None:
                arrays[key] = _array(item, is_matlab, {**field_notes, **dict(item.attrs)} if "_fields/" in key else {})

    visit(file, "")
    return arrays


def _array(item: Any, is_matlab: bool, notes: dict[str, Any]) -> StoredArray:
    if item.external:
        return _elsewhere(f"external storage ({item.external[0][0]})")
    if item.is_virtual and any(source.file_name != "." for source in item.virtual_sources()):
        return _elsewhere("a view of other files")
    dtype = item.dtype
    # MATLAB numbers axes the other way round, and marks what it wrote.
    reverse = is_matlab or "MATLAB_class" in item.attrs

    def read(part: Part) -> Array:
        values = item[part[::-1] if reverse else part]
        return np.asarray(values).transpose() if reverse else np.asarray(values)

    shape, chunk = tuple(item.shape), item.chunks
    if reverse:
        shape, chunk = shape[::-1], chunk[::-1] if chunk else None
    return StoredArray(shape, dtype, read, chunk=chunk, attributes=notes)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _elsewhere(what: str) -> StoredArray:
    def read(part: Part) -> Array:
        raise DataError(f"expected numbers in the file, came {what}; copy them into one file")

    return StoredArray((), np.dtype(float), read, refusal=f"{what}, which is never followed; copy it into one file")


def save_hdf5(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes inputs, outputs and points as compressed arrays with checksums, the label as an attribute."""
    h5py = require_extra("h5py", "data")
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for key in ("inputs", "outputs", "sensor_points", "query_points"):
            values = getattr(data, key)
            file.create_dataset(key, data=values, compression="gzip", shuffle=True, fletcher32=True)
        file.attrs["foretrain"] = label
    return write_atomically(path, lambda target: target.write(memory.getbuffer()))
