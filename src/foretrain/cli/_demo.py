"""foretrain demo."""

from dataclasses import dataclass
from pathlib import Path

from foretrain import problems
from foretrain.cli._checks import require_enough, require_values
from foretrain.cli._display import Display
from foretrain.cli._main_job import new_run_folder, run_main_job
from foretrain.studies import PipelineSettings


@dataclass(frozen=True)
class Demo:
    """The whole promise on Burgers' equation, in about four minutes: forecast, train, certify, shrink, report.

    Example: foretrain demo --out runs/demo
    """

    out: Path | None = None
    """Run folder (default: runs/DATE-burgers)."""
    samples: int = 1200
    """Functions to simulate; one in six is kept for testing."""
    viscosity: float = 0.015915494309189534
    """Of Burgers' equation; 0.1 / (2 pi) by default."""
    resolution: int = 128
    """Grid points."""
    steps: int = 1000
    """Of gradient descent."""
    key: int = 0
    """Seed of everything drawn."""
    json: bool = False
    """Print the result as JSON and nothing else."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        held_out = max(2, self.samples // 6)
        require_enough(self.samples - held_out, "demo")
        folder = new_run_folder("burgers", self.out)
        display.heading("Data")
        data = problems.burgers(self.samples, self.viscosity, self.resolution, self.key, progress=display)
        learn, test = data.split(held_out, self.key)
        data.save(folder / "data.npz")
        display.line(f"  {len(data)} samples on {self.resolution} points, saved as {folder / 'data.npz'}")
        settings = PipelineSettings(steps=self.steps, key=self.key)
        source = {"path": str((folder / "data.npz").resolve()), "test": len(test), "key": self.key}
        run_main_job(learn, test, folder, settings, source, display)
