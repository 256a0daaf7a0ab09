"""The page of the two-timescale reproduction against the result it was made from."""

import dataclasses
import json
import re

import numpy as np
import pytest
from pages import Page, plain

from foretrain.problems import PiecewiseConstant
from foretrain.report import two_timescale_page
from foretrain.report._two_timescale_animation import FRAMES
from foretrain.studies import (
    DisturbedComparison,
    Reproduction,
    ReproductionSettings,
    RobustnessTable,
    SampledComparison,
)
from foretrain.studies._one_start import OneStart, Trajectory
from foretrain.studies._step_coverage import CoverageSetting, StepCoverage
from foretrain.studies._two_timescale_settings import SAMPLED_SETTINGS
from foretrain.training import LimitEvent

TARGET = PiecewiseConstant(1.0, (0.3, 0.6), (4.0, -2.0))
SETTING = CoverageSetting("two timescales", 40_000, 1e-3, 2e-4, neurons=3, target=TARGET)
WAYS = ("equal rates", "equal rates, best step size", "two timescales", "limit")


def trajectory(name, ends, steps=None, last=0.008):
    """Neurons that move straight from .2, .5, .9 to their ends."""
    shares = np.linspace(0, 1, 81)[:, None]
    positions = (1 - shares) * np.array([0.2, 0.5, 0.9]) + shares * np.array(ends)
    outer = np.tile([1.0, 4.0, -2.0, 0.0], (81, 1)) * shares
    loss = np.geomspace(3.0, 1e-2, 81)
    return Trajectory(name, last * shares[:, 0], positions, outer, loss, 4e-3, 0.5, steps)


def coverage(name, ratio, covered, losses):
    setting = dataclasses.replace(SETTING, name=name, ratio=ratio)
    return StepCoverage(setting, (), np.array(covered), np.array(losses), np.full(len(losses), 0.004), 1.5)


@pytest.fixture
def result():
    ends = (0.3001, 0.6, 0.9)
    start = OneStart(
        SETTING,
        dataclasses.replace(SETTING, ratio=1.0),
        trajectory("online descent", ends, 40_000),
        trajectory("gradient flow", (0.3, 0.6, 0.9)),
        trajectory("limit of ratio 0", (0.3, 0.6, 0.902)),
        trajectory("steep limit", (0.3, 0.6, 0.9)),
        trajectory("equal rates", (0.3, 0.45, 0.9), 40_000, last=40.0),
        np.array(ends) + 1e-4 * np.array([[1, 2, 1], [-1, -2, -1], [0, 0, 0], [1, 1, 2]]),
        (LimitEvent(0.0041, 0, 0, "stays"), LimitEvent(0.005, 1, 1, "stays")),
        0.005,
    )
    all_, one, none = [True, True], [True, False], [False, False]
    sweep = (
        coverage("ratio 1", 1.0, [none, one, one], [0.7, 0.5, 0.6]),
        coverage("ratio 0.1", 0.1, [one, all_, all_], [0.3, 0.05, 0.04]),
        coverage("ratio 0.01", 0.01, [all_, all_, all_], [0.012, 0.011, 0.01]),
    )
    equal = coverage("equal rates", 1.0, [one, none, one, one], [0.7, 0.5, 0.6, 0.62])
    two = coverage("two timescales, to the end", 2e-4, [all_] * 4, [0.012, 0.011, 0.01, 0.0105])
    sampled = tuple(
        SampledComparison(
            title,
            SAMPLED_SETTINGS[name],
            {way: np.array([0.01, 0.03, 0.02]) * (5 - index) for index, way in enumerate(WAYS)},
            {way: np.array([0.02, 0.04, 0.03]) * (5 - index) for index, way in enumerate(WAYS)},
            3.0,
        )
        for name, title in (("steps-2d", "2-D steps"), ("relu", "ReLU <teacher>"))
    )
    seed_errors = np.array([0.9, 1.0, 1.1])
    tables = tuple(
        RobustnessTable(
            kind,
            (0.0, 0.5),
            np.array([0.1, 0.2])[:, None] * seed_errors,
            np.array([0.1, 0.2 * factor])[:, None] * seed_errors,
            0.006,
        )
        for kind, factor in (("label noise", 1.5), ("input noise", 1.0), ("covariate shift", 0.5))
    )
    disturbed = (DisturbedComparison("ReLU <teacher>", SAMPLED_SETTINGS["relu"], tables, 2.5),)
    return Reproduction(ReproductionSettings(seeds=3), start, sweep, equal, two, sampled, disturbed, 60.0)


@pytest.fixture
def show(tmp_path):
    def write(result):
        return Page(two_timescale_page(result, tmp_path / "report.html", {"command": "foretrain reproduce x"}))

    return write


def cells(page, first):
    """The texts of the table row whose head begins so."""
    texts = [plain(element["text"]) for element in page.elements if element["tag"] in ("th", "td", "tr")]
    row = next(i for i, text in enumerate(texts) if text.startswith(first) and texts[i + 1].startswith(first))
    return texts[row]


def test_the_sentences_say_the_figures(show, result):
    first, second, third = show(result).sentences
    assert "0 of 4 starts end with a neuron at every jump" in first
    assert "median loss is 0.61" in first
    assert "slower by 5 000, 4 of 4 starts do" in second
    assert "40 000 noisy steps" in third
    assert "1.0 x 10⁻⁴ from where gradient flow ends" in third
    assert "0.0020 from where the limit does" in third


