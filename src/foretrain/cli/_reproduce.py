"""foretrain reproduce."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from foretrain._foundation import write_json
from foretrain.cli._checks import require_folder, require_values
from foretrain.cli._display import Display, seconds
from foretrain.cli._main_job import command_line
from foretrain.report import two_timescale_page
from foretrain.studies import (
    Reproduction,
    ReproductionSettings,
    RobustnessTable,
    environment,
    reproduce_two_timescales,
)


@dataclass(frozen=True)
class Reproduce:
    """Run a published study again, beside what was published, and write its page.

    two-timescale: Marion, Berthier (NeurIPS 2023): small networks that reach the optimum because the inner layer moves
    far more slowly than the outer one. About a minute of one core; with --full, about eight.

    Example: foretrain reproduce two-timescale --out runs/two-timescale
    """

    study: Annotated[Literal["two-timescale"], tyro.conf.Positional]
    """Which one."""
    out: Path | None = None
    """Folder for result.json and report.html (default: runs/STUDY)."""
    full: bool = False
    """The published 1.75e8 steps, 100 starts for the shares, 20 seeds everywhere."""
    uniform: bool = False
    """Plainly uniform starts, not two neurons in every piece of the target."""
    seeds: int | None = None
    """Starts of every part, instead of the usual numbers."""
    key: int = 0
    """Seed of everything drawn."""
    json: bool = False
    """Print the result as JSON and nothing else."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values({"key": self.key, "seeds": self.seeds})
        folder = self.out or Path("runs") / self.study
        require_folder(folder)
        settings = ReproductionSettings(self.key, self.full, self.uniform, self.seeds)
        result = reproduce_two_timescales(settings, display)
        ran_on = environment(command_line())
        write_json(folder / "result.json", {"environment": ran_on, **result.as_dict()})
        display("writing the page", 0, 1)
        page = two_timescale_page(result, folder / "report.html", ran_on)
        show_reproduction(display, result)
        display.line(f"  {seconds(result.seconds)} of processor time")
        display.line(f"  report: {page}")
        display.result({**result.as_dict(trajectories=False), "folder": str(folder), "report": str(page)})


def show_reproduction(display: Display, result: Reproduction) -> None:
    """Measured beside published."""
    display.heading("Measured beside published")
    display.table(
        ("claim", "published", "measured", "verdict"),
        [(claim.what, claim.published, claim.measured, claim.verdict) for claim in result.claims],
    )
    display.heading("The sweep over ratios")
    display.table(
        ("ratio", "starts", "every jump covered", "median loss", "worst loss"),
        [sweep_row(coverage) for coverage in result.sweep],
        right=("ratio", "starts", "every jump covered", "median loss", "worst loss"),
    )
    display.heading("Fixed samples: median root-mean-square error, training / test")
    ways = list(result.sampled[0].training) if result.sampled else []
    display.table(
        ("", *ways),
        [(each.title, *("{:.2g} / {:.2g}".format(*each.medians(way)) for way in ways)) for each in result.sampled],
        right=ways,
    )
    display.heading(
        "Disturbed samples: median test errors at the last level, ratio two timescales / equal rates over all"
    )
    display.table(
        ("", "disturbance", "levels", "equal rates", "two timescales", "ratio (95 %)", "verdict"),
        [disturbed_row(each.title, table) for each in result.disturbed for table in each.tables],
        right=("equal rates", "two timescales", "ratio (95 %)"),
    )


def disturbed_row(title: str, table: RobustnessTable) -> tuple[str, ...]:
    """One disturbance in figures: median test errors at its largest level, and who ends lower at all of them."""
    effect = table.effect
    exceptions = [f"; at {level:g} {verdict}" for level, verdict in table.exceptions]
    return (
        title,
        table.kind,
        ", ".join(f"{level:g}" for level in table.levels),
        *(f"{np.median(errors[-1]):.2g}" for errors in (table.equal_rates, table.two_timescales)),
        f"{effect.ratio:.3g} ({effect.lower:.3g} to {effect.upper:.3g})",
        table.verdict + "".join(exceptions),
    )


def sweep_row(coverage: Any) -> tuple[str, ...]:
    """A ratio's starts in figures."""
    everything = int(coverage.covered.all(axis=1).sum())
    losses = (float(np.median(coverage.losses)), float(np.max(coverage.losses)))
    return (
        f"{coverage.setting.ratio:g}",
        f"{len(coverage.losses)}",
        f"{everything}",
        *(f"{loss:.3g}" for loss in losses),
    )
