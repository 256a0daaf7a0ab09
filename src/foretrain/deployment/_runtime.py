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
        if len(shapes) != 2 or any(len(shape) != 2 or not isinstance(shape[1], int) for shape in shapes):
            raise ForetrainError(
                f"{source}: expected one input [batch, sensors] and one output [batch, points], came {shapes}; "
                "give a file that foretrain exported"
            )
        self._input = inputs[0].name
        self.sensors: int = shapes[0][1]
        self.points: int = shapes[1][1]

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

    def predict(self, inputs: Float[np.ndarray, "functions sensors"]) -> Float[np.ndarray, "functions points"]:
        """The model's answers, raw physical units in and out.

        Raises:
            DataError: another number of sensors, or values that are not finite in single precision.
        """
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
        return self._run(values).astype(np.float64)

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
            self._run(values)
        seconds = np.empty(repeats)
        for repeat in range(repeats):
            start = time.perf_counter()
            self._run(values)
            seconds[repeat] = time.perf_counter() - start
        tenth, median, ninetieth, last = (float(value) for value in np.quantile(seconds, [0.1, 0.5, 0.9, 0.99]))
        return Latency(median, tenth, ninetieth, last, batch / median)

    def _run(self, values: np.ndarray) -> np.ndarray:
        """In batches whose intermediate values stay in the processor's cache."""
        if len(values) <= FUNCTIONS_AT_ONCE:
            return np.asarray(self._session.run(None, {self._input: values})[0])
        starts = range(0, len(values), FUNCTIONS_AT_ONCE)
        return np.concatenate([self._run(values[start : start + FUNCTIONS_AT_ONCE]) for start in starts])


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
