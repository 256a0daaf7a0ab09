"""The band and the out-of-range score as two entries of a model file's metadata, small and read without onnx."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from foretrain._foundation import ForetrainError
from foretrain.deployment._trust import ConformalBand, OutOfRange

Array = np.ndarray
T = TypeVar("T")

BAND, RANGE = "conformal_band", "out_of_range"
TRUST_KEYS = (BAND, RANGE)
# What may need the range or the digits is kept in single precision; widths and directions in half.
_HALF, _SINGLE = "<f2", "<f4"


def trust_record(band: ConformalBand | None, out_of_range: OutOfRange | None) -> dict[str, str]:
    """Metadata entries from which `band_in` and `out_of_range_in` restore both; what is None gets no entry."""
    record: dict[str, dict[str, Any]] = {}
    if band is not None:
        record[BAND] = {
            "coverage": band.coverage,
            "functions": band.functions,
            "half_width": _rounded_up(band.half_width),
            "simultaneous_half_width": _rounded_up(band.simultaneous_half_width),
        }
    if out_of_range is not None:
        record[RANGE] = {
            "mean": _packed(out_of_range.mean, _SINGLE),
            "directions": _packed(out_of_range.directions, _HALF),
            "deviations": _packed(out_of_range.deviations, _SINGLE),
            "residual_deviation": out_of_range.residual_deviation,
            "centre": _packed(out_of_range.centre, _SINGLE),
            "spread": _packed(out_of_range.spread, _SINGLE),
            "threshold": out_of_range.threshold,
            "quantile": out_of_range.quantile,
        }
    return {key: json.dumps(value, separators=(",", ":")) for key, value in record.items()}


def band_in(metadata: Mapping[str, str]) -> ConformalBand | None:
    """The conformal band of that metadata, or None.

    Raises:
        ForetrainError: an entry that is not one of `trust_record`.
    """
    return _restored(metadata, BAND, ConformalBand)


def out_of_range_in(metadata: Mapping[str, str]) -> OutOfRange | None:
    """The out-of-range score of that metadata, or None.

    Raises:
        ForetrainError: an entry that is not one of `trust_record`.
    """
    score = _restored(metadata, RANGE, OutOfRange)
    if score is None:
        return None
    # Two energies, and of differences as many as the file's version knew.
    energies, sensors = np.size(score.centre), np.size(score.mean)
    if not 2 <= energies <= sensors + 1 or np.size(score.spread) != energies:
        raise _damage(RANGE)
    return score


def trust_numbers(metadata: Mapping[str, str]) -> int:
    """How many numbers those entries hold, widths, directions and scalars alike."""
    entries = [_entry(metadata, key) for key in TRUST_KEYS]
    return sum(int(np.size(value)) for entry in entries if entry is not None for value in entry.values())


def trust_summary(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Lines for the model card's page."""
    record = {key: str(value) for key, value in metadata.items() if key in TRUST_KEYS}
    band, score = band_in(record), out_of_range_in(record)
    lines = {}
    if band is not None:
        lines["band"] = f"covers {100 * band.coverage:g} % of new functions, from {band.functions} calibrating ones"
    if score is not None:
        lines["flags"] = f"beyond the {100 * score.quantile:.3g} % of training inputs nearest their centre"
    return lines


def _restored(metadata: Mapping[str, str], key: str, kind: Callable[..., T]) -> T | None:
    entry = _entry(metadata, key)
    try:
        return None if entry is None else kind(**entry)
    except TypeError as error:
        raise _damage(key) from error


def _entry(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    if key not in metadata:
        return None
    try:
        entry = json.loads(metadata[key])
        return {name: _unpacked(value) if isinstance(value, dict) else value for name, value in entry.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damage(key) from error


def _damage(key: str) -> ForetrainError:
    return ForetrainError(
        f"metadata: expected a record of trust under {key!r}, came something else; export the model again"
    )


def _packed(values: Array, dtype: str, factor: float = 1.0) -> dict[str, Any]:
    content = base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()
    return {"type": dtype, "shape": list(np.shape(values)), "factor": factor, "values": content}


def _rounded_up(widths: Array) -> dict[str, Any]:
    """Half precision, never below what came: a band that loses width loses coverage."""
    widths = np.asarray(widths, np.float64)
    largest = float(widths.max())
    factor = 2.0 ** (np.ceil(np.log2(largest)) - 14) if largest > 0 else 1.0
    halves = (widths / factor).astype(np.float16)
    halves = np.where(halves.astype(np.float64) * factor < widths, np.nextafter(halves, np.float16(np.inf)), halves)
    return _packed(halves, _HALF, float(factor))


def _unpacked(value: Mapping[str, Any]) -> Array:
    content = np.frombuffer(base64.b64decode(value["values"], validate=True), value["type"])
    return content.reshape(value["shape"]).astype(np.float64) * value["factor"]
