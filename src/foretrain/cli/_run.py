"""foretrain run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from foretrain._foundation import ForetrainError
from foretrain.cli._checks import read_table, require_enough, require_values
from foretrain.cli._display import Display
from foretrain.cli._main_job import new_run_folder, run_main_job
from foretrain.cli._quantities import ShareOrNone
from foretrain.data import load_split
from foretrain.studies import PipelineSettings, with_overrides


@dataclass(frozen=True)
class RunCommand:
    """Plan, forecast, train, certify, fit, compress and report, on your own file; or replay a run's config.toml.

    The file holds inputs [functions, sensors] and outputs [functions, points], optionally sensor_points and
    query_points; or train_inputs, train_outputs, test_inputs, test_outputs.

    Example: foretrain run data.npz --target-error 2%
    """

    source: Annotated[Path, tyro.conf.Positional]
    """data.npz, or the config.toml of an earlier run."""
    out: Path | None = None
    """Run folder (default: runs/DATE-NAME)."""
    test: int | None = None
    """Functions to hold out for testing (default: as the file says, else one in six)."""
    target_error: ShareOrNone = None
    """Relative L2 error to plan for: 2% or 0.02."""
    steps: int | None = None
    """Of gradient descent."""
    error_budget: ShareOrNone = None
    """Mean relative L2 error the shipped model may have."""
    numbers_budget: int | None = None
    """Numbers the shipped file may hold."""
    price_per_hour: float | None = None
    """Of this machine, to price the routes."""
    key: int | None = None
    """Seed of everything drawn."""
    json: bool = False
    """Print the result as JSON and nothing else."""

    def execute(self) -> None:
        """Runs the command."""
        source: dict[str, Any] = {"path": str(self.source.resolve())}
        settings = PipelineSettings()
        if self.source.suffix == ".toml":
            source, settings = read_config(self.source)
        asked = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(PipelineSettings)
            if getattr(self, field.name, None) is not None
        }
        require_values(asked | {"test": self.test})
        settings = with_overrides(settings, asked)
        split_key = source.get("key", settings.key)
        test = self.test if self.test is not None else source.get("test")
        learn, held_out = load_split(source["path"], test, split_key)
        require_enough(len(learn), source["path"])
        source |= {"test": len(held_out), "key": split_key}
        folder = new_run_folder(learn.name, self.out)
        require_same_job(folder, source, settings)
        run_main_job(learn, held_out, folder, settings, source, Display(self.json))


def require_same_job(folder: Path, source: dict[str, Any], settings: PipelineSettings) -> None:
    """Refuses to write over a run of other data or settings; the same job may go on, or be done again.

    Raises:
        ForetrainError: naming the folder and what differs.
    """
    config = folder / "config.toml"
    if not config.exists():
        return
    there_source, there_settings = read_config(config)
    there, here = (vars(each[1]) | each[0] for each in ((there_source, there_settings), (source, settings)))
    others = sorted(name for name in there | here if there.get(name) != here.get(name))
    if others:
        raise ForetrainError(
            f"{folder}: expected a folder of its own for this run, came one with a run of other "
            f"{', '.join(others)}; choose another --out"
        )


def read_config(path: Path) -> tuple[dict[str, Any], PipelineSettings]:
    """The data source and settings of a config.toml.

    Raises:
        ForetrainError: missing, not TOML, without [data] path, with unknown settings, or with values out of range.
    """
    table = read_table(path, "a run's config.toml", "check the path")
    data, run = table.get("data"), table.get("run", {})
    if not isinstance(data, dict) or "path" not in data:
        raise ForetrainError(f"{path}: expected [data] with a path, came none; use the config.toml of a run folder")
    if not isinstance(run, dict):
        raise ForetrainError(f"{path}: expected a table [run] of settings, came {run!r}")
    known = {field.name for field in dataclasses.fields(PipelineSettings)}
    unknown = sorted(set(run) - known)
    if unknown:
        raise ForetrainError(f"{path}: expected settings among {', '.join(sorted(known))}, came {', '.join(unknown)}")
    require_values(data, str(path))
    require_values(run, str(path))
    return dict(data), with_overrides(PipelineSettings(), run)
