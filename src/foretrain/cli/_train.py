"""foretrain train."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain._foundation import DataError, write_json
from foretrain.cli._display import Display, seconds
from foretrain.cli._main_job import command_line, new_run_folder
from foretrain.cli._tables import show_run
from foretrain.data import choose_embedding, load_split
from foretrain.forecast import GradientDescent, forecast, load_plan_settings
from foretrain.models import ShallowOperator
from foretrain.studies import checked_steps, environment
from foretrain.training import save_weights, train


@dataclass(frozen=True)
class Train:
    """Train by a plan, with the forecast beside the loss and a certificate at the end.

    Killed runs go on where they were: give the same --out again.

    Example: foretrain train data.npz --plan plan.toml
    """

    data: Annotated[Path, tyro.conf.Positional]
    """npz file."""
    plan: Path
    """plan.toml, as `foretrain plan --out` writes it."""
    test: int | None = None
    """Functions to hold out for testing."""
    out: Path | None = None
    """Run folder (default: runs/DATE-NAME)."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        settings = load_plan_settings(self.plan)
        try:
            names = ("width", "branch_width", "activation", "form")
            model = ShallowOperator(**{name: settings[name] for name in names})
            norm, step_size = float(settings["input_norm"]), float(settings["step_size"])
            steps, key = int(settings["steps"]), int(settings["key"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.plan}: expected a complete [plan], came one without {error}; plan again") from error
        learn, test = load_split(self.data, self.test, key)
        model = ShallowOperator(**{**vars(model), "embedding": choose_embedding(learn, norm)})
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
