"""foretrain bench."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain.cli._checks import require_values
from foretrain.cli._display import Display, seconds, size
from foretrain.cli._main_job import command_line
from foretrain.deployment import BATCHES, Runtime, Speed, bench, formats_beside
from foretrain.studies import environment

COLUMNS = ("format", "size", "batch", "median", "10th", "90th", "99th", "functions/s")


@dataclass(frozen=True)
class Bench:
    """Time a shipped model on this machine: latency percentiles and throughput for several batch sizes.

    Files of the same model in other number formats beside it (model.float16.onnx, ...; foretrain compress RUN
    --all-formats writes them) are timed as well.

    Example: foretrain bench runs/demo/model.onnx
    """

    model: Annotated[Path, tyro.conf.Positional]
    """ONNX file made by foretrain."""
    batches: tuple[int, ...] = BATCHES
    """Functions in one call."""
    seconds: float = 1.0
    """Spent on each file and batch size, for at least 100 calls."""
    threads: int = 1
    """Processor cores one call may use."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        own = Runtime(self.model).metadata.get("number_format")
        beside = [path for number_format, path in formats_beside(self.model).items() if number_format != own]
        files = {path.name: path for path in (self.model, *beside)}
        speeds = bench(files, self.batches, seconds=self.seconds, threads=self.threads, progress=display)
        display.heading(f"{self.model}, {self.threads} thread{'s' * (self.threads > 1)}")
        display.table(COLUMNS, [_row(speed) for speed in speeds], right=COLUMNS[1:])
        rows = [speed.as_dict() for speed in speeds]
        display.result({"threads": self.threads, "rows": rows, "environment": environment(command_line())})


def _row(speed: Speed) -> tuple[str, ...]:
    times = speed.latency
    percentiles = (times.median, times.tenth, times.ninetieth, times.ninety_ninth)
    return (
        speed.number_format or speed.name,
        size(speed.bytes),
        f"{speed.batch:,}",
        *(seconds(time) for time in percentiles),
        f"{times.throughput:,.0f}",
    )
