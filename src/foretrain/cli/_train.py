"""foretrain train."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from foretrain._foundation import DataError, ForetrainError, write_json
from foretrain.cli._checks import require_values
from foretrain.cli._display import Display, seconds
from foretrain.cli._main_job import command_line, new_run_folder
from foretrain.cli._small_network import train_small_network
from foretrain.cli._tables import show_run
from foretrain.data import choose_embedding, load_split
from foretrain.forecast import GradientDescent, forecast, load_plan_settings
from foretrain.models import ShallowOperator
from foretrain.studies import checked_steps, environment
from foretrain.training import save_weights, train

PLANNED = ("width", "branch_width", "activation", "form", "input_norm", "step_size", "steps", "key")


@dataclass(frozen=True)
class Train:
    """Train by a plan, with the forecast beside the loss and a certificate at the end.

    Killed runs go on where they were: give the same --out again. With --two-timescales and no plan: a small network
    instead, its outer layer always at its optimum.

    Example: foretrain train data.npz --plan plan.toml
    """

    data: Annotated[Path, tyro.conf.Positional]
    """npz file."""
    plan: Path | None = None
    """plan.toml, as `foretrain plan --out` writes it."""
    two_timescales: bool = False
    """Train a small network in the two-timescale limit, without a plan."""
    width: int = 32
    """Trunk neurons of the small network."""
    branch_width: int = 128
    """Branch neurons of the small network."""
    steps: int = 300
    """Evaluations of the loss, at most, for the small network."""
    key: int = 0
    """Seed of the small network and of its held-out functions."""
    no_forecast: bool = False
    """Do not rehearse the small network's run to forecast what it will cost and reach."""
    test: int | None = None
    """Functions to hold out for testing."""
    out: Path | None = None
    """Run folder (default: runs/DATE-NAME)."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        sizes = {name: getattr(self, name) for name in ("width", "branch_width", "steps")}
        require_values({"test": self.test, **sizes})
        if self.two_timescales == (self.plan is not None):
            came = "both" if self.two_timescales else "neither"
            raise ForetrainError(f"train: expected either --plan FILE or --two-timescales, came {came}")
        if self.plan is None:
            learn, test = load_split(self.data, self.test, self.key)
            model = ShallowOperator(self.width, self.branch_width, "tanh", form="shared")
            folder = new_run_folder(learn.name, self.out)
            train_small_network(learn, test, model, self.steps, self.key, folder, display, not self.no_forecast)
            return
        model, norm, step_size, steps, key = read_plan(self.plan)
        learn, test = load_split(self.data, self.test, key)
        model = replace(model, embedding=choose_embedding(learn, norm))
        method = GradientDescent(step_size)
        folder = new_run_folder(learn.name, self.out)
        told = forecast(learn, model, method, steps, test, key=key, basis="drawn weights", progress=display)
        run = train(
            learn,
            model,
            method,
            steps=steps,
            test=test,
            key=key,
            told=told,
            checkpoint=folder / "checkpoint.safetensors",
            resume=True,
            progress=display,
        )
        checked = checked_steps(told, told, run)
        show_run(display, run, checked)
        write_json(folder / "environment.json", environment(command_line()))
        write_json(folder / "certificate.json", run.certificate.as_dict())
        save_weights(folder / "weights.safetensors", run.network)
        display.line(f"{seconds(run.seconds)} of training; certificate and weights in {folder}")
        display.result({"folder": str(folder), "verdict": run.certificate.verdict, "checked": checked})


def read_plan(path: Path) -> tuple[ShallowOperator, float, float, int, int]:
    """Model, input norm, step size, steps and key of a plan.toml.

    Raises:
        ForetrainError: missing, not TOML, incomplete, or with values out of range.
    """
    try:
        settings = load_plan_settings(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a TOML plan, came bytes that are no text; plan again") from error
    missing = [name for name in PLANNED if name not in settings]
    if missing:
        raise DataError(f"{path}: expected a complete [plan], came one without {', '.join(missing)}; plan again")
    require_values(settings, str(path))
    try:
        model = ShallowOperator(**{name: settings[name] for name in ("width", "branch_width", "activation", "form")})
    except ForetrainError as error:
        raise DataError(f"{path}: {error}") from error
    return model, settings["input_norm"], settings["step_size"], settings["steps"], settings["key"]
