"""What each step of compression does to the error, as it is recorded."""

import time
from dataclasses import dataclass

from foretrain.compression._budget import Stage


@dataclass(frozen=True)
class Effort:
    """How much a descent may cost.

    Attributes:
        rows: of the data it sees: a row is one function, or one sample of a function on a periodic grid.
        evaluations: of its loss at most.
    """

    rows: int
    evaluations: int


class StageLog:
    """Records what each stage did to the error on the functions that judge; the teacher's own comes first.

    Attributes:
        stages: so far.
    """

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def record(self, name: str, error: float, seconds: float) -> None:
        """Adds a stage. The teacher's error is not what the first student starts from."""
        before = self.stages[-1].error_after if len(self.stages) > 1 else None
        self.stages.append(Stage(name, before, error, seconds))

    @staticmethod
    def clock() -> float:
        """Seconds on the wall, to be subtracted from one another."""
        return time.perf_counter()
