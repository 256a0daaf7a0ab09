"""What may be spent, and what was found: the size, error and latency of every candidate."""

import builtins
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, write_atomically


@dataclass(frozen=True)
class Budget:
    """Limits a shipped model must keep; None means no limit.

    Attributes:
        error: mean relative L2 error on functions not trained on.
        numbers: stored in the file.
        bytes: of the file.
        latency: seconds for one sample on one core.
    """

    error: float | None = None
    numbers: int | None = None
    bytes: int | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ForetrainError(f"expected a positive budget, came {name} = {value}")

    def excess(self, error: float, numbers: int, size: int, latency: float) -> str:
        """What exceeds the budget, in words; empty if nothing does."""
        if not math.isfinite(error):
            return "answers that are not finite"
        pairs = self._limited(error, numbers, size, latency)
        return ", ".join(
            f"{name} {_short(value)} over {_short(limit)}" for name, (value, limit) in pairs.items() if value > limit
        )

    def worst_ratio(self, error: float, numbers: int, size: int, latency: float) -> float:
        """The largest ratio of what was measured to its limit: above 1 the budget is not kept."""
        pairs = self._limited(error, numbers, size, latency)
        return (
            max((value / limit for value, limit in pairs.values()), default=0.0) if math.isfinite(error) else math.inf
        )

    def _limited(self, error: float, numbers: int, size: int, latency: float) -> dict[str, tuple[float, float]]:
        measured = {"error": error, "numbers": numbers, "bytes": size, "latency": latency}
        return {name: (measured[name], limit) for name, limit in vars(self).items() if limit is not None}


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


class Package(Protocol):
    """A network in a file that others can run."""

    @property
    def file(self) -> builtins.bytes: ...

    @property
    def numbers(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def latency_seconds(self) -> float: ...

    def predict(self, inputs: Float[np.ndarray, "functions sensors"]) -> Float[np.ndarray, "functions points"]: ...


class Packager(Protocol):
    """Turns a network into a package; the deployment room brings one for ONNX."""

    def __call__(
        self,
        network: Any,
        number_format: str,
        calibration_inputs: Float[np.ndarray, "functions sensors"],
        card: Mapping[str, object] | None = None,
    ) -> Package: ...


@dataclass(frozen=True)
class Candidate:
    """One point of the front.

    Attributes:
        name, format: which network, in which numbers.
        numbers, bytes, latency_seconds: of its file.
        test_error: mean relative L2 error on the functions it is judged by.
        agreement: relative L2 difference between the file's answers and the network's own (None for the teacher).
        excess: what exceeds the budget, in words; empty if nothing does.
        note: what to know.
        chosen: whether it is the one to ship.
        package: the file; None for the teacher.
        network: the student; None for the teacher.
    """

    name: str
    format: str
    numbers: int
    bytes: int
    latency_seconds: float
    test_error: float
    agreement: float | None
    excess: str
    note: str = ""
    chosen: bool = False
    package: Package | None = None
    network: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        kept = ("name", "format", "numbers", "bytes", "test_error", "latency_seconds", "chosen", "agreement")
        note = "; ".join(part for part in (self.excess, self.note) if part)
        return {**{key: getattr(self, key) for key in kept}, "within_budget": not self.excess, "note": note}


@dataclass(frozen=True)
class Stage:
    """What one step of compression did to the error."""

    name: str
    error_before: float | None
    error_after: float
    seconds: float


@dataclass(frozen=True)
class CompressedModel:
    """The front of candidates, the teacher first, and the one to ship.

    Attributes:
        budget: what was asked for.
        candidates: all of them.
        stages: what each step of compression did.
    """

    budget: Budget
    candidates: tuple[Candidate, ...]
    stages: tuple[Stage, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The most accurate candidate within the budget, the smaller of nearly equal ones; or None."""
        return next((candidate for candidate in self.candidates if candidate.chosen), None)

    def export(self, path: str | Path) -> Path:
        """Writes the chosen model's ONNX file.

        Raises:
            ForetrainError: if nothing keeps the budget; the message names the nearest candidate.
        """
        if self.chosen is None or self.chosen.package is None:
            nearest = min(
                (candidate for candidate in self.candidates if candidate.package is not None),
                key=lambda c: self.budget.worst_ratio(c.test_error, c.numbers, c.bytes, c.latency_seconds),
            )
            raise ForetrainError(
                f"nothing keeps the budget; the nearest is {nearest.name} in {nearest.format} ({nearest.excess}): "
                "relax that limit"
            )
        file = self.chosen.package.file
        return write_atomically(path, lambda stream: stream.write(file))

    def predict(self, inputs: Float[np.ndarray, "functions sensors"]) -> Float[np.ndarray, "functions points"]:
        """What the shipped file answers, physical units in and out."""
        if self.chosen is None or self.chosen.package is None:
            raise ForetrainError("nothing keeps the budget, so there is no model to predict with; relax a limit")
        return self.chosen.package.predict(inputs)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "budget": vars(self.budget),
            "rows": [candidate.as_dict() for candidate in self.candidates],
            "stages": [vars(stage) for stage in self.stages],
        }
