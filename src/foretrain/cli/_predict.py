"""foretrain predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from foretrain._foundation import ForetrainError, write_atomically
from foretrain.cli._checks import require_file
from foretrain.cli._display import Display
from foretrain.cli._user_functions import functions_in, points_in
from foretrain.deployment import Runtime


@dataclass(frozen=True)
class Predict:
    """Answer input functions with a shipped model; physical units in, physical units out.

    Where the file carries them, the answers come with the edges of a band that covers the truth with a stated
    probability, and each input with a score that says how unlike the training inputs it is.

    Example: foretrain predict runs/demo/model.onnx inputs.npz --out answers.npz
    """

    model: Annotated[Path, tyro.conf.Positional]
    """ONNX file made by foretrain."""
    inputs: Annotated[Path, tyro.conf.Positional]
    """npz file with the key inputs [functions, sensors]."""
    points: Path | None = None
    """npz file with the key points [points, dimension]: answer there, with a file made by --query-points input. The
    band is known at the training query points only and is left away."""
    out: Path = Path("predictions.npz")
    """File to write: outputs [functions, points], and lower, upper, score and outside where the file carries them."""
    simultaneous: bool = False
    """Also write lower_simultaneous and upper_simultaneous, edges that hold for whole functions at once."""
    json: bool = False
    """Print a summary as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_file(self.out)
        if self.points is not None and self.simultaneous:
            raise ForetrainError(
                "--simultaneous: expected without --points, for the band is known at the training query points only; "
                "leave one of them away"
            )
        runtime = Runtime(self.model)
        if self.simultaneous and runtime.band is None:
            raise ForetrainError(
                f"{self.model}: expected a file with a band for --simultaneous, came one without; compress again with "
                "test functions to calibrate it"
            )
        inputs = functions_in(self.inputs)
        points = None if self.points is None else points_in(self.points)
        outputs = runtime.predict(inputs, points)
        edges = self._edges(runtime, outputs) if points is None else {"points": points}
        arrays = {"outputs": outputs, **edges, **_scored(runtime, inputs)}
        path = write_atomically(self.out, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
        display.line(f"{len(outputs)} functions answered: {path}")
        display.line(_range_line(runtime, arrays))
        if "lower" in arrays and runtime.band is not None:
            display.line(
                f"lower and upper hold {100 * runtime.band.coverage:g} % of the truth at each point, for functions "
                f"like the {runtime.band.functions} that calibrated them"
            )
        display.result(_summary(runtime, arrays, path))

    def _edges(self, runtime: Runtime, outputs: np.ndarray) -> dict[str, np.ndarray]:
        if runtime.band is None:
            return {}
        edges = dict(zip(("lower", "upper"), runtime.band.around(outputs), strict=True))
        if self.simultaneous:
            names = ("lower_simultaneous", "upper_simultaneous")
            edges |= dict(zip(names, runtime.band.around(outputs, simultaneous=True), strict=True))
        return edges


def _scored(runtime: Runtime, inputs: np.ndarray) -> dict[str, np.ndarray]:
    if runtime.out_of_range is None:
        return {}
    score = runtime.out_of_range.score(inputs)
    return {"score": score, "outside": score > runtime.out_of_range.threshold}


def _range_line(runtime: Runtime, arrays: dict[str, np.ndarray]) -> str:
    if runtime.out_of_range is None:
        return (
            "this file carries no out-of-range score: nobody checked whether these inputs are like the training inputs"
        )
    count, total = int(arrays["outside"].sum()), len(arrays["outside"])
    expected = 100 * (1 - runtime.out_of_range.quantile)
    line = f"{count} of {total} inputs are outside the range of the training inputs"
    return f"{line} ({expected:.2g} % would be, were all like them)" + ("; do not rely on their answers" * (count > 0))


def _summary(runtime: Runtime, arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    outputs, band, score = arrays["outputs"], runtime.band, runtime.out_of_range
    summary: dict[str, Any] = {"functions": len(outputs), "points": outputs.shape[1], "outputs": str(path)}
    if band is not None and "lower" in arrays:
        summary["band"] = {"coverage": band.coverage, "calibration_functions": band.functions}
    if score is not None:
        rows = np.flatnonzero(arrays["outside"])
        summary["outside"] = {
            "functions": len(rows),
            "rows": rows,
            "threshold": score.threshold,
            "largest_score": float(arrays["score"].max()),
        }
    return summary
