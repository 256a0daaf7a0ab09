"""MATLAB files up to version 7 (5 inside), by SciPy. Those of version 7.3 are HDF5."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy

from foretrain._foundation import require_memory, write_atomically
from foretrain.data._dataset import OperatorDataset
from foretrain.data._stored import Array, Contents, Part, StoredArray, reading

KIND = "MATLAB file"
TYPES = {"double": "float64", "single": "float32", "logical": "bool"}
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@contextmanager
def open_mat(path: Path) -> Iterator[Contents]:
    """The arrays of a MATLAB file. The format has no parts: an array is read whole when some of it is."""
    with reading(path, KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listed = scipy.io.whosmat(path)
    last: dict[str, Array] = {}

    def array(key: str, shape: tuple[int, ...], name: str) -> StoredArray:
        dtype = np.dtype(TYPES.get(name, name if name in NUMBERS else object))

        def read(part: Part) -> Array:
            if key not in last:
                last.clear()
                needed = 2 * dtype.itemsize * int(np.prod(shape, dtype=object))
                require_memory(needed, f"reading {key} of {path}", "save the file with -v7.3, which is read in parts")
                # A file's strings and structures are never looked at: only this array is decoded.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    last[key] = np.asarray(scipy.io.loadmat(path, variable_names=[key])[key])
            return last[key][part]

        return StoredArray(tuple(shape), dtype, read, chunk=tuple(shape))

    arrays = {key: array(key, shape, name) for key, shape, name in listed}
    label = ""
    if "foretrain" in arrays:
        with reading(path, KIND):
            label = str(scipy.io.loadmat(path, variable_names=["foretrain"], chars_as_strings=True)["foretrain"][0])
    yield Contents(path, KIND, {key: item for key, item in arrays.items() if key != "foretrain"}, label)


def save_mat(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes inputs, outputs, points and the label as a compressed MATLAB file of version 7."""
    keys = ("inputs", "outputs", "sensor_points", "query_points")
    arrays = {**{key: getattr(data, key) for key in keys}, "foretrain": label}
    return write_atomically(path, lambda file: scipy.io.savemat(file, arrays, do_compression=True))
