"""The main job with tables and bars: what `demo` and `run` share."""

import datetime
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from foretrain.cli._checks import require_folder
from foretrain.cli._display import Display, seconds
from foretrain.cli._tables import show_compressed, show_fit, show_plan, show_run
from foretrain.data import OperatorDataset
from foretrain.report import report
from foretrain.studies import PipelineResult, PipelineSettings, run_pipeline


def new_run_folder(name: str, out: Path | None) -> Path:
    """The folder asked for, or runs/DATE-NAME, numbered if it is taken; nothing is made yet.

    Raises:
        ForetrainError: if it could not be written to.
    """
    require_folder(Path("runs") if out is None else out)
    if out is not None:
        return out
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "run"
    stem = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{slug}"
    candidates = [stem, *(stem.with_name(f"{stem.name}-{number}") for number in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def command_line() -> str:
    """What was typed."""
    return shlex.join(["foretrain", *sys.argv[1:]])


def run_main_job(
    learn: OperatorDataset,
    test: OperatorDataset,
    folder: Path,
    settings: PipelineSettings,
    source: dict[str, Any],
    display: Display,
) -> PipelineResult:
    """Runs everything, shows each part as it is done, writes the report."""

    def tell(name: str, value: Any) -> None:
        if name == "plan":
            show_plan(display, value)
            display.heading("Training")
        elif name == "run":
            show_run(display, *value)
        elif name == "fit":
            show_fit(display, value)
        elif name == "compress":
            show_compressed(display, value)

    display.heading(f"{learn.name}: {len(learn)} training and {len(test)} test functions")
    result = run_pipeline(learn, test, folder, settings, source, command_line(), tell=tell, progress=display)
    display("writing the report", 0, 1)
    page = report(folder)
    display.heading("Done")
    worst = max((abs(row["loss_ratio"] - 1) for row in result.checked), default=float("nan"))
    worst_test = max((abs(row["test_ratio"] - 1) for row in result.checked), default=float("nan"))
    display.line(
        f"  forecast within {100 * worst:.1f} % of the measured loss, {100 * worst_test:.1f} % of the test error"
    )
    display.line(f"  {result.trust}")
    display.line(f"  verdict: {result.run.certificate.verdict}; total {seconds(result.seconds)}")
    display.line(f"  report: {page}")
    display.result(summary(result))
    return result


def summary(result: PipelineResult) -> dict[str, Any]:
    """The figures of a finished run."""
    chosen = result.compressed.chosen
    return {
        "folder": str(result.folder),
        "seconds": result.seconds,
        "checked": result.checked,
        "verdict": result.run.certificate.verdict,
        "closed_form": result.exact.form_,
        "shipped": chosen.as_dict() if chosen else None,
    }
