"""foretrain report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain.cli._display import Display
from foretrain.report import report


@dataclass(frozen=True)
class Report:
    """Write a run folder's page anew.

    Example: foretrain report runs/demo
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path | None = None
    """File to write (default: RUN/report.html)."""
    json: bool = False
    """Print the path as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        page = report(self.run, self.out)
        display.line(f"report: {page}")
        display.result({"report": str(page)})
