"""foretrain page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from foretrain.cli._checks import require_file
from foretrain.cli._display import Display, size
from foretrain.cli._run import read_config
from foretrain.data import load_split
from foretrain.report import model_page


@dataclass(frozen=True)
class PageCommand:
    """Make a web page that runs a run's shipped model: drag the input, see the answer, its band and its score.

    One HTML file with the model inside. With --runtime it works without any network; `make browser-runtime` fetches
    that folder. Without, the page loads ONNX Runtime Web from a public address when it is opened.

    Example: foretrain page runs/demo --runtime .browser-runtime
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; some of its test functions are what the page starts from."""
    model: Path | None = None
    """ONNX file (default: RUN/model.onnx)."""
    runtime: Path | None = None
    """Folder of the npm package onnxruntime-web, to put into the page."""
    out: Path | None = None
    """File to write (default: RUN/model.html)."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_file(self.out)
        source, _ = read_config(self.run / "config.toml")
        _, test = load_split(source["path"], source.get("test"), source.get("key", 0))
        model = self.model or self.run / "model.onnx"
        page = model_page(model, test, self.out or self.run / "model.html", self.runtime)
        needs = f"loads its runtime from {page.address} when opened" if page.address else "works without any network"
        display.line(f"page: {page.path} ({size(page.path.stat().st_size)}; {needs})")
        display.result({"page": str(page.path), "runtime_address": page.address or None})
