"""`foretrain train --two-timescales`."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import foretrain as ft


@pytest.fixture
def data(folder):
    ft.problems.antiderivative(40, resolution=16).save(folder / "data.npz")
    return folder


def test_a_small_network_is_trained_and_what_was_kept_is_written(data, call):
    line = "train data.npz --two-timescales --width 6 --branch-width 12 --steps 20 --test 10 --out run --json"
    outcome = call(line)
    assert outcome.code == 0
    told = json.loads(outcome.output)
    written = json.loads((data / "run" / "two_timescales.json").read_text())
    assert told["test_error"] == written["test_error"] < written["records"][0]["test_error"]
    weights = load_file(data / "run" / "weights.safetensors")
    assert told["numbers"] == sum(np.size(weights[name]) for name in ("trunk", "branch", "outer"))
    losses = [record["loss"] for record in written["records"]]
    assert losses[-1] < losses[0]
    # 30 functions say too little: no forecast, and a run all the same.
    assert told["forecast"] is None
    assert "no forecast" in outcome.errors
    assert "80 functions or more, came 30" in outcome.errors


def test_what_a_run_costs_and_reaches_is_forecast_before_and_shown_beside_what_it_did(folder, call):
    ft.problems.antiderivative(100, resolution=16).save(folder / "more.npz")
    outcome = call("train more.npz --two-timescales --width 6 --branch-width 12 --steps 20 --test 10 --out run --json")
    assert outcome.code == 0
    told = json.loads(outcome.output)
    forecast = told["forecast"]
    assert forecast["evaluations"]["measured"] == told["evaluations"] == 21
    assert forecast["seconds"]["measured"] == told["seconds"]
    assert forecast["test_error"]["measured"] == told["test_error"]
    for name in ("evaluations", "seconds", "test_error"):
        assert 0 < forecast[name]["lower"] <= forecast[name]["value"] <= forecast[name]["upper"]
    assert forecast == json.loads((folder / "run" / "two_timescales.json").read_text())["forecast"]
    said = outcome.errors
    assert said.index("forecast: ") < said.index("Forecast and measured")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "either --plan FILE or --two-timescales, came neither"),
        ("--plan plan.toml --two-timescales", "came both"),
        ("--two-timescales --width 0", "width"),
    ],
    ids=["neither", "both", "no neuron"],
)
def test_options_that_make_no_sense_are_one_line(data, call, options, words):
    outcome = call(f"train data.npz {options}")
    assert outcome.code == 2
    assert words in outcome.errors
    assert len(outcome.errors.splitlines()) == 1
    assert not (data / "runs").exists()
