"""The model card: what the file is, what it was made from, where it may be used; kept inside the file."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError
from foretrain.deployment._trust_record import TRUST_KEYS, trust_summary

_LABELS = {
    "name": "Model",
    "created_by": "Created by",
    "number_format": "Number format",
    "data_fingerprint": "Training data",
    "test_error": "Test error (mean relative L2)",
    "command": "Made by",
    "replay": "Replay with",
    "input_range": "Input values seen",
    "band": "Band around answers",
    "flags": "Flags inputs unlike those of training",
    "fingerprint": "Fingerprint of the rest of the file",
    "input_norm_range": "Input norms seen (root mean square)",
}


def model_card(
    number_format: str,
    inputs: Float[np.ndarray, "functions sensors"],
    details: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """The card as it goes into the file's metadata: flat, every value JSON.

    Arguments:
        number_format: how the file stores its numbers.
        inputs: what the model is meant for, in physical units; the card records the least and largest value and the
            least and largest norm |u| / sqrt(sensors).
        details: further entries, and those that only the caller knows: name, data_fingerprint, test_error, command,
            replay (what trains it again). They take precedence.

    Raises:
        ForetrainError: an entry that JSON cannot hold.
    """
    inputs = np.asarray(inputs, np.float64)
    norms = np.sqrt(np.mean(inputs**2, axis=1))
    entries: dict[str, object] = {
        "name": "foretrain model",
        "created_by": f"foretrain {_version()}",
        "number_format": number_format,
        "input_range": [float(inputs.min()), float(inputs.max())],
        "input_norm_range": [float(norms.min()), float(norms.max())],
        **(details or {}),
    }
    return {key: _encoded(key, value) for key, value in entries.items()}


def decoded_card(card: Mapping[str, str]) -> dict[str, Any]:
    """The card's values; an entry that is not JSON, from another exporter, stays a string."""
    return {key: _decoded(value) for key, value in card.items()}


def model_card_markdown(card: Mapping[str, object]) -> str:
    """The card as a page for people, from the metadata's strings or from their values (`Runtime.metadata`)."""
    values = {key: _decoded(value) for key, value in card.items() if key not in TRUST_KEYS}
    values |= trust_summary(card)
    title = _cell(values.pop("name", "foretrain model"))
    ordered = [key for key in _LABELS if key in values] + [key for key in values if key not in _LABELS]
    rows = [f"| {_label(key)} | {_cell(values[key])} |" for key in ordered]
    lines = [f"# {title}", "", "| | |", "|---|---|", *rows, ""]
    if "input_range" in values:
        lines += ["Inputs outside these values and norms were never seen in training: answers there are guesses.", ""]
    return "\n".join(lines)


def _label(key: str) -> str:
    return _LABELS.get(key, key.replace("_", " ").capitalize())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        numbers = len(value) == 2 and all(isinstance(item, int | float) for item in value)
        return (" to " if numbers else ", ").join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
    return " ".join(str(value).split()).replace("|", "\\|")


def _encoded(key: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ForetrainError(
            f"model card: expected a value for {key!r} that JSON can hold, came {value!r:.60}; "
            "give a finite number or a string"
        ) from error


def _plain(value: Any) -> Any:
    """NumPy and JAX arrays and scalars; `json` calls this for what it does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _decoded(value: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _version() -> str:
    try:
        return version("foretrain")
    except PackageNotFoundError:
        return "(not installed)"
