"""One self-contained HTML page from a run folder: what was forecast, what happened, what can be shipped."""

from foretrain.report._page import report

__all__ = ["report"]
