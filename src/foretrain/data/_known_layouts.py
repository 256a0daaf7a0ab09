"""Layouts that say by themselves what is input and what is output: foretrain's own, FNO's, PDEBench's, The Well's."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from foretrain.data._layout import FileLayout
from foretrain.data._stored import Array, Contents, Part, StoredArray

PDEBENCH_FIELDS = ("density", "pressure", "Vx", "Vy", "Vz")
PAIRS = (("a", "u"), ("coeff", "sol"))
"""Keys of the FNO files: Burgers and Navier-Stokes, Darcy."""
WELL_GROUPS = ("t0_fields", "t1_fields", "t2_fields")


def annotated(contents: Contents) -> Contents:
    """The same file with the names of axes that its layout implies, and numbered groups joined to one array."""
    arrays = _joined(contents.arrays)
    spatial = _pdebench_space(arrays)
    if spatial and "tensor" in arrays:
        arrays["tensor"] = _named(arrays["tensor"], _tensor_axes(arrays, spatial))
        if "nu" in arrays:
            arrays["nu"] = _named(arrays["nu"], ("sample", *spatial))
    elif spatial:
        for key in PDEBENCH_FIELDS:
            if key in arrays:
                arrays[key] = _named(arrays[key], ("sample", "time", *spatial))
    for key, array in arrays.items():
        if _is_field(key):
            arrays[key] = _named(array, _well_axes(array))
    return dataclasses.replace(contents, arrays=arrays)


def recognised(contents: Contents) -> FileLayout | None:
    """The layout of a file whose keys leave no doubt, else None."""
    arrays = contents.arrays
    if {"inputs", "outputs"} <= arrays.keys():
        return own_layout(contents, "")
    fields = tuple(key for key in PDEBENCH_FIELDS if key in arrays)
    if {"nu", "tensor"} <= arrays.keys() and _pdebench_space(arrays):
        return FileLayout("nu", "tensor", output_channels=(0,) if "channel" in arrays["tensor"].axes else None)
    if "tensor" in arrays and _pdebench_space(arrays):
        return FileLayout("tensor", "tensor", input_times=0, output_times=-1)
    if fields and _pdebench_space(arrays):
        return FileLayout(fields, fields, input_times=0, output_times=-1)
    if "data" in arrays and arrays["data"].axes[:2] == ("sample", "time"):
        return FileLayout("data", "data", input_times=0, output_times=-1)
    if any(map(_is_field, arrays)):
        return _well_layout(arrays)
    pairs = [pair for pair in PAIRS if set(pair) <= arrays.keys()]
    if contents.kind == "torch file" and {"x", "y"} <= arrays.keys():
        pairs.append(("x", "y"))
    return _pair_layout(arrays, *pairs[0]) if len(pairs) == 1 else None


def is_divided(contents: Contents) -> bool:
    """Whether the file brings training and test functions of its own."""
    return "inputs" not in contents.arrays and "train_inputs" in contents.arrays


def own_layout(contents: Contents, prefix: str) -> FileLayout:
    """The layout foretrain writes, its keys behind `prefix`."""
    points = [
        next((key for key in (prefix + name, name) if key in contents.arrays), None)
        for name in ("sensor_points", "query_points")
    ]
    return FileLayout(f"{prefix}inputs", f"{prefix}outputs", sensor_points=points[0], query_points=points[1])


def _pair_layout(arrays: Mapping[str, StoredArray], inputs: str, outputs: str) -> FileLayout:
    """Outputs with one axis more than inputs on the same grid, the last, have it for time, as FNO's Navier-Stokes."""
    grid, extended = arrays[inputs].shape, arrays[outputs].shape
    if len(grid) in (3, 4) and extended[:-1] == grid and not arrays[outputs].axes:
        return FileLayout(inputs, outputs, output_axes=" ".join(("sample", *"xyz"[: len(grid) - 1], "time")))
    points = [name if name in arrays else None for name in ("sensor_points", "query_points")]
    return FileLayout(inputs, outputs, sensor_points=points[0], query_points=points[1])


def _pdebench_space(arrays: Mapping[str, StoredArray]) -> tuple[str, ...]:
    return tuple(axis for axis in "xyz" if f"{axis}-coordinate" in arrays)


def _tensor_axes(arrays: Mapping[str, StoredArray], spatial: tuple[str, ...]) -> tuple[str, ...]:
    second = "time" if "t-coordinate" in arrays and "nu" not in arrays else "channel"
    axes = ("sample", second, *spatial)
    extra = len(arrays["tensor"].shape) - len(axes)
    return axes if extra == 0 else (*axes, "channel") if extra == 1 and second == "time" else ()


def _named(array: StoredArray, axes: tuple[str, ...]) -> StoredArray:
    return dataclasses.replace(array, axes=axes) if len(axes) == len(array.shape) else array


def _well_axes(array: StoredArray) -> tuple[str, ...]:
    """Axes of The Well's fields: its attributes say over which of them a field varies; the others are left out."""
    told = array.attributes
    spatial = told.get("spatial_dims", ())
    varying = told.get("dim_varying", (True,) * len(spatial))
    axes = ["sample"] * bool(told.get("sample_varying", True)) + ["time"] * bool(told.get("time_varying", True))
    axes += [str(name) for name, varies in zip(spatial, varying, strict=False) if varies]
    return (*axes, *("channel",) * (len(array.shape) - len(axes)))


def _well_layout(arrays: Mapping[str, StoredArray]) -> FileLayout | None:
    """First to last time of all fields that vary between trajectories; what does not vary in time is input only."""
    spatial = next((array.attributes.get("spatial_dims", ()) for key, array in arrays.items() if _is_field(key)), ())
    whole = {
        key: array
        for key, array in arrays.items()
        if _is_field(key) and {"sample", *map(str, spatial)} <= set(array.axes)
    }
    moving = tuple(key for key, array in whole.items() if "time" in array.axes)
    return FileLayout(tuple(whole), moving, input_times=0, output_times=-1) if moving else None


def _is_field(key: str) -> bool:
    return key.startswith(WELL_GROUPS)


def _joined(arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """PDEBench's numbered groups (0000/data, 0001/data, ...) as one array `data`, [sample, time, space, channel]."""
    numbered = sorted(key for key in arrays if re.fullmatch(r"\d+/data", key))
    first = arrays[numbered[0]] if len(numbered) > 1 else None
    if first is None or any(arrays[key].shape != first.shape or arrays[key].refusal for key in numbered):
        return dict(arrays)
    rest = {key: array for key, array in arrays.items() if not re.match(r"\d+/", key)}
    group = numbered[0].split("/")[0]
    spatial = [axis for axis in "xyz" if f"{group}/grid/{axis}" in arrays]
    for axis in (*spatial, "t"):
        if f"{group}/grid/{axis}" in arrays:
            rest[f"grid/{axis}"] = arrays[f"{group}/grid/{axis}"]

    def read(part: Part) -> Array:
        return np.stack([arrays[key].read(part[1:]) for key in numbered[part[0]]])

    axes = ("sample", "time", *spatial, "channel")
    joined = StoredArray((len(numbered), *first.shape), first.dtype, read)
    return {"data": _named(joined, axes), **rest}
