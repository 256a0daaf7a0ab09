"""What people see: a live bar while something runs, tables when it is done; JSON for machines."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """A progress listener and a printer of tables.

    On a terminal each stage gets a live bar; elsewhere a line when it starts, ends, and every ten seconds. With
    `json_only` nothing but the final JSON goes to standard output.
    """

    def __init__(self, json_only: bool = False) -> None:
        self.json_only = json_only
        self.console = Console(stderr=json_only, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._begun = self._spoken = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """The `Progress` protocol."""
        if stage != self._stage:
            self._finish()
            self._stage, self._begun, self._spoken = stage, time.monotonic(), time.monotonic()
            self._start(stage, total)
        text = "  ".join(f"{name} {_figure(name, value)}" for name, value in (figures or {}).items())
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total or None, figures=text)
        elif time.monotonic() - self._spoken > SECONDS_BETWEEN_LINES:
            self._spoken = time.monotonic()
            share = f"{done}/{total}" if total else f"{done}"
            self.console.print(f"  {stage}: {share}  {text}")

    def _start(self, stage: str, total: int) -> None:
        if not self.console.is_terminal:
            self.console.print(f"  {stage} ...")
            return
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._bars.start()
        self._task = self._bars.add_task(stage, total=total or None, figures="")

    def _finish(self) -> None:
        if not self._stage:
            return
        seconds = time.monotonic() - self._begun
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if seconds >= 0.5:
            self.console.print(f"  [green]done[/green] {self._stage} [dim]{seconds:.1f} s[/dim]")
        self._stage = ""

    def close(self) -> None:
        """Ends the stage that is running."""
        self._finish()

    def heading(self, text: str) -> None:
        """A heading between parts."""
        self._finish()
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def line(self, text: str) -> None:
        """One line, however long: paths in it can be copied."""
        self._finish()
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
        """A table; the columns named in `right` are aligned right."""
        self._finish()
        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table)

    def result(self, value: Any) -> None:
        """The final value, for machines."""
        self._finish()
        if self.json_only:
            json.dump(_plain(value), sys.stdout, indent=2)
            sys.stdout.write("\n")


def _figure(name: str, value: float) -> str:
    return f"{100 * value:.3g} %" if "error" in name else f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def percent(value: float | None) -> str:
    """0.0123 -> 1.23 %."""
    return "-" if value is None else f"{100 * value:.3g} %"


def seconds(value: float | None) -> str:
    """A duration in its natural unit."""
    if value is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 3600:.3g} h"


def size(value: float | None) -> str:
    """Bytes in their natural unit."""
    if value is None:
        return "-"
    for limit, factor, unit in ((1e3, 1.0, "B"), (1e6, 1e-3, "kB"), (1e9, 1e-6, "MB")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e-9:.3g} GB"
