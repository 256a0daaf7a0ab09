"""The page on which a model runs: what is inside it, and in a real browser what it answers, before and after a drag."""

import base64
import gzip
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import Page

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, relative_errors
from foretrain.models import ComponentOperator
from foretrain.problems import antiderivative, burgers
from foretrain.report import model_page
from foretrain.report._browser_runtime import ADDRESS, FILES, VERSION

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RUNTIME = Path(__file__).parents[2] / ".browser-runtime"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None or not RUNTIME.is_dir(),
    reason="needs Chromium on the path and the folder that `make browser-runtime` fetches",
)
KINDS = ("circle", "interval", "plane", "two materials", "line to plane")


@dataclass(frozen=True)
class Shipped:
    """A model file and the functions that its page starts from."""

    model: Path
    functions: OperatorDataset


def plane(levels: bool = False) -> OperatorDataset:
    """Smoothed noise on 7 x 9 points of a box, or its sign, and what a fixed smoothing makes of it."""
    axes = np.meshgrid(np.linspace(0, 1.5, 7), np.linspace(-1, 1, 9), indexing="ij")
    points = np.stack(axes, -1).reshape(-1, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    noise = np.random.default_rng(0).standard_normal((160, 63))
    smooth = noise @ np.exp(-((distance / 0.4) ** 2))
    inputs = np.where(smooth > 0, 12.0, 3.0) if levels else smooth
    return OperatorDataset(inputs, inputs @ np.exp(-((distance / 0.7) ** 2)), points, points, "a plane")


def functions_of(kind: str) -> OperatorDataset:
    if kind == "circle":
        return burgers(samples=160, resolution=32, viscosity=0.05, time_steps=50)
    if kind == "interval":
        return antiderivative(samples=160, resolution=20)
    if kind == "line to plane":
        data = plane()
        inputs = np.random.default_rng(1).standard_normal((160, 12)).cumsum(axis=1)
        places = np.random.default_rng(2).permutation(12) / 5.0
        return replace(data, inputs=inputs, sensor_points=places[:, None])
    return plane(kind == "two materials")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shipped]:
    """Exports a small network with a fitted outer layer, a band and a score, once for each kind of data."""
    from foretrain.deployment import OnnxPackager, calibrated, write_model

    made: dict[str, Shipped] = {}

    def export(kind: str) -> Shipped:
        if kind not in made:
            learn, test = functions_of(kind).split(40, 0)
            network = ComponentOperator(24, 8, 6).initialise(learn, jax.random.key(0))
            hidden = np.asarray(network.hidden(network.features(learn.inputs)), np.float64)
            wanted = (learn.outputs - np.asarray(network.output_mean)) @ np.asarray(network.output_basis)
            gram = hidden.T @ hidden
            outer = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), hidden.T @ wanted)
            network = eqx.tree_at(lambda net: net.outer, network, jnp.asarray(outer, jnp.float32))
            package = OnnxPackager(latency_repeats=3)(network, "float16", learn.inputs)
            package = calibrated(package, learn.inputs, test.inputs, test.outputs, quantile=0.95)
            path = tmp_path_factory.mktemp("shipped") / "model.onnx"
            made[kind] = Shipped(write_model(package, path), test)
        return made[kind]

    return export


