"""Progress as a plain callback, so that the library never prints and the command line can show a live bar."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Called with the name of the stage, how much of it is done, and figures worth showing beside the bar."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None: ...


def ignore_progress(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
    """The listener that shows nothing."""
