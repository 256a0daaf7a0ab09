"""What each step from the truth to the file contributes to the file's error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class ErrorPart:
    """One step's part of a file's error.

    Attributes:
        name: of the step.
        size: root mean square over the functions of |after - before| / |truth|.
        share: of the squared error, mean <after - before, file - truth> / |truth|^2 in units of the whole: shares add
            up to one, and a step that undoes part of another's error has a negative one.
    """

    name: str
    size: float
    share: float


@dataclass(frozen=True)
class ErrorShares:
    """The error of one file, taken apart on the functions that judge.

    Attributes:
        total: root mean square of the relative error; at least the mean relative error that budgets are about.
        parts: in the order of the steps.
    """

    total: float
    parts: tuple[ErrorPart, ...]

    @classmethod
    def of(
        cls,
        truth: Float[np.ndarray, "functions points"],
        steps: Sequence[tuple[str, Float[np.ndarray, "functions points"]]],
    ) -> "ErrorShares":
        """The parts of the last step's error.

        Arguments:
            truth: reference outputs.
            steps: (name, answers), each one's answers an approximation of those before; the last ones are the file's.
        """
        sizes = np.maximum(np.linalg.norm(truth, axis=1, keepdims=True), np.finfo(float).tiny)
        stations = [truth, *(np.asarray(answers, np.float64) for _, answers in steps)]
        moves = [(after - before) / sizes for before, after in pairwise(stations)]
        whole = np.sum(moves, axis=0)
        total = float(np.mean(np.sum(whole**2, axis=1)))
        parts = [
            ErrorPart(
                name,
                math.sqrt(float(np.mean(np.sum(move**2, axis=1)))),
                float(np.mean(np.sum(move * whole, axis=1))) / (total or 1.0),
            )
            for (name, _), move in zip(steps, moves, strict=True)
        ]
        return cls(math.sqrt(total), tuple(parts))

    @property
    def if_independent(self) -> float:
        """The root of the parts' sum of squares: what the total would be, were no part correlated with another."""
        return math.sqrt(sum(part.size**2 for part in self.parts))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "total": self.total,
            "if_independent": self.if_independent,
            "parts": [vars(part) for part in self.parts],
        }
