"""foretrain compress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain._foundation import ForetrainError, write_json
from foretrain.cli._checks import require_file, require_values
from foretrain.cli._display import Display
from foretrain.cli._quantities import DurationOrNone, ShareOrNone, SizeOrNone
from foretrain.cli._run import read_config
from foretrain.cli._tables import show_compressed
from foretrain.compression import Budget, CompressedModel, compress
from foretrain.data import load_split
from foretrain.deployment import (
    OnnxPackager,
    set_aside,
    trust_in_chosen,
    write_formats,
    write_numpy_predictor,
    write_stablehlo,
)
from foretrain.tangent import InfiniteWidthOperator


@dataclass(frozen=True)
class Compress:
    """Shrink a run's closed-form operator to a small ONNX file within a budget.

    The file carries a band around its answers and a score that flags unusual inputs, as far as the budget has room.
    Half of the test functions choose the file, the other half calibrate the band.

    Example: foretrain compress runs/demo --max-error 2% --max-bytes 200kB --max-latency 1ms
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    max_error: ShareOrNone = 0.02
    """Mean relative L2 error: 2% or 0.02."""
    max_numbers: int | None = None
    """Numbers in the file."""
    max_bytes: SizeOrNone = None
    """Size of the file: 200kB, 1MiB or a number of bytes."""
    max_latency: DurationOrNone = None
    """Of one sample on one core: 1ms, 500us or seconds."""
    out: Path | None = None
    """File to write (default: RUN/model.onnx)."""
    numpy: Path | None = None
    """Also write a predictor that needs only NumPy, one .py file."""
    stablehlo: Path | None = None
    """Also write the chosen network, in float32, as StableHLO for jax.export and XLA; outside the budget."""
    all_formats: bool = False
    """Also write the same network in every number format beside it, for foretrain bench to compare."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        require_file(self.out)
        require_file(self.numpy)
        require_file(self.stablehlo)
        budget = Budget(self.max_error, self.max_numbers, self.max_bytes, self.max_latency)
        source, settings = read_config(self.run / "config.toml")
        learn, test = load_split(source["path"], source.get("test"), source.get("key", 0))
        judge, calibration = set_aside(test, settings.key)
        teacher = InfiniteWidthOperator(key=settings.key, progress=display).fit(learn)
        small = compress(teacher, budget, package=OnnxPackager(), test=judge, key=settings.key, progress=display)
        small, trust = trust_in_chosen(small, learn.inputs, calibration)
        show_compressed(display, small)
        files = self._write(small)
        write_json(self.run / "compression.json", {**small.as_dict(), "trust": trust})
        display.line(trust)
        for name, file in files.items():
            display.line(f"{name}: {file}")
        display.result({**small.as_dict(), "trust": trust, **{name: str(file) for name, file in files.items()}})

    def _write(self, small: CompressedModel) -> dict[str, Path]:
        files = {"model": small.export(self.out or self.run / "model.onnx")}
        if small.chosen is None or small.chosen.package is None:
            raise ForetrainError("nothing keeps the budget, so there is no model to write; relax a limit")
        if self.numpy is not None:
            files["numpy"] = write_numpy_predictor(small.chosen.package.file, self.numpy)
        if self.stablehlo is not None:
            files["stablehlo"] = write_stablehlo(small, self.stablehlo)
        if self.all_formats:
            for number_format, file in write_formats(small, files["model"]).items():
                files[f"model in {number_format}"] = file
        return files