def data_in(page: Page) -> dict[str, Any]:
    (script,) = [element for element in page.all("script") if element.get("id") == "data"]
    return json.loads(script["text"])


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `npm pack` leaves it, with other bytes for the runtime."""
    place = tmp_path / "fetched" / "package" / "dist"
    place.mkdir(parents=True)
    for name in FILES.values():
        (place / name).write_bytes(f"this stands for {name} </script>".encode())
    (place.parent / "package.json").write_text('{"name": "onnxruntime-web", "version": "9.8.7"}')
    return tmp_path / "fetched"


def test_the_page_holds_the_very_file_and_starts_from_functions_of_known_rank(
    shipped: Callable[[str], Shipped], tmp_path: Path
) -> None:
    from foretrain.deployment import Runtime

    one = shipped("circle")
    page = Page(model_page(one.model, one.functions, tmp_path / "page.html").path)
    (model,) = [element["text"] for element in page.all("script") if element.get("id") == "model"]
    assert base64.b64decode(model) == one.model.read_bytes()
    runtime, data = Runtime(one.model), data_in(page)
    errors = np.sort(relative_errors(runtime.predict(one.functions.inputs), one.functions.outputs))
    ranks = []
    for preset in data["presets"][:-1]:
        inputs, truth = floats(preset["inputs"])[None], floats(preset["truth"])[None]
        (error,) = relative_errors(runtime.predict(inputs), truth)
        ranks.append(int(np.argmin(np.abs(errors - error))))
        assert f"{100 * error:.2g}" in preset["note"]
    assert ranks == [20, 0, 39, 10]
    far = data["presets"][-1]
    assert far["truth"] is None
    assert runtime.out_of_range.flags(floats(far["inputs"])[None])[0]
    first = floats(data["presets"][0]["inputs"])[None]
    np.testing.assert_allclose(floats(data["expected"]["outputs"]), runtime.predict(first)[0], rtol=1e-7)
    assert data["expected"]["score"] == runtime.out_of_range.score(first)[0]
    np.testing.assert_array_equal(floats(data["band"]["point"]), np.float32(runtime.band.half_width))


@pytest.mark.parametrize("kind", KINDS)
def test_panels_and_brush_follow_the_data(kind: str, shipped: Callable[[str], Shipped], tmp_path: Path) -> None:
    one = shipped(kind)
    data = data_in(Page(model_page(one.model, one.functions, tmp_path / "page.html").path))
    panel = data["input"]
    assert (panel["kind"], data["output"]["kind"]) == {
        "circle": ("line", "line"),
        "interval": ("line", "line"),
        "line to plane": ("line", "map"),
    }.get(kind, ("map", "map"))
    assert panel["periodic"] == (kind == "circle")
    assert panel["levels"] == ([3.0, 12.0] if kind == "two materials" else None)
    if kind == "plane":
        assert panel["shape"] == [7, 9]
        assert (panel["low"], panel["high"]) == ([0.0, -1.0], [1.5, 1.0])


def test_a_bump_is_as_wide_as_the_functions_vary(tmp_path: Path) -> None:
    from foretrain.report._model_panels import input_panel

    places = np.arange(400) / 400
    phases = np.random.default_rng(0).uniform(0, 1, 50)
    for waves in (2, 5):
        values = np.sin(2 * np.pi * waves * (places + phases[:, None]))
        panel = input_panel(OperatorDataset(values, values, places, places))
        # sqrt(E u^2 / E |u'|^2) of a sine
        assert panel["brush"] == pytest.approx(1 / (2 * np.pi * waves), rel=0.01)
        assert panel["fixed_mean"]
        assert not input_panel(OperatorDataset(values + phases[:, None], values, places, places))["fixed_mean"]


def test_with_a_runtime_the_page_stands_alone(shipped: Callable[[str], Shipped], folder: Path, tmp_path: Path) -> None:
    one = shipped("circle")
    written = model_page(one.model, one.functions, tmp_path / "page.html", folder)
    assert written.address == ""
    page = Page(written.path)
    for part, name in FILES.items():
        (script,) = [element["text"] for element in page.all("script") if element.get("id") == f"runtime-{part}"]
        assert gzip.decompress(base64.b64decode(script)).decode() == f"this stands for {name} </script>"
    assert data_in(page)["runtime"] == {}
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy
    assert "://" not in page.source.replace("http://www.w3.org/2000/svg", "")
    assert "ONNX Runtime Web 9.8.7" in page.text
    again = model_page(one.model, one.functions, tmp_path / "again.html", folder / "package")
    assert again.path.read_bytes() == written.path.read_bytes()


def test_without_one_it_loads_a_pinned_version_and_checks_it(shipped: Callable[[str], Shipped], tmp_path: Path) -> None:
    one = shipped("circle")
    written = model_page(one.model, one.functions, tmp_path / "page.html")
    assert written.address == ADDRESS
    assert VERSION in ADDRESS
    page = Page(written.path)
    parts = data_in(page)["runtime"]
    assert {part["address"] for part in parts.values()} == {ADDRESS + name for name in FILES.values()}
    assert all(re.fullmatch(r"sha384-[A-Za-z0-9+/]{64}", part["integrity"]) for part in parts.values())
    assert ADDRESS in page.text
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.endswith("connect-src https://cdn.jsdelivr.net")


@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs the folder that `make browser-runtime` fetches")
def test_the_fetched_runtime_is_the_pinned_one() -> None:
    import hashlib

    from foretrain.report._browser_runtime import INTEGRITY, browser_runtime

    assert browser_runtime(RUNTIME).version == VERSION
    for part, name in FILES.items():
        digest = hashlib.sha384((RUNTIME / "dist" / name).read_bytes()).digest()
        assert INTEGRITY[part] == f"sha384-{base64.b64encode(digest).decode()}"


def test_hostile_names_stay_text_and_controls_have_names(shipped: Callable[[str], Shipped], tmp_path: Path) -> None:
    hostile = "\"'><script>alert(1)</script>"
    one = shipped("plane")
    data = replace(one.functions, name=hostile, description={"equation": hostile})
    page = Page(model_page(one.model, data, tmp_path / "page.html").path)
    assert page.all("h1")[0]["text"] == hostile
    assert len(page.all("script")) == 3
    assert not [key for element in page.elements for key in element if key.startswith("on")]
    assert all(button["text"].strip() and button.get("type") == "button" for button in page.all("button"))
    surfaces = [element for element in page.elements if (element.get("id") or "").endswith("-surface")]
    assert [surface.get("tabindex") for surface in surfaces] == ["0", None]
    assert all(surface["aria-label"] for surface in surfaces)


def test_what_cannot_become_a_page_is_refused_in_one_line(
    shipped: Callable[[str], Shipped], folder: Path, tmp_path: Path
) -> None:
    one, other = shipped("circle"), shipped("plane")
    scattered = replace(other.functions, sensor_points=np.random.default_rng(0).uniform(size=(63, 2)))
    solid = replace(other.functions, query_points=np.random.default_rng(0).uniform(size=(63, 3)))
    cases = [
        (one.model, other.functions, None, "expected a model from 63 sensors to 63 points, as in the data, came one"),
        (other.model, scattered, None, "expected inputs at points of a line, or of a regular grid on a plane, came 63"),
        (other.model, solid, None, "expected outputs at points of a line, .* came 63 points in 3 dimensions"),
        (one.model, one.functions, tmp_path, "expected a folder with ort.wasm.bundle.min.mjs and .*browser-runtime"),
        (tmp_path / "gone.onnx", one.functions, None, "gone.onnx: expected a model file, came none"),
    ]
    for model, functions, runtime, message in cases:
        with pytest.raises(ForetrainError, match=message) as caught:
            model_page(model, functions, tmp_path / "page.html", runtime)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


# ---- in a browser

DRAG = """<script>
const surface = document.getElementById("input-surface");
const root = document.documentElement.dataset;
document.addEventListener("answer", ({ detail }) => { root.answer = JSON.stringify(detail); });
const pause = () => new Promise((done) => setTimeout(done, 30));
(async () => {
  while (root.model !== "ready") await pause();
  const box = surface.getBoundingClientRect();
  const pointer = (kind, x, y) => surface.dispatchEvent(new PointerEvent(kind, {
    bubbles: true, pointerId: 1, clientX: box.left + x * box.width, clientY: box.top + y * box.height,
  }));
  pointer("pointerdown", 0.5, 0.6);
  for (let step = 0; step <= 5; step += 1) {
    await pause();
    pointer("pointermove", 0.5 + 0.02 * step, 0.6 - 0.05 * step);
  }
  pointer("pointerup", 0.6, 0.35);
  await pause();
  root.dragged = document.getElementById("preset-note").textContent;
})();
</script>"""


def opened(page: Path, profile: Path, query: str = "") -> dict[str, str]:
    """What the page wrote into the root element's data attributes, in Chromium without any network."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--window-size=1200,900"]
    flags += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, page.as_uri() + query], capture_output=True, text=True, timeout=120)
    (root,) = re.findall(r"<html[^>]*>", done.stdout)[:1] or [done.stderr]
    return {name: html.unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', root)}


@needs_browser
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "interval"])
def test_in_a_browser_the_answers_are_those_of_onnx_runtime(
    kind: str, shipped: Callable[[str], Shipped], tmp_path: Path
) -> None:
    from foretrain.deployment import Runtime

    one = shipped(kind)
    path = model_page(one.model, one.functions, tmp_path / "page.html", RUNTIME).path
    path.write_text(path.read_text().replace("</body>", DRAG + "</body>"))
    told = opened(path, tmp_path / "profile", "?selftest")
    assert told.get("model") == "ready", told
    test = json.loads(told["selftest"])
    assert test["difference"] < 1e-5
    assert test["score"] < 1e-9
    # After the drag: another function, changed where it was dragged, and the model's own answer to it.
    assert "your own function" in told["dragged"]
    answer = json.loads(told["answer"])
    inputs, outputs = np.array(answer["inputs"])[None], np.array(answer["outputs"])
    own = Runtime(one.model).predict(inputs)[0]
    assert np.max(np.abs(outputs - own)) < 1e-5 * np.max(np.abs(own))
    panel = data_in(Page(path))["input"]
    changed = np.abs(inputs[0] - floats(data_in(Page(path))["presets"][0]["inputs"]))
    assert np.max(changed) > 0.01 * panel["spread"]
    if panel["kind"] == "line":
        places = floats(panel["points"])
        share = (places[np.argmax(changed)] - places.min()) / np.ptp(places)
        assert share == pytest.approx(0.58, abs=0.12)


@needs_browser
def test_a_runtime_that_cannot_be_reached_is_told(shipped: Callable[[str], Shipped], tmp_path: Path) -> None:
    one = shipped("circle")
    told = opened(model_page(one.model, one.functions, tmp_path / "page.html").path, tmp_path / "profile")
    assert told["model"] == "failed"
