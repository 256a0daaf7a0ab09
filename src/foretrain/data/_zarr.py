"""Zarr stores, versions 2 and 3: a folder, or one in a zip file."""

import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import DataError, require_extra
from foretrain.data._dataset import OperatorDataset
from foretrain.data._stored import MOST_ENTRIES, Array, Contents, Part, StoredArray, reading

KIND = "Zarr store"
CODECS = frozenset(
    (
        *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3", "bytes", "endian", "transpose"),
        *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "pcodec", "zfpy", "sharding_indexed"),
        *("astype", "base64", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    )
)
"""Codecs that only turn bytes into numbers. Zarr 2 also knows pickle, which could run code."""


@contextmanager
def open_zarr(path: Path) -> Iterator[Contents]:
    """The arrays of a Zarr store, none of them read yet."""
    zarr = require_extra("zarr", "data")
    with reading(path, KIND), warnings.catch_warnings():
        # What Zarr thinks of a store's version or of files beside it is not the reader's concern.
        warnings.simplefilter("ignore")
        store: Any = str(path) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
        group = zarr.open_group(store, mode="r", use_consolidated=False)
        arrays: dict[str, StoredArray] = {}
        for key, item in group.members(max_depth=None):
            if isinstance(item, zarr.Array):
                arrays[key] = _array(item)
            if len(arrays) > MOST_ENTRIES:
                raise DataError(f"{path}: expected at most {MOST_ENTRIES} arrays, came more; split the store")
        label = group.attrs.get("foretrain", "")
    try:
        yield Contents(path, KIND, arrays, label if isinstance(label, str) else "")
    finally:
        if not isinstance(store, str):
            store.close()


def _array(item: Any) -> StoredArray:
    described = item.metadata.to_dict()
    used = {_codec_name(codec) for codec in _codecs(described)}
    foreign = sorted(used - CODECS)
    refusal = (
        f"numbers packed with {', '.join(foreign)}, which may do more than hold numbers; write them with another codec"
        if foreign
        else ""
    )

    def read(part: Part) -> Array:
        return np.asarray(item[part])

    names = described.get("dimension_names") or item.attrs.get("_ARRAY_DIMENSIONS") or ()
    axes = tuple(map(str, names)) if len(names) == item.ndim and None not in names else ()
    dtype = np.dtype(item.dtype) if not foreign else np.dtype(float)
    chunk = getattr(item, "shards", None) or item.chunks
    return StoredArray(tuple(item.shape), dtype, read, axes, tuple(chunk), refusal=refusal)


def _codecs(described: Mapping[str, Any]) -> list[Any]:
    """Every codec of an array, those inside shards included."""
    found, waiting = [], [described.get(key) for key in ("codecs", "filters", "compressor")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple):
            waiting += item
        elif item is not None:
            found.append(item)
            settings = item.get("configuration") if isinstance(item, Mapping) else None
            if isinstance(settings, Mapping):
                waiting += [settings.get("codecs"), settings.get("index_codecs")]
    return found


def _codec_name(codec: Any) -> str:
    """Zarr 3 describes codecs by name, Zarr 2 by id, as tables or as objects."""
    if isinstance(codec, Mapping):
        name = codec.get("name", codec.get("id", ""))
    else:
        name = getattr(codec, "codec_id", type(codec).__name__)
    return str(name).removeprefix("numcodecs.")


def save_zarr(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes inputs, outputs and points with named dimensions, the label as an attribute."""
    zarr = require_extra("zarr", "data")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not is_zarr(path):
        raise DataError(f"{path}: expected a place for a Zarr store, came something else there; choose another name")
    mark = secrets.token_hex(4)
    fresh, old = path.with_name(f".{path.name}.{mark}.partial"), path.with_name(f".{path.name}.{mark}.old")
    try:
        group = zarr.open_group(str(fresh), mode="w")
        for key, names in DIMENSIONS.items():
            values = getattr(data, key)
            rows = max(1, min(len(values), 2**20 // values[0].nbytes))
            array = group.create_array(
                key, shape=values.shape, chunks=(rows, values.shape[1]), dtype=values.dtype, dimension_names=names
            )
            array[:] = values
        group.attrs["foretrain"] = label
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)
    return path


DIMENSIONS = {
    "inputs": ("sample", "sensor"),
    "outputs": ("sample", "point"),
    "sensor_points": ("sensor", "input_dimension"),
    "query_points": ("point", "output_dimension"),
}
"""Names of the axes of a dataset, in the formats that name them."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))
