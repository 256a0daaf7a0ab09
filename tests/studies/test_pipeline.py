import importlib.metadata
import json
import tomllib

import jax
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import scipy.special

from foretrain.cli._run import read_config
from foretrain.forecast import load_plan_settings
from foretrain.problems import burgers
from foretrain.report import report
from foretrain.studies import PipelineSettings, run_pipeline, with_overrides
from foretrain.training import train

SETTINGS = PipelineSettings(
    target_error=0.1,
    steps=30,
    tolerance=0.3,
    error_budget=0.25,
    numbers_budget=2000,
    fresh=100,
    evaluations=10,
    key=3,
    price_per_hour=0.5,
)
SOURCE = {"path": "here.npz", "test": 12, "key": 0}
RECORDS = ("environment", "data", "plan", "forecast", "certificate", "exact", "compression")
OTHERS = ("config.toml", "plan.toml", "metrics.jsonl", "weights.safetensors", "model.onnx", "fields.npz")
SECTIONS = ("Forecast and measurement", "Plan", "Closed-form fit", "Test functions", "Size against error")


@pytest.fixture(scope="module")
def parts():
    return burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50).split(12, key=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "burgers"


@pytest.fixture(scope="module")
def told():
    """What was told, in order: the part's name and the files that were there by then."""
    return []


@pytest.fixture(scope="module")
def result(parts, folder, told):
    def tell(name, value):
        told.append((name, {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".json"}))

    return run_pipeline(*parts, folder, SETTINGS, SOURCE, "foretrain run here.npz --steps 30", tell=tell)


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def record(result, name):
    return json.loads((result.folder / f"{name}.json").read_text(), parse_constant=refuse)


def metrics(result):
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def relative_errors(prediction, truth):
    return np.linalg.norm(prediction - truth, axis=1) / np.linalg.norm(truth, axis=1)


def answers_of(path, inputs):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.astype(np.float32)})[0]


def test_the_run_folder_holds_every_file_and_nothing_else(result):
    expected = {*OTHERS, *(f"{name}.json" for name in RECORDS)}
    assert {path.name for path in result.folder.iterdir()} - {"report.html"} == expected
    for name in RECORDS:
        assert record(result, name)
    assert metrics(result)


def test_the_forecast_is_on_disk_before_training_and_only_gains_the_comparison(result, told):
    assert [name for name, _ in told] == ["plan", "forecast", "run", "fit", "compress"]
    files = dict(told)
    assert "forecast.json" not in files["plan"]
    assert "certificate.json" not in files["forecast"]
    before, after = (json.loads(files[name]["forecast.json"]) for name in ("forecast", "run"))
    assert after.pop("checked")
    assert before == after


def test_checked_ratios_are_forecast_over_measured_as_the_files_have_them(result):
    forecast, measured = record(result, "forecast"), {row["step"]: row for row in metrics(result)}
    limit = forecast["from_data_alone"]
    assert [row["step"] for row in forecast["checked"]] == [10, 30]
    for row in forecast["checked"]:
        at, now = forecast["steps"].index(row["step"]), measured[row["step"]]
        assert row["forecast_loss"] == forecast["loss"][at]
        assert row["measured_loss"] == now["loss"]
        assert row["loss_ratio"] == pytest.approx(forecast["loss"][at] / now["loss"], rel=1e-12)
        assert row["test_ratio"] == pytest.approx(forecast["test_error"][at] / now["test_error"], rel=1e-12)
        at = limit["steps"].index(row["step"])
        assert row["data_only_loss_ratio"] == pytest.approx(limit["loss"][at] / now["loss"], rel=1e-12)
        assert row["data_only_test_ratio"] == pytest.approx(limit["test_error"][at] / now["test_error"], rel=1e-12)
        # The forecast itself, on sixty functions and the least width: well within the band it was asked for.
        assert abs(np.log(row["loss_ratio"])) < np.log(1.3)
    assert result.checked == forecast["checked"]


def test_the_stored_weights_are_the_certified_network_and_the_plan_trains_them_again(result, parts):
    learn, test = parts
    stored = safetensors.numpy.load_file(result.folder / "weights.safetensors")
    last = metrics(result)[-1]
    certificate = record(result, "certificate")
    assert certificate["verdict"] == result.run.certificate.verdict
    assert certificate["measurements"][-1]["loss"] == last["loss"]
    embedding, scale = result.plan.model.embedding_for(learn), learn.outputs.std()
    inputs, points = embedding.inputs(learn.inputs), embedding.points(learn.query_points)
    width, branch_width = stored["outer"].shape
    sigma = {"relu": lambda x: np.maximum(x, 0), "erf": scipy.special.erf}[result.plan.model.activation]
    neurons = sigma(np.einsum("iq,rkq->irk", inputs, stored["branch"]))
    branch, trunk = np.einsum("irk,rk->ir", neurons, stored["outer"]), sigma(points @ stored["trunk"].T)
    residual = branch @ trunk.T / np.sqrt(width * branch_width) - (learn.outputs - learn.outputs.mean()) / scale
    assert last["loss"] == pytest.approx(np.mean(residual**2), rel=1e-5)
    again = train(learn, result.plan, test=test, told=result.forecast)
    for name, weights in stored.items():
        np.testing.assert_array_equal(np.asarray(getattr(again.network, name)), weights)


