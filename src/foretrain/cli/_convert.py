"""foretrain convert."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from foretrain._foundation import ForetrainError
from foretrain.cli._checks import require_file
from foretrain.cli._display import Display, size
from foretrain.cli._layout_flags import LayoutFlags
from foretrain.data import check_suffix, load, save_dataset


@dataclass(frozen=True)
class Convert:
    """Write a file's functions, or a part of them, in another format, as every other command reads them without flags.

    Reads npz, MATLAB, HDF5 (PDEBench, The Well), Zarr, NetCDF, torch and CSV files; the ending of --out says which of
    them to write. Axes, times, channels and keys that the file does not tell by itself are flags.

    Example: foretrain convert darcy.mat --inputs coeff --outputs sol --points 4 --out darcy.npz
    """

    data: Annotated[Path, tyro.conf.Positional]
    """The file; the folder of a Zarr store."""
    out: Path | None = None
    """The file to write: .npz, .h5, .mat, .nc, .zarr, .pt or .csv."""
    json: bool = False
    """Print as JSON."""
    where: LayoutFlags = field(default_factory=LayoutFlags)

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        if self.out is None:
            raise ForetrainError("convert: expected a file to write, --out FILE, came none")
        require_file(self.out)
        check_suffix(self.out)
        if self.out.resolve() == self.data.resolve():
            raise ForetrainError(f"{self.out}: expected another file than the one read, came the same; choose another")
        data = load(self.data, self.where.layout(self.data), self.where.chosen_functions(), self.where.steps(), display)
        written = save_dataset(data, self.out)
        facts = {
            "functions": len(data),
            "sensors": data.inputs.shape[1],
            "query points": data.outputs.shape[1],
            "file": str(written),
            "fingerprint": data.fingerprint,
        }
        taken = size(written.stat().st_size) if written.is_file() else "a folder"
        display.line(
            f"{len(data)} functions, {data.inputs.shape[1]} sensors, {data.outputs.shape[1]} query points: {written} "
            f"({taken})"
        )
        display.result(facts)
