"""foretrain compress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain._foundation import write_json
from foretrain.cli._checks import require_file, require_values
from foretrain.cli._display import Display
from foretrain.cli._run import read_config
from foretrain.cli._tables import show_compressed
from foretrain.compression import Budget, compress
from foretrain.data import load_split
from foretrain.deployment import OnnxPackager
from foretrain.tangent import InfiniteWidthOperator


@dataclass(frozen=True)
class Compress:
    """Shrink a run's closed-form operator to a small ONNX file within a budget.

    Example: foretrain compress runs/demo --max-error 0.012 --max-numbers 20000
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    max_error: float | None = 0.02
    """Mean relative L2 error."""
    max_numbers: int | None = None
    """Numbers in the file."""
    max_bytes: int | None = None
    """Size of the file."""
    max_latency: float | None = None
    """Seconds for one sample on one core."""
    out: Path | None = None
    """File to write (default: RUN/model.onnx)."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        require_file(self.out)
        budget = Budget(self.max_error, self.max_numbers, self.max_bytes, self.max_latency)
        source, settings = read_config(self.run / "config.toml")
        learn, test = load_split(source["path"], source.get("test"), source.get("key", 0))
        teacher = InfiniteWidthOperator(key=settings.key, progress=display).fit(learn)
        small = compress(teacher, budget, package=OnnxPackager(), test=test, key=settings.key, progress=display)
        show_compressed(display, small)
        file = small.export(self.out or self.run / "model.onnx")
        write_json(self.run / "compression.json", small.as_dict())
        display.line(f"model: {file}")
        display.result({**small.as_dict(), "model": str(file)})