def test_verdicts_stand_beside_the_claims_and_follow_them(show, result):
    claims = {claim.what: claim for claim in result.claims}
    page = show(result)
    for what, claim in claims.items():
        assert claim.verdict in cells(page, what)
    found = dataclasses.replace(result.equal_rates, covered=np.ones((4, 2), bool))
    changed = show(dataclasses.replace(result, equal_rates=found))
    assert changed.all("span", "bad")[0]["text"] == "not reproduced"
    assert "4 of 4 starts end with a neuron" in changed.sentences[0]


def test_every_chart_is_drawn_and_described(show, result):
    page = show(result)
    places = {element["id"]: element for element in page.all("div", "plot")}
    assert set(places) == set(page.charts)
    assert all(len(element["aria-label"]) > 40 for element in places.values())


def test_the_page_loads_nothing_from_any_network(show, result):
    page = show(result)
    assert not [element for element in page.elements if element.get("src")]
    links = [element["href"] for element in page.elements if element.get("href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "ReLU <teacher>" in page.text


def test_the_last_frame_is_the_picture_and_the_slider_has_every_frame(show, result):
    page = show(result)
    (script,) = [element for element in page.all("script") if element.get("id") == "frames"]
    frames = json.loads(script["text"])
    assert len(frames) == FRAMES + 1
    chart = page.charts["chart-animation"]
    for number, moved in zip(frames[-1]["traces"], frames[-1]["data"], strict=True):
        assert {name: chart["data"][number][name] for name in ("x", "y")} == moved
    steps = chart["layout"]["sliders"][0]["steps"]
    assert [step["args"][0][0] for step in steps] == [frame["name"] for frame in frames]
    np.testing.assert_allclose(frames[0]["data"][1]["x"], [0.2, 0.5, 0.9])
    np.testing.assert_allclose(frames[-1]["data"][3]["x"], [0.3, 0.45, 0.9])


def test_positions_are_those_of_the_dynamics(show, result):
    steep, online, flow, limit = show(result).charts["chart-positions"]["data"]
    for trace, each in zip(
        (steep, online, flow, limit), (result.start.steep_limit, *result.start.dynamics[:3]), strict=True
    ):
        drawn = np.array(trace["y"], float).reshape(3, 82)
        np.testing.assert_allclose(drawn[:, :81], each.positions.T, atol=1e-5)
        # Gaps keep the neurons apart.
        assert np.all(np.isnan(drawn[:, 81]))


def test_boxes_hold_the_losses_and_bars_count_the_starts(show, result):
    page = show(result)
    boxes = page.charts["chart-sweep"]["data"]
    for box, found in zip(boxes, result.sweep, strict=True):
        np.testing.assert_allclose(box["y"], found.losses, rtol=1e-4)
    bars = page.charts["chart-covered"]["data"]
    assert [bar["x"] for bar in bars] == [["0", "1", "2"]] * 3
    assert [bar["y"] for bar in bars] == [[1, 2, 0], [0, 1, 2], [0, 0, 3]]


def test_each_jump_has_its_distance_in_step_widths(show, result):
    row = cells(show(result), "0.6")
    # Of online descent 0, of equal rates (0.6 - 0.45) / 0.004 = 37.5 step widths.
    assert re.search(r"37|38", row)
    assert row.count("covered") == 4
    assert row.count("missed") == 1


def test_where_equal_rates_do_as_well_it_is_said(show, result):
    assert "whichever of the step sizes" in show(result).text
    first, second = result.sampled
    better = {**second.training, "equal rates, best step size": np.full(3, 1e-3)}
    changed = dataclasses.replace(result, sampled=(first, dataclasses.replace(second, training=better)))
    text = show(changed).text
    assert "In ReLU <teacher> equal rates end as low as two timescales or lower" in text


def test_under_each_disturbance_it_is_said_who_ends_lower(show, result):
    page = show(result)
    assert "Equal rates end lower under label noise in ReLU <teacher>" in page.text
    assert "Two timescales end lower under covariate shift in ReLU <teacher>" in page.text
    assert "no difference is seen under input noise in ReLU <teacher>" in page.text
    rows = [plain(element["text"]) for element in page.elements if element["tag"] == "tr"]
    (row,) = [row for row in rows if "label noise" in row and "0.30" in row]
    assert "0.20" in row
    assert "1.50 (1.50 to 1.50)" in row
    assert "equal rates better" in row


def test_diverged_equal_rates_leave_the_page_whole(show, result):
    (each,) = result.disturbed
    diverged = dataclasses.replace(each.tables[0], equal_rates=np.array([[0.1, 0.1, 0.1], [np.inf] * 3]))
    tables = (diverged, *each.tables[1:])
    page = show(dataclasses.replace(result, disturbed=(dataclasses.replace(each, tables=tables),)))
    rows = [plain(element["text"]) for element in page.elements if element["tag"] == "tr"]
    assert [row for row in rows if "3 diverged" in row]


def test_a_steep_limit_at_rest_has_no_place_on_a_logarithmic_axis(show, result):
    rest = dataclasses.replace(result.start.steep_limit, loss=np.where(np.arange(81) < 60, 0.1, 0.0))
    page = show(dataclasses.replace(result, start=dataclasses.replace(result.start, steep_limit=rest)))
    steep = page.charts["chart-loss"]["data"][0]["y"]
    assert steep[:60] == [0.1] * 60
    assert steep[60:] == [None] * 21
