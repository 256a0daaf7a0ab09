"""foretrain inspect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from foretrain.cli._display import Display, percent
from foretrain.cli._hardness import baselines
from foretrain.cli._layout_flags import LayoutFlags
from foretrain.cli._sketch import bars, sketch
from foretrain.data import (
    PowerSpectrum,
    choose_embedding,
    periodic_grid_shape,
    power_spectrum,
    regular_grid_shape,
    survey,
)
from foretrain.report import check_picture, data_picture
from foretrain.tangent import ParallelPair, nearest_to_parallel

MOST_ARRAYS = 12


@dataclass(frozen=True)
class Inspect:
    """What a data file holds, and how hard it looks: arrays, axes, ranges, grids, spectra, the functions nearest to
    parallel, the errors of models that need no training.

    Reads npz, MATLAB, HDF5 (PDEBench, The Well), Zarr, NetCDF, torch and CSV files.

    Example: foretrain inspect data.npz
    """

    data: Annotated[Path, tyro.conf.Positional]
    """The file; the folder of a Zarr store."""
    plot: Path | None = None
    """Draw the first functions into this file (.svg or .html)."""
    json: bool = False
    """Print as JSON."""
    where: LayoutFlags = field(default_factory=LayoutFlags)

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        layout = self.where.layout(self.data)
        if self.plot is not None:
            check_picture(self.plot)
        found = survey(self.data, layout, self.where.chosen_functions(), self.where.steps(), display)
        data = found.data
        sensors, queries = regular_grid_shape(data.sensor_points), regular_grid_shape(data.query_points)
        periodic = periodic_grid_shape(data) is not None
        embedding, errors = choose_embedding(data), baselines(data)
        spectra = [
            power_spectrum(values, shape, periodic) if shape is not None else None
            for values, shape in ((data.inputs, sensors), (data.outputs, queries))
        ]
        facts = {
            "name": data.name,
            "file": found.kind,
            "arrays": found.arrays,
            "read as inputs": found.inputs,
            "read as outputs": found.outputs,
            "functions": found.functions,
            "functions read": len(data),
            "sensors": data.inputs.shape[1],
            "query points": data.outputs.shape[1],
            "sensor grid": sensors,
            "query grid": queries,
            "periodic": periodic,
            "sensor places": _places(data.sensor_points),
            "query places": _places(data.query_points),
            "input range": (float(data.inputs.min()), float(data.inputs.max())),
            "output range": (float(data.outputs.min()), float(data.outputs.max())),
            "input components for 99.9 %": _components(data.inputs),
            "output components for 99.9 %": _components(data.outputs),
            "input spectrum": spectra[0],
            "output spectrum": spectra[1],
            "inputs nearest to parallel": _pair(nearest_to_parallel(embedding.inputs(data.inputs))),
            "points nearest to parallel": _pair(nearest_to_parallel(embedding.points(data.query_points))),
            "error of predicting the mean": errors.mean,
            "error of a linear model": errors.linear,
            "error of a kernel model": errors.kernel,
            "looks": errors.looks,
            "hardness": errors.hardness,
            "fingerprint": data.fingerprint,
        }
        rows = [(name, _text(name, value)) for name, value in facts.items()]
        drawn = [("first input", sketch(data.inputs[0], sensors)), ("first output", sketch(data.outputs[0], queries))]
        display.table(("what", "value"), rows + [row for row in drawn if row[1]])
        if self.plot is not None:
            display.line(f"picture: {data_picture(data, self.plot)}")
        display.result({name: _plain(value) for name, value in facts.items()})


def _components(values: np.ndarray) -> int:
    power = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(power) / power.sum(), 0.999) + 1)


def _places(points: np.ndarray) -> list[tuple[float, float]]:
    """The range of each coordinate."""
    return [(float(low), float(high)) for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True)]


def _pair(pair: ParallelPair | None) -> str:
    """The convergence theorem asks that no two embedded functions, or points, are parallel."""
    return "-" if pair is None else f"rows {pair.first} and {pair.second}, {pair.degrees:.3g} degrees apart"


def _plain(value: object) -> object:
    if isinstance(value, PowerSpectrum):
        return {"wavenumbers": value.wavenumbers, "power": value.power, "decay": value.decay}
    return value


def _text(name: str, value: object) -> str:
    if isinstance(value, float):
        return percent(value)
    if isinstance(value, PowerSpectrum):
        levels = [np.log10(max(power, 1e-12)) for power in value.power]
        falls = "" if value.decay is None else f", power like k^{-value.decay:.1f}"
        return f"{bars(levels)} in {len(levels)} octaves{falls}" if len(levels) > 1 else "too few points"
    if isinstance(value, Mapping):
        lines = [f"{key} {shape}" for key, shape in value.items()]
        return "\n".join(lines[:MOST_ARRAYS] + [f"and {len(lines) - MOST_ARRAYS} more"] * (len(lines) > MOST_ARRAYS))
    if isinstance(value, list):
        return ", ".join(f"{low:.4g} to {high:.4g}" for low, high in value)
    if isinstance(value, tuple) and name.endswith("range"):
        return f"{value[0]:.4g} to {value[1]:.4g}"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return str(value)
