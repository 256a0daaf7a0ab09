"""The page on which a shipped model runs: drag its input, see its answer; the very ONNX file, in the browser."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, require_extra, write_atomically
from foretrain.data import OperatorDataset, relative_errors
from foretrain.deployment import ConformalBand, OutOfRange, Runtime
from foretrain.report._browser_runtime import ADDRESS, BrowserRuntime, browser_runtime
from foretrain.report._format import percent
from foretrain.report._model_panels import encoded, input_panel, output_panel
from foretrain.report._page import _filters, _script_json

_HERE = Path(__file__).parent
_STYLES = ("page.css", "model_page.css")
_SCRIPTS = ("model_engine.js", "model_drawing.js", "model_page.js")
# Ranks among the test functions by the model's error; the first is where the page starts.
_PRESETS = (("Typical", 0.5), ("Easiest", 0.0), ("Hardest", 1.0), ("Another", 0.25))
_FAR = 3


@dataclass(frozen=True)
class ModelPage:
    """A page that was written.

    Attributes:
        path: where it is.
        address: from where it loads the runtime when it is opened; "" for a page that stands alone.
    """

    path: Path
    address: str


def model_page(
    model: str | Path,
    functions: OperatorDataset,
    path: str | Path,
    runtime: str | Path | None = None,
    title: str | None = None,
) -> ModelPage:
    """Writes one HTML page that runs a model file in the browser, on inputs that the reader draws.

    Inputs on a line are dragged with a smooth bump, inputs on a plane painted with a brush. The answer comes with the
    conformal band and the out-of-range score as far as the file carries them, and with the time it took.

    Arguments:
        model: an ONNX file that foretrain exported; it goes into the page as it is.
        functions: to start from, with their true answers: test functions, of which four are kept, by the model's error.
        path: file to write; whole or absent.
        runtime: folder with onnxruntime-web, as `make browser-runtime` or `npm pack` fetch it. The page then loads
            nothing from any network. Without one it loads the pinned version from a public address when it is opened.
        title: by default the name of the data.

    Raises:
        ForetrainError: a model for other points, points that are neither on a line nor a grid on a plane, a folder
            without the runtime.
        MissingExtraError: jinja2 or onnxruntime is not installed.
    """
    jinja2 = require_extra("jinja2", "report")
    markup = require_extra("markupsafe", "report").Markup
    loaded = Runtime(model)
    _require_fitting(loaded, functions, str(model))
    content, browser = Path(model).read_bytes(), browser_runtime(runtime)
    panels = {"input": input_panel(functions), "output": output_panel(functions)}
    presets = _presets(loaded, functions)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters.update(_filters(markup, jinja2.Undefined))
    page = templates.get_template("model_page.html.jinja").render(
        title=title or functions.name,
        equation=functions.description.get("equation"),
        size=len(content),
        number_format=loaded.metadata.get("number_format"),
        panels=panels,
        presets=presets,
        band=loaded.band,
        score=loaded.out_of_range,
        address=None if browser.inside else ADDRESS,
        origin="/".join(ADDRESS.split("/")[:3]),
        version=browser.version,
        inside={part: markup(text) for part, text in browser.inside.items()},
        model=markup(base64.b64encode(content).decode()),
        data=markup(_script_json(_data(loaded, panels, presets, browser))),
        style=markup("\n".join((_HERE / name).read_text(encoding="utf-8") for name in _STYLES)),
        script=markup("\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)),
    )
    target = write_atomically(path, lambda file: file.write(page.encode()))
    return ModelPage(target, "" if browser.inside else ADDRESS)


def _require_fitting(loaded: Runtime, functions: OperatorDataset, source: str) -> None:
    if loaded.query_grid is not None:
        raise ForetrainError(
            f"{source}: expected a model with fixed query points, came one with query points as an input; compress "
            "again without --query-points input"
        )
    sensors, points = functions.inputs.shape[1], functions.outputs.shape[1]
    if (loaded.sensors, loaded.points) != (sensors, points):
        raise ForetrainError(
            f"{source}: expected a model from {sensors} sensors to {points} points, as in the data, came one from "
            f"{loaded.sensors} to {loaded.points}; give the run that it came from"
        )


def _presets(loaded: Runtime, functions: OperatorDataset) -> list[dict[str, Any]]:
    """Test functions by rank of the model's error, and the first of them so large that its answer is a guess."""
    errors = relative_errors(loaded.predict(functions.inputs), functions.outputs)
    order = np.argsort(errors, kind="stable")
    rows: dict[int, str] = {}
    for name, share in _PRESETS:
        rows.setdefault(int(order[round(share * (len(order) - 1))]), name)
    presets: list[dict[str, Any]] = [
        {
            "name": name,
            "note": f"a test function; the model is {percent(float(errors[row]))} from its true answer",
            "inputs": encoded(functions.inputs[row]),
            "truth": encoded(functions.outputs[row]),
        }
        for row, name in rows.items()
    ]
    first = functions.inputs[next(iter(rows))]
    centre = float(np.mean(functions.inputs))
    far = {
        "name": f"{_FAR} times as large",
        "note": f"the first one, {_FAR} times as far from the mean: nobody knows the true answer",
        "inputs": encoded(centre + _FAR * (first - centre)),
        "truth": None,
    }
    return [*presets, far]


def _data(
    loaded: Runtime, panels: dict[str, Any], presets: list[dict[str, Any]], browser: BrowserRuntime
) -> dict[str, Any]:
    first = np.frombuffer(base64.b64decode(presets[0]["inputs"]), "<f4")[None]
    expected: dict[str, Any] = {"outputs": encoded(loaded.predict(first))}
    if loaded.out_of_range is not None:
        expected["score"] = float(loaded.out_of_range.score(first)[0])
    return {
        "input": panels["input"],
        "output": panels["output"],
        "presets": presets,
        "expected": expected,
        "band": _band(loaded.band),
        "score": _score(loaded.out_of_range),
        "runtime": browser.where,
    }


def _band(band: ConformalBand | None) -> dict[str, Any] | None:
    if band is None:
        return None
    return {
        "coverage": band.coverage,
        "point": encoded(band.half_width),
        "whole": encoded(band.simultaneous_half_width),
    }


def _score(score: OutOfRange | None) -> dict[str, Any] | None:
    """Every number of it is single or half precision already, but for three that are written out."""
    if score is None:
        return None
    return {
        "mean": encoded(score.mean),
        "directions": encoded(score.directions.T),
        "deviations": encoded(score.deviations),
        "residual_deviation": score.residual_deviation,
        "centre": encoded(score.centre),
        "spread": encoded(score.spread),
        "threshold": score.threshold,
    }
