"""foretrain predict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from foretrain._foundation import DataError, write_atomically
from foretrain.cli._checks import require_file
from foretrain.cli._display import Display
from foretrain.data import read_npz
from foretrain.deployment import Runtime


@dataclass(frozen=True)
class Predict:
    """Answer input functions with a shipped model; physical units in, physical units out.

    Example: foretrain predict runs/demo/model.onnx inputs.npz --out answers.npz
    """

    model: Annotated[Path, tyro.conf.Positional]
    """ONNX file made by foretrain."""
    inputs: Annotated[Path, tyro.conf.Positional]
    """npz file with the key inputs [functions, sensors]."""
    out: Path = Path("predictions.npz")
    """File to write, with the key outputs [functions, points]."""
    json: bool = False
    """Print a summary as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_file(self.out)
        arrays = read_npz(self.inputs)
        if "inputs" not in arrays:
            raise DataError(f"{self.inputs}: expected the key 'inputs', came {', '.join(sorted(arrays)) or 'no keys'}")
        inputs = np.asarray(arrays["inputs"])
        if len(inputs.shape) < 2 or len(inputs) == 0:
            raise DataError(
                f"{self.inputs}: expected one row for each function, [functions, sensors], came an array of shape "
                f"{inputs.shape}"
            )
        outputs = Runtime(self.model).predict(inputs.reshape(len(inputs), -1))
        path = write_atomically(self.out, lambda file: np.savez_compressed(file, outputs=outputs))
        display.line(f"{len(outputs)} functions answered: {path}")
        display.result({"functions": len(outputs), "points": outputs.shape[1], "outputs": str(path)})
