"""What may be spent, and what was found: the size, error and latency of every candidate."""

import builtins
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, write_atomically
from foretrain.compression._shares import ErrorShares

NEARLY_EQUAL = 1.02
"""Errors this much above the least are as good, and the smaller file is shipped."""


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


def _described(candidate: "Candidate") -> str:
    return (
        f"{candidate.name} in {candidate.format}: {100 * candidate.test_error:.2g} % with {candidate.numbers:,} "
        f"numbers in {candidate.bytes:,} bytes"
    )


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
        shares: what each step from the truth to the file does to the error; None for the teacher.
    """

    name: str
    format: str
    numbers: int
    bytes: int
    latency_seconds: float
    test_error: float
    agreement: float | None
    excess: str = ""
    note: str = ""
    chosen: bool = False
    package: Package | None = None
    network: Any = None
    shares: ErrorShares | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        kept = ("name", "format", "numbers", "bytes", "test_error", "latency_seconds", "chosen", "agreement")
        note = "; ".join(part for part in (self.excess, self.note) if part)
        shares = {} if self.shares is None else {"error_shares": self.shares.as_dict()}
        return {**{key: getattr(self, key) for key in kept}, "within_budget": not self.excess, "note": note, **shares}


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

    @property
    def nearest(self) -> Candidate | None:
        """The chosen one, or of all files the one that exceeds the budget least."""
        files = [candidate for candidate in self.candidates if candidate.package is not None]
        return self.chosen or min(
            files,
            key=lambda c: self.budget.worst_ratio(c.test_error, c.numbers, c.bytes, c.latency_seconds),
            default=None,
        )

    @property
    def refused(self) -> tuple[str, ...]:
        """A line for each file that exceeds the budget: what exceeds it, why, and the nearest that does not.

        Nearest is the smallest file of the same network within the budget, else the one chosen.
        """
        lines = []
        for each in self.candidates:
            if each.package is None or not each.excess:
                continue
            kept = [c for c in self.candidates if c.network is each.network and c.package is not None and not c.excess]
            near = min(kept, key=lambda candidate: candidate.bytes, default=self.chosen)
            instead = "nothing else keeps it either" if near is None else f"within it is {_described(near)}"
            reason = "; ".join(part for part in (each.excess, each.note) if part)
            lines.append(f"{each.name} in {each.format} is refused: {reason}; {instead}")
        return tuple(lines)

    def judged_by(self, budget: Budget) -> "CompressedModel":
        """The same candidates beside another budget: what exceeds it, and which one ships then.

        That is the most accurate file within the budget, the smallest of those within two per cent of it.
        """
        judged = [
            replace(
                each,
                excess=budget.excess(each.test_error, each.numbers, each.bytes, each.latency_seconds),
                chosen=False,
            )
            for each in self.candidates
        ]
        allowed = [candidate for candidate in judged if candidate.package is not None and not candidate.excess]
        least = min((candidate.test_error for candidate in allowed), default=math.inf)
        near = (candidate for candidate in allowed if candidate.test_error <= NEARLY_EQUAL * least)
        best = min(near, key=lambda candidate: candidate.bytes, default=None)
        rows = tuple(replace(candidate, chosen=candidate is best) for candidate in judged)
        return replace(self, budget=budget, candidates=rows)

    def export(self, path: str | Path) -> Path:
        """Writes the chosen model's ONNX file.

        Raises:
            ForetrainError: if nothing keeps the budget, the message names the nearest candidate; or if the chosen file
                grew beyond it afterwards.
        """
        nearest = self.nearest
        if nearest is None or nearest.package is None:
            raise ForetrainError("nothing was made that could be exported; compress again")
        if not nearest.chosen:
            raise ForetrainError(
                f"nothing keeps the budget; the nearest is {nearest.name} in {nearest.format} ({nearest.excess}): "
                "relax that limit"
            )
        file = nearest.package.file
        # What was put into the file after it was chosen counts as well.
        late = self.budget.excess(0.0, nearest.package.numbers, len(file), 0.0)
        if late:
            raise ForetrainError(f"the chosen file exceeds the budget ({late}): put less into it, or relax that limit")
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
            "refused": list(self.refused),
        }
