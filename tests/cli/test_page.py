"""foretrain page; what is in the page, tests/report covers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.models import ComponentOperator

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def run(folder):
    """A run folder with data and a model drawn at random."""
    from foretrain.deployment import OnnxPackager, write_model

    values = np.random.default_rng(0).standard_normal((60, 12))
    points = np.arange(12) / 12
    data = OperatorDataset(values, np.cumsum(values, axis=1), points, points, "sums")
    data.save("data.npz")
    Path("run").mkdir()
    Path("run/config.toml").write_text('[data]\npath = "data.npz"\ntest = 20\nkey = 0\n')
    network = ComponentOperator(8, 4, 4).initialise(data, jax.random.key(0))
    return write_model(OnnxPackager(latency_repeats=3)(network, "float32", data.inputs), "run/model.onnx")


def test_the_page_lies_in_the_run_folder_and_says_what_it_loads(call, run):
    output = call("page run").output
    assert "page: run/model.html" in output
    assert "loads its runtime from https://cdn.jsdelivr.net/npm/onnxruntime-web@" in output
    assert "<h1>sums</h1>" in Path("run/model.html").read_text()
    summary = json.loads(call("page run --model run/model.onnx --out other/page.html --json").output)
    assert summary["page"] == "other/page.html"
    assert Path("other/page.html").read_bytes() == Path("run/model.html").read_bytes()


def test_a_runtime_folder_goes_into_the_page(call, run):
    Path("fetched").mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        Path("fetched", name).write_bytes(b"anything")
    assert "works without any network" in call("page run --runtime fetched").output
    assert json.loads(call("page run --runtime fetched --json").output)["runtime_address"] is None


def test_what_is_missing_is_named_in_one_line(refused, said, run):
    said(refused("page nothing"), "nothing/config.toml: expected a run's config.toml")
    said(refused("page run --runtime run"), "run: expected a folder with ort.wasm.bundle.min.mjs and")
    said(refused("page run --model gone.onnx"), "gone.onnx: expected a model file, came none")
    said(refused("page run --out run"), "run: expected a file to write, came a folder")
