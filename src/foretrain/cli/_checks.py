"""What can be told to be wrong before anything is computed or written."""

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foretrain._foundation import DataError, ForetrainError, require_memory

FEWEST_TRAINING_FUNCTIONS = 16
LARGEST_KEY = 2**32 - 1
"""Random keys have 32 bits; a larger number would quietly be another key."""
BYTES_FOR_EACH_STEP = 4096
"""Of a forecast: a few values for each of some 150 Krylov vectors."""


def _positive(value: float) -> bool:
    return 0 < value < math.inf


Limit = tuple[type, Callable[[Any], bool], str]
_SHARE: Limit = (float, lambda value: 0 < value < 1, "a number between 0 and 1 (0.02 is 2 %)")
_POSITIVE: Limit = (float, _positive, "a positive number")
_COUNT: Limit = (int, lambda value: value >= 1, "a whole number, at least 1")
_SIZES = ("tolerance", "error_budget", "step_size", "input_norm", "max_error", "max_latency")
_COUNTS = ("steps", "samples", "numbers_budget", "evaluations", "width", "branch_width", "max_numbers", "max_bytes")
LIMITS: dict[str, Limit] = {
    "target_error": _SHARE,
    **dict.fromkeys(_SIZES, _POSITIVE),
    **dict.fromkeys(_COUNTS, _COUNT),
    "price_per_hour": (float, lambda value: 0 <= value < math.inf, "a number, at least 0"),
    "fresh": (int, lambda value: value >= 0, "a whole number, at least 0"),
    "key": (int, lambda value: 0 <= value <= LARGEST_KEY, f"a whole number from 0 to {LARGEST_KEY}"),
    "test": (int, lambda value: value >= 2, "a whole number of functions, at least 2"),
    "path": (str, bool, "a path in quotes"),
    "activation": (str, bool, "a name in quotes"),
}


def require_values(values: Mapping[str, Any], source: str = "") -> None:
    """Refuses settings of the wrong kind or out of range; those that are None or have no limits pass.

    Raises:
        ForetrainError: naming the setting, and the file it came from if `source` is given.
        MemoryBudgetError: for more steps than a forecast could hold.
    """
    for name, value in values.items():
        if value is None or name not in LIMITS:
            continue
        kind, holds, expected = LIMITS[name]
        kinds = (int, float) if kind is float else (kind,)
        if type(value) not in kinds or not holds(value):
            raise ForetrainError(f"{source}{': ' * bool(source)}{name}: expected {expected}, came {value!r}")
    if values.get("steps"):
        steps = values["steps"]
        require_memory(BYTES_FOR_EACH_STEP * steps, f"a forecast of {steps} steps", "ask for fewer steps")


def require_folder(path: Path) -> None:
    """Refuses a folder that could not be written to.

    Raises:
        ForetrainError: if a file stands in its place, or permission is missing.
    """
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise ForetrainError(f"{path}: expected a folder to write to, came the file {nearest}; choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ForetrainError(f"{path}: expected a folder to write to, came {nearest} without permission to write")


def require_file(path: Path | None) -> None:
    """Refuses a file that could not be written; None passes.

    Raises:
        ForetrainError: if a folder stands in its place, or its own folder could not be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise ForetrainError(f"{path}: expected a file to write, came a folder; name a file in it")
    require_folder(path.parent)


def require_enough(functions: int, source: object) -> None:
    """Refuses training functions too few to choose anything by."""
    if functions < FEWEST_TRAINING_FUNCTIONS:
        raise DataError(
            f"{source}: expected at least {FEWEST_TRAINING_FUNCTIONS} training functions, came {functions}; add samples"
        )


def read_table(path: Path, expected: str, advice: str) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        ForetrainError: if it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        reason = "bytes that are no text"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = str(error) or "too many brackets"
    raise ForetrainError(f"{path}: expected {expected}, came none that can be read ({reason}); {advice}")