def test_the_closed_form_kept_is_the_better_on_held_out_functions_and_its_test_error_is_true(result, parts):
    exact = record(result, "exact")
    best = min(exact["forms"], key=lambda row: row["held_out_error"])
    assert {row["form"] for row in exact["forms"]} == {"branch-trunk", "fourier"}
    assert exact["chosen"] == best["form"] == result.exact.form_
    errors = relative_errors(result.exact.predict(parts[1].inputs), parts[1].outputs)
    assert best["test_error"] == pytest.approx(np.mean(errors), rel=1e-9)


def test_the_shipped_file_has_the_size_and_error_the_table_says(result, parts):
    table = record(result, "compression")
    assert table["budget"] == {"error": 0.25, "numbers": 2000, "bytes": None, "latency": None}
    (chosen,) = [row for row in table["rows"] if row["chosen"]]
    path = result.folder / "model.onnx"
    assert path.stat().st_size == chosen["bytes"]
    assert chosen["numbers"] <= 2000
    answers = answers_of(path, parts[1].inputs)
    error = np.mean(relative_errors(answers, parts[1].outputs))
    assert chosen["test_error"] == pytest.approx(error, rel=1e-4)
    assert error <= 0.25
    assert table["stages"][0]["name"] == "teacher labels 100 fresh inputs"
    assert table["stages"][2]["name"].startswith("distil, 20 steps")


def test_the_fields_shown_are_test_functions_from_best_to_worst(result, parts):
    test = parts[1]
    with np.load(result.folder / "fields.npz", allow_pickle=False) as archive:
        fields = dict(archive)
    assert list(fields["labels"]) == ["best", "median", "90th percentile", "worst"]
    errors = relative_errors(result.exact.predict(test.inputs), test.outputs)
    assert fields["errors"][[0, -1]] == pytest.approx([errors.min(), errors.max()], rel=1e-9)
    assert list(fields["errors"]) == sorted(fields["errors"])
    np.testing.assert_allclose(relative_errors(fields["prediction"], fields["truth"]), fields["errors"], rtol=1e-9)
    for inputs, truth in zip(fields["inputs"], fields["truth"], strict=True):
        row = np.flatnonzero((test.inputs == inputs).all(axis=1))
        assert len(row) == 1
        np.testing.assert_array_equal(test.outputs[row[0]], truth)
    answers = answers_of(result.folder / "model.onnx", fields["inputs"])
    np.testing.assert_allclose(fields["compressed"], answers, rtol=1e-5, atol=1e-6)


def test_the_plan_can_be_read_back(result):
    settings = load_plan_settings(result.folder / "plan.toml")
    assert settings == result.plan.settings()
    assert (settings["steps"], settings["key"], settings["target_error"]) == (30, 3, 0.1)
    assert settings["step_size"] == result.forecast.step_size
    plan = record(result, "plan")
    assert sum(route["chosen"] for route in plan["routes"]) == 1
    assert {row["status"] for row in plan["rows"]} <= {"guarantee", "computation", "estimate"}


def test_data_and_environment_say_what_was_run_on_what(result, parts):
    learn, _ = parts
    data, environment = record(result, "data"), record(result, "environment")
    assert (data["train"], data["test"], data["sensors"], data["query_points"]) == (48, 12, 32, 32)
    assert (data["fingerprint"], data["query_grid_shape"]) == (learn.fingerprint, [32])
    assert environment["command"] == "foretrain run here.npz --steps 30"
    assert environment["jax"] == jax.__version__
    assert environment["numpy"] == np.__version__
    assert environment["foretrain"] == importlib.metadata.version("foretrain")


def test_the_config_replays_the_same_settings_on_the_same_data(result):
    path = result.folder / "config.toml"
    assert read_config(path) == (SOURCE, SETTINGS)
    assert tomllib.loads(path.read_text())["run"] == vars(SETTINGS)
    assert str(path) in path.read_text().splitlines()[0]


def test_the_report_makes_a_page_of_it(result):
    page = report(result.folder)
    text = page.read_text()
    assert page == result.folder / "report.html"
    assert result.run.certificate.verdict in text
    # With every file there, no section is left out.
    for section in SECTIONS:
        assert f">{section}<" in text


def test_overrides_change_what_they_name_and_nothing_else():
    changed = with_overrides(SETTINGS, {"steps": 5, "evaluations": 7})
    assert vars(changed) == {**vars(SETTINGS), "steps": 5, "evaluations": 7}
    with pytest.raises(TypeError, match="unknown"):
        with_overrides(SETTINGS, {"unknown": 1})
