"""Input functions, output functions, and the points where both are known."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError

Array = np.ndarray
LEAST_SIZE, LARGEST_SIZE = 1e-30, 1e30
"""What single precision, in which networks compute, holds with room to spare."""
ROUNDING = 1e-12
"""Outputs that vary by less, relative to their size, are constant up to rounding."""


def _as_numbers(values: Any, name: str) -> Array:
    """Real numbers in double precision; always a copy, so that a dataset shares no memory with its maker."""
    if np.ma.is_masked(values):
        raise DataError(f"{name}: expected a value everywhere, came masked entries; remove or repair those functions")
    try:
        values = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name}: expected an array, came rows of different lengths; make them equally long") from error
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name}: expected real numbers, came values of type {values.dtype}; convert them to floats")
    return np.array(values, dtype=np.float64)


def _as_points(points: Any, shape: tuple[int, ...], name: str) -> Array:
    """Points as a [count, dimension] array; the regular grid of that shape on [0, 1)^d when none were given."""
    count = int(np.prod(shape))
    if points is None:
        sizes = [size for size in shape if size > 1] or [1]  # an axis of one channel is no coordinate
        axes = np.meshgrid(*[np.arange(size) / size for size in sizes], indexing="ij")
        return np.stack(axes, axis=-1).reshape(count, len(sizes))
    points = _as_numbers(points, name)
    if points.ndim == 1:
        points = points[:, None]
    if points.ndim != 2 or points.shape[0] != count or points.shape[1] == 0:
        raise DataError(
            f"{name}: expected {count} points, one for each column, came an array of shape {points.shape}; "
            f"give an array of shape [{count}, dimension]"
        )
    return points


def _as_functions(values: Any, name: str) -> Array:
    values = _as_numbers(values, name)
    if values.ndim < 2:
        raise DataError(
            f"{name}: expected one row for each function, [functions, points], came an array of shape {values.shape}; "
            "add the missing axis"
        )
    return values


def _check_finite(values: Array, name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{name}: expected finite numbers, came {len(bad)} that are NaN or infinite, the first in row {bad[0][0]}, "
            f"column {bad[0][1]}; remove or repair those functions"
        )


def _check_distinct(inputs: Array) -> None:
    """Equal input functions make the tangent kernel singular, so they are refused with the pair named."""
    first: dict[bytes, int] = {}
    # Digests, for sorting rows of many thousand sensors takes minutes. Adding zero makes -0 and 0 the same bytes.
    digests = (hashlib.blake2b((values + 0.0).tobytes(), digest_size=16).digest() for values in inputs)
    pairs = [(first[digest], row) for row, digest in enumerate(digests) if first.setdefault(digest, row) != row]
    if pairs:
        raise DataError(
            f"inputs: expected distinct functions, came {len(pairs)} repeated, the first pair in rows "
            f"{pairs[0][0]} and {pairs[0][1]}; keep one of each"
        )


def _check_size(values: Array, name: str) -> None:
    largest = float(np.abs(values).max())
    if largest != 0 and not LEAST_SIZE <= largest <= LARGEST_SIZE:
        raise DataError(
            f"{name}: expected values of a size between {LEAST_SIZE:g} and {LARGEST_SIZE:g}, came up to {largest:.3g}; "
            "choose other units"
        )


def _check_distinct_points(points: Array, name: str) -> None:
    _, first = np.unique(points, axis=0, return_index=True)
    if len(first) < len(points):
        row = int(np.setdiff1d(np.arange(len(points)), first)[0])
        raise DataError(
            f"{name}: expected distinct points, came {len(points) - len(first)} repeated, the first in row {row}; "
            "keep one of each"
        )


@dataclass(frozen=True, eq=False)
class OperatorDataset:
    """Pairs of functions (u_i, s_i = G(u_i)) measured at fixed points.

    **Assumption:** aligned data, every function is measured at the same points.

    Arguments:
        inputs: values of the input functions at the sensor points, [functions, sensors]; further axes (a grid in two
            dimensions) are flattened row by row.
        outputs: values of the output functions at the query points, [functions, query points].
        sensor_points: coordinates of the sensors, [sensors, dimension]; by default the regular grid on [0, 1)^d that
            the further axes of the inputs suggest.
        query_points: coordinates of the query points, [query points, dimension]; by default likewise.
        name, description: for tables and reports.

    Raises:
        DataError: shapes that do not belong together, values that are not real or not finite or too large or small
            for single precision, fewer than two functions, repeated input functions or query points, or outputs that
            are all equal.
    """

    inputs: Float[Array, "functions sensors"]
    outputs: Float[Array, "functions queries"]
    sensor_points: Float[Array, "sensors input_dimension"] = None  # type: ignore[assignment]
    query_points: Float[Array, "queries output_dimension"] = None  # type: ignore[assignment]
    name: str = "data"
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inputs, outputs = _as_functions(self.inputs, "inputs"), _as_functions(self.outputs, "outputs")
        input_shape, output_shape = inputs.shape[1:], outputs.shape[1:]
        inputs = inputs.reshape(len(inputs), int(np.prod(input_shape)))
        outputs = outputs.reshape(len(outputs), int(np.prod(output_shape)))
        if len(inputs) != len(outputs):
            raise DataError(
                f"expected as many output functions as input functions, came {len(inputs)} inputs and "
                f"{len(outputs)} outputs; the first axis of both must number the functions"
            )
        if len(inputs) < 2:
            raise DataError(f"expected at least 2 functions to learn from, came {len(inputs)}; add samples")
        if inputs.shape[1] == 0 or outputs.shape[1] == 0:
            raise DataError("expected at least one sensor and one query point, came none; check the arrays' last axis")
        _check_finite(inputs, "inputs")
        _check_finite(outputs, "outputs")
        _check_size(inputs, "inputs")
        _check_size(outputs, "outputs")
        _check_distinct(inputs)
        if np.ptp(outputs) <= ROUNDING * np.abs(outputs).max():
            raise DataError(
                f"outputs: expected functions that differ, came the constant {outputs.flat[0]:g} everywhere; "
                "there is nothing to learn"
            )
        sensor_points = _as_points(self.sensor_points, input_shape, "sensor_points")
        query_points = _as_points(self.query_points, output_shape, "query_points")
        _check_finite(sensor_points, "sensor_points")
        _check_finite(query_points, "query_points")
        _check_distinct_points(query_points, "query_points")
        for attribute, value in (
            ("inputs", inputs),
            ("outputs", outputs),
            ("sensor_points", sensor_points),
            ("query_points", query_points),
        ):
            value = np.ascontiguousarray(value)
            value.setflags(write=False)
            object.__setattr__(self, attribute, value)
        object.__setattr__(self, "description", MappingProxyType(dict(self.description)))

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        return (
            f"OperatorDataset({self.name!r}: {len(self)} functions, {self.inputs.shape[1]} sensors, "
            f"{self.outputs.shape[1]} query points)"
        )

    def take(self, rows: Any) -> "OperatorDataset":
        """The functions with the given row numbers, in that order."""
        return OperatorDataset(
            self.inputs[rows],
            self.outputs[rows],
            self.sensor_points,
            self.query_points,
            self.name,
            self.description,
        )

    def split(self, test: int | float, key: int = 0) -> tuple["OperatorDataset", "OperatorDataset"]:
        """Two disjoint datasets: (the rest, `test` functions drawn at random).

        Arguments:
            test: how many functions to hold out, or the fraction of them.
            key: seed of the draw; the same key gives the same split.

        Raises:
            DataError: if fewer than two functions would be left on either side.
        """
        if len(self) < 4:
            raise DataError(f"expected at least 4 functions to divide into two parts, came {len(self)}; add samples")
        count = round(test * len(self)) if isinstance(test, float) else int(test)
        if not 2 <= count <= len(self) - 2:
            raise DataError(
                f"expected to hold out between 2 and {len(self) - 2} of {len(self)} functions, came {test}; "
                "leave at least two on either side"
            )
        order = np.random.default_rng(key).permutation(len(self))
        return self.take(np.sort(order[:-count])), self.take(np.sort(order[-count:]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the values and the points: two datasets with the same fingerprint are the same data."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.outputs, self.sensor_points, self.query_points):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        return f"sha256:{digest.hexdigest()}"

    def save(self, path: Any) -> None:
        """Writes the dataset in the format of the path's suffix, as a file that `foretrain.load` reads back."""
        from foretrain.data._save import save_dataset

        save_dataset(self, path)


def mean_relative_error(prediction: Float[Array, "functions points"], truth: Float[Array, "functions points"]) -> float:
    """Mean over functions of the relative L2 error, |prediction_i - truth_i| / |truth_i|.

    Functions that vanish identically are measured against the root mean square of all of them.
    """
    return float(np.mean(relative_errors(prediction, truth)))


def relative_errors(
    prediction: Float[Array, "functions points"], truth: Float[Array, "functions points"]
) -> Float[Array, " functions"]:
    """The relative L2 error of each function, |prediction_i - truth_i| / |truth_i|."""
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    size = np.linalg.norm(truth, axis=1)
    size = np.where(size > 0, size, np.sqrt(np.mean(size**2)))
    return np.linalg.norm(prediction - truth, axis=1) / size
