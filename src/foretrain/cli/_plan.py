"""foretrain plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain.cli._checks import require_enough, require_file, require_values
from foretrain.cli._display import Display
from foretrain.cli._quantities import Share
from foretrain.cli._tables import show_plan
from foretrain.data import load
from foretrain.forecast import plan


@dataclass(frozen=True)
class PlanCommand:
    """Choose width, step size and route before anything runs, each number with its reason.

    Example: foretrain plan data.npz --target-error 2% --out plan.toml
    """

    data: Annotated[Path, tyro.conf.Positional]
    """npz file."""
    target_error: Share = 0.02
    """Relative L2 error wanted: 2% or 0.02."""
    steps: int = 1000
    """Of gradient descent."""
    tolerance: Share = 0.03
    """How far measured losses may stray from the forecast."""
    price_per_hour: float = 0.0
    """Of this machine, to price the routes."""
    key: int = 0
    """Seed."""
    out: Path | None = None
    """Where to write plan.toml."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        require_file(self.out)
        data = load(self.data)
        require_enough(len(data), self.data)
        planned = plan(
            data,
            self.target_error,
            steps=self.steps,
            tolerance=self.tolerance,
            key=self.key,
            price_per_hour=self.price_per_hour,
            progress=display,
        )
        show_plan(display, planned)
        if self.out is not None:
            display.line(f"plan: {planned.save(self.out)}")
        display.result({**planned.as_dict(), "plan": planned.settings()})
