import json
from pathlib import Path

import numpy as np
import pytest

from foretrain.models import ComponentOperator

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def files(small_plane):
    """Number format -> content of the file, one small network."""
    import jax

    from foretrain.deployment import OnnxPackager

    network = ComponentOperator(8, 6, 5).initialise(small_plane, jax.random.key(0))
    export = OnnxPackager(latency_repeats=3)
    return {name: export(network, name, small_plane.inputs).file for name in ("float32", "float16")}


@pytest.fixture
def model(folder, files):
    Path("model.onnx").write_bytes(files["float32"])
    return "model.onnx"


def test_percentiles_are_ordered_and_throughput_follows_for_each_batch_size(call, model, files):
    outcome = call(f"bench {model} --seconds 0.01 --batches 1 32 100 --json")
    rows = json.loads(outcome.output)["rows"]
    assert [row["batch"] for row in rows] == [1, 32, 100]
    for row in rows:
        times = [row[f"{name}_seconds"] for name in ("tenth", "median", "ninetieth", "ninety_ninth")]
        assert times[0] > 0
        assert times == sorted(times)
        assert row["throughput"] == pytest.approx(row["batch"] / row["median_seconds"])
        assert (row["name"], row["number_format"], row["bytes"]) == ("model.onnx", "float32", len(files["float32"]))
        assert row["repeats"] >= 100
    # One function of a hundred costs less in a batch than alone: calls have overhead.
    assert rows[2]["throughput"] > rows[0]["throughput"]


def test_other_number_formats_beside_the_model_are_timed(call, model, files):
    Path("model.float16.onnx").write_bytes(files["float16"])
    Path("another.float32.onnx").write_bytes(b"not looked at")
    Path("model.float32.onnx").write_bytes(b"the format of the model itself: not looked at")
    output = call(f"bench {model} --seconds 0.01 --batches 1").output
    table = [line.split()[0] for line in output.splitlines() if line.startswith("float")]
    assert table == ["float32", "float16"]
    for word in ("model.onnx, 1 thread", "99th", "functions/s", "timing"):
        assert word in output


def test_what_cannot_be_timed_is_refused(refused, said, model):
    said(refused(f"bench {model} --batches 0"), "batches of at least 1 function")
    said(refused(f"bench {model} --seconds 0"), "expected .*seconds")
    said(refused(f"bench {model} --threads 0"), "at least 1 thread")
    said(refused("bench nothing.onnx"), "nothing.onnx: expected a model file")
    Path("model.float16.onnx").write_bytes(np.random.default_rng(0).bytes(100))
    said(refused(f"bench {model}"), "model.float16.onnx: expected an ONNX model")
