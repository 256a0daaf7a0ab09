"""What foretrain compress writes beside the search itself, which tests/compression covers."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foretrain.compression import Budget, CompressedModel
from foretrain.compression._budget import Candidate
from foretrain.data import OperatorDataset

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


budgets: list[Budget] = []
asked: list[dict] = []


@pytest.fixture
def functions(folder):
    """Three hundred functions in a run folder, a third of them for testing."""
    values = np.random.default_rng(0).standard_normal((300, 16))
    points = np.arange(16) / 16
    data = OperatorDataset(values, np.tanh(np.cumsum(values, axis=1)), points, points)
    Path("run").mkdir()
    data.save("run/data.npz")
    Path("run/config.toml").write_text('[data]\npath = "run/data.npz"\ntest = 100\nkey = 0\n')
    return data


@pytest.fixture
def judged_by(monkeypatch):
    """Replaces the search by a network drawn at random; collects what candidates were judged by."""
    import jax

    from foretrain.models import ComponentOperator

    seen = []
    budgets.clear()
    asked.clear()

    class Teacher:
        def __init__(self, **settings):
            pass

        def fit(self, learn):
            return learn

    def search(teacher, budget, learn, *, package, test, **options):
        seen.append(test)
        budgets.append(budget)
        asked.append(options)
        network = ComponentOperator(8, 6, 5).initialise(learn, jax.random.key(0))
        rows = []
        for name in ("float32", "float16"):
            made = package(network, name, learn.inputs)
            rows.append(
                Candidate("small", name, made.numbers, made.bytes, 1e-6, 0.01, 0.0, "", package=made, network=network)
            )
        return CompressedModel(Budget(), (replace(rows[0], chosen=True), rows[1]), ())

    monkeypatch.setattr("foretrain.deployment._ship.compress", search)
    monkeypatch.setattr("foretrain.cli._compress.InfiniteWidthOperator", Teacher)
    return seen


def test_the_file_comes_with_trust_from_functions_that_did_not_choose_it(call, functions, judged_by):
    summary = json.loads(call("compress run --max-error 0.5 --json").output)
    from foretrain.deployment import Runtime

    runtime = Runtime("run/model.onnx")
    assert runtime.band.functions == len(judged_by[0]) == 50
    assert runtime.out_of_range.quantile == pytest.approx(75 / 76)
    assert "a 90 % band from 50 functions not learnt from" in summary["trust"]
    record = json.loads(Path("run/compression.json").read_text())
    assert record["rows"][0]["bytes"] == Path("run/model.onnx").stat().st_size
    assert record["trust"] == summary["trust"]
    # Calibrated by the other half of the test functions: none that judged.
    _, test = functions.split(100, 0)
    others = [row for row in range(100) if not np.any(np.all(test.inputs[row] == judged_by[0].inputs, axis=1))]
    assert len(others) == 50
    residuals = np.abs(runtime.predict(test.inputs[others]) - test.outputs[others])
    np.testing.assert_allclose(runtime.band.half_width, np.sort(residuals, axis=0)[45], rtol=1e-3)


def test_a_numpy_predictor_and_all_formats_are_written_on_request(call, functions, judged_by):
    output = call("compress run --max-error 0.5 --numpy small.py --all-formats").output
    assert {path.name for path in Path("run").glob("*.onnx")} == {
        "model.onnx",
        "model.float32.onnx",
        "model.float16.onnx",
    }
    for line in ("numpy: small.py", "model: run/model.onnx", "model in float16: run/model.float16.onnx"):
        assert line in output
    spec = importlib.util.spec_from_file_location("small", "small.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from foretrain.deployment import Runtime

    answers = Runtime("run/model.onnx").predict(functions.inputs)
    np.testing.assert_allclose(module.predict(functions.inputs), answers, atol=1e-6 * np.abs(answers).max())


def test_the_network_is_written_as_stablehlo_on_request(call, functions, judged_by):
    output = call("compress run --max-error 50% --stablehlo small/model.stablehlo").output
    assert "stablehlo: small/model.stablehlo" in output
    from foretrain.deployment import Runtime, read_stablehlo

    answers = Runtime("run/model.onnx").predict(functions.inputs)
    own = np.asarray(read_stablehlo("small/model.stablehlo")(functions.inputs))
    np.testing.assert_allclose(own, answers, atol=1e-5 * np.abs(answers).max())


def test_limits_with_units_arrive_as_plain_numbers(call, functions, judged_by):
    call("compress run --max-error 2% --max-bytes 200kB --max-latency 1ms")
    call("compress run --max-error 0.02 --max-bytes 200000 --max-latency 0.001")
    call("compress run --max-error None --max-bytes 1.5KiB --max-latency '20 us'")
    same = Budget(error=0.02, bytes=200_000, latency=0.001)
    assert budgets == [same, same, Budget(error=None, bytes=1536, latency=2e-5)]


def test_a_predictor_that_could_not_be_written_is_refused_before_the_search(refused, said, functions, judged_by):
    for flag in ("--numpy", "--stablehlo"):
        said(refused(f"compress run {flag} run"), "run: expected a file to write, came a folder")
    assert judged_by == []


def test_a_users_own_inputs_arrive_as_they_are(call, refused, said, functions, judged_by):
    given = np.random.default_rng(3).standard_normal((20, 4, 4))
    np.savez("inputs.npz", inputs=given)
    call("compress run --unlabelled inputs.npz --fresh 10")
    np.testing.assert_array_equal(asked[-1]["unlabelled"], given.reshape(20, 16))
    assert asked[-1]["fresh"] == 10
    call("compress run")
    assert asked[-1]["unlabelled"] is None
    assert asked[-1]["fresh"] is None
    done = len(asked)
    np.savez("inputs.npz", inputs=given[:, 0])
    said(refused("compress run --unlabelled inputs.npz"), "unlabelled inputs: expected values at 16 sensors, came 4")
    said(refused("compress run --unlabelled nothing.npz"), "found nothing there")
    np.savez("inputs.npz", u=given)
    said(refused("compress run --unlabelled inputs.npz"), "inputs.npz: expected the key 'inputs', came u")
    assert len(asked) == done


def test_points_as_an_input_are_refused_for_students_that_know_their_outputs_at_fixed_points_only(
    refused, said, functions, judged_by
):
    said(
        refused("compress run --query-points input"),
        "query points as an input: .* came a ComponentNetwork, .* keep the points fixed",
    )
    said(refused("compress run --query-points input --numpy small.py"), "--numpy: expected fixed query points")


def test_flags_of_a_teacher_of_ones_own_need_one(refused, said, functions, judged_by):
    said(refused("compress run --key 3"), "--test, --key: expected beside --teacher only")
    said(
        refused("compress run --teacher my_module.py:net"), "run: expected an npz file beside --teacher, came a folder"
    )
