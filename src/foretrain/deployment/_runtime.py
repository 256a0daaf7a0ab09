"""Running an exported model with ONNX Runtime."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError, require_extra
from foretrain.deployment._card import decoded_card
from foretrain.deployment._fingerprint import require_untouched
from foretrain.deployment._query_points import QUERY_GRID, QueryGrid
from foretrain.deployment._trust import ConformalBand, OutOfRange
from foretrain.deployment._trust_record import TRUST_KEYS, band_in, out_of_range_in, trust_summary

FUNCTIONS_AT_ONCE = 32
ONLY_FATAL = 4


@dataclass(frozen=True)
class Latency:
    """How long one call takes, in seconds, over many repeats.

    Attributes:
        median, tenth, ninetieth, ninety_ninth: percentiles of the time of one call.
        throughput: functions for each second, at the median.
    """

    median: float
    tenth: float
    ninetieth: float
    ninety_ninth: float
    throughput: float


class Runtime:
    """An exported model, ready to answer.

    Attributes:
        sensors: of an input function.
        points: at which it answers unless it is asked for others.
        query_grid: those points, in a file with query points as an input; None in one whose points are fixed.

    Arguments:
        model: the file's path, or its bytes.
        threads: processor cores one call may use.

    Raises:
        ForetrainError: no such file, not an ONNX file, one cut short or changed since it was exported, a file of
            another exporter's shape, or less than one thread.
        MissingExtraError: without onnxruntime.
    """

    def __init__(self, model: bytes | str | Path, threads: int = 1) -> None:
        if threads < 1:
            raise ForetrainError(f"expected at least 1 thread, came {threads}")
        source = "these bytes" if isinstance(model, bytes) else str(model)
        content = _read(model)
        require_untouched(content, source)
        self._session = _session(content, threads, source)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [value.shape for value in (*inputs, *outputs)]
        card = decoded_card({key: value for key, value in self._entries.items() if key == QUERY_GRID})
        self.query_grid = QueryGrid.from_card(card.get(QUERY_GRID))
        # Sizes that must be known: sensors and query points, or sensors and the dimension of query points.
        known = [shape[1:] for shape in (shapes if self.query_grid is None else shapes[:2])]
        expected = 2 if self.query_grid is None else 3
        if len(shapes) != expected or not all(len(size) == 1 and isinstance(size[0], int) for size in known):
            raise ForetrainError(
                f"{source}: expected one input [batch, sensors] and one output [batch, points], came {shapes}; "
                "give a file that foretrain exported"
            )
        self._input = inputs[0].name
        self.sensors: int = shapes[0][1]
        self._points = None if self.query_grid is None else self.query_grid.points()
        self.points: int = shapes[1][1] if self._points is None else len(self._points)

    @property
    def metadata(self) -> dict[str, Any]:
        """The model card kept in the file; of the trust beside it, a line each."""
        card = decoded_card({key: value for key, value in self._entries.items() if key not in TRUST_KEYS})
        return {**card, **trust_summary(self._entries)}

    @cached_property
    def band(self) -> ConformalBand | None:
        """The band around the answers that was exported with the model; None for a file without.

        Raises:
            ForetrainError: an entry that is no band.
        """
        return band_in(self._entries)

    @cached_property
    def out_of_range(self) -> OutOfRange | None:
        """The score of how unlike the training inputs an input is; None for a file without.

        Raises:
            ForetrainError: an entry that is no score.
        """
        return out_of_range_in(self._entries)

    @cached_property
    def _entries(self) -> dict[str, str]:
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def predict(
        self,
        inputs: Float[np.ndarray, "functions sensors"],
        points: Float[np.ndarray, "points dimension"] | None = None,
    ) -> Float[np.ndarray, "functions points"]:
        """The model's answers, raw physical units in and out.

        Arguments:
            inputs: the functions' values at the sensors.
            points: where to answer, of a file with query points as an input; by default the training query points.

        Raises:
            DataError: another number of sensors, values that are not finite in single precision, or points outside.
            ForetrainError: points for a file whose query points are fixed.
        """
        where = self._points if points is None else self._asked(points)
        values = np.asarray(inputs)
        if values.ndim != 2 or values.shape[1] != self.sensors:
            raise DataError(
                f"inputs: expected values at {self.sensors} sensors, [functions, {self.sensors}], came an array of "
                f"shape {list(values.shape)}; sample the functions where the model was trained"
            )
        if values.dtype.kind not in "fiub":
            raise DataError(
                f"inputs: expected real numbers, came values of type {values.dtype}; convert them to floats"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
        if not np.all(np.isfinite(values)):
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DataError(
                f"inputs: expected finite numbers, came NaN, infinite or too large ones, the first in row {row}; "
                "remove or repair those functions"
            )
        return self._run(values, where).astype(np.float64)

    def _asked(self, points: Float[np.ndarray, "points dimension"]) -> np.ndarray:
        if self.query_grid is None:
            raise ForetrainError(
                f"points: expected none, for this file's {self.points} query points are fixed; export it again with "
                "query points as an input"
            )
        return self.query_grid.checked(points)

    def latency(self, batch: int = 1, repeats: int = 200) -> Latency:
        """Times calls on `batch` functions, after a warm-up; checks and conversions of `predict` not included.

        Raises:
            ForetrainError: sizes below one.
        """
        if batch < 1 or repeats < 1:
            raise ForetrainError(f"expected at least 1 function and 1 repeat, came {batch} and {repeats}")
        low, high = self.metadata.get("input_range", [-1.0, 1.0])
        values = np.random.default_rng(0).uniform(low, high, (batch, self.sensors)).astype(np.float32)
        for _ in range(3 + repeats // 10):
            self._run(values, self._points)
        seconds = np.empty(repeats)
        for repeat in range(repeats):
            start = time.perf_counter()
            self._run(values, self._points)
            seconds[repeat] = time.perf_counter() - start
        tenth, median, ninetieth, last = (float(value) for value in np.quantile(seconds, [0.1, 0.5, 0.9, 0.99]))
        return Latency(median, tenth, ninetieth, last, batch / median)

    def _run(self, values: np.ndarray, points: np.ndarray | None) -> np.ndarray:
        """In batches whose intermediate values stay in the processor's cache."""
        where = {} if points is None else {"points": np.asarray(points, np.float32)}
        if len(values) <= FUNCTIONS_AT_ONCE:
            return np.asarray(self._session.run(None, {self._input: values, **where})[0])
        starts = range(0, len(values), FUNCTIONS_AT_ONCE)
        return np.concatenate([self._run(values[start : start + FUNCTIONS_AT_ONCE], points) for start in starts])


def _read(model: bytes | str | Path) -> bytes:
    if isinstance(model, bytes):
        return model
    try:
        return Path(model).read_bytes()
    except OSError as error:
        raise ForetrainError(
            f"{model}: expected a model file, came none that can be read ({error.strerror})"
        ) from error


def _session(content: bytes, threads: int, source: str) -> Any:
    onnxruntime = require_extra("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = ONLY_FATAL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's failures have no common class
        raise ForetrainError(
            f"{source}: expected an ONNX model, came something ONNX Runtime cannot load; export the model again"
        ) from error
