"""Charts and words about noise and covariate shift, against the errors they were made from."""

from dataclasses import replace

import numpy as np
import pytest

from foretrain.report._disturbed_data import disturbed_charts, disturbed_remarks, level_rows, quartiles, verdict_rows
from foretrain.studies import SAMPLED_SETTINGS, DisturbedComparison, RobustnessTable

LEVELS = (0.0, 0.1, 0.5)
GROWTH = np.array([0.1, 0.2, 0.4])[:, None]


def comparison(title, factor, seeds=8):
    """Two timescales end with `factor` times the errors of equal rates, the same at each seed."""
    spread = np.linspace(0.8, 1.3, seeds)
    table = RobustnessTable("label noise", LEVELS, GROWTH * spread, factor * GROWTH * spread, 0.006)
    return DisturbedComparison(title, SAMPLED_SETTINGS["relu"], (table, replace(table, kind="covariate shift")), 1.0)


@pytest.fixture
def disturbed():
    return (comparison("2-D <steps>", 1.5), comparison("ReLU", 0.5))


def test_a_chart_for_each_disturbance_with_a_panel_for_each_experiment(disturbed):
    noise, shift = disturbed_charts(disturbed)
    assert (noise.identifier, shift.identifier) == ("chart-label-noise", "chart-covariate-shift")
    assert [trace["yaxis"] for trace in noise.data] == ["y", "y", "y2", "y2"]
    above, below = noise.layout["yaxis"]["domain"], noise.layout["yaxis2"]["domain"]
    assert 0 == below[0] < below[1] < above[0] < above[1] < 1
    assert noise.layout["xaxis"]["anchor"] == "y2"


def test_points_are_medians_and_bars_reach_the_quartiles(disturbed):
    chart = disturbed_charts(disturbed)[0]
    ways = [way for each in disturbed for way in (each.tables[0].equal_rates, each.tables[0].two_timescales)]
    for trace, errors in zip(chart.data, ways, strict=True):
        middle = np.array(trace["y"])
        np.testing.assert_allclose(middle, np.median(errors, axis=1), rtol=1e-4)
        bars = trace["error_y"]
        ends = np.sort(errors, axis=1)[:, [1, 5]]
        np.testing.assert_allclose(middle - bars["arrayminus"], ends[:, 0], rtol=1e-4)
        np.testing.assert_allclose(middle + bars["array"], ends[:, 1], rtol=1e-4)
        # Each way stands beside its level, nearer to it than to any other.
        np.testing.assert_array_equal(np.round(trace["x"]), chart.layout["xaxis"]["tickvals"])
    assert chart.layout["xaxis"]["ticktext"] == ["0", "0.1", "0.5"]


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 20, 21])
def test_a_quarter_lies_at_or_below_the_lower_quartile_and_at_or_above_the_upper(seeds):
    errors = np.random.default_rng(seeds).permutation(np.arange(1.0, seeds + 1))
    low, middle, high = quartiles(errors)
    assert low <= middle <= high
    assert low in errors
    assert high in errors
    assert np.mean(errors <= low) >= 0.25
    assert np.mean(errors < low) < 0.25
    assert np.mean(errors <= high) >= 0.75
    assert np.mean(errors < high) < 0.75


def test_diverged_runs_stand_at_the_top_of_their_panel(disturbed):
    table = disturbed[0].tables[0]
    equal = table.equal_rates.copy()
    equal[1, :3] = np.inf  # the upper quartile, not the median
    equal[2, :6] = np.inf  # the median
    changed = replace(disturbed[0], tables=(replace(table, equal_rates=equal),))
    (chart,) = disturbed_charts([changed])
    trace, other = chart.data
    top = 10 ** chart.layout["yaxis"]["range"][1]
    assert top < 10
    # Not at the very end of the axis, where Plotly may hide it.
    assert 0.9 * top < trace["y"][2] < top
    assert trace["marker"]["symbol"] == ["circle", "circle", "triangle-up"]
    assert trace["y"][1] + trace["error_y"]["array"][1] == pytest.approx(trace["y"][2], rel=1e-4)
    assert "diverged" in trace["text"][2]
    assert "to diverged" in chart.description
    assert np.all(np.isfinite([*trace["y"], *trace["error_y"]["array"], *trace["error_y"]["arrayminus"], *other["y"]]))
    rows = level_rows([changed])
    assert [row["equal"] for row in rows][2] == "diverged"
    assert [row["diverged"] for row in rows] == [[0, 0], [3, 0], [6, 0]]
    assert disturbed_remarks([changed])[-1].startswith("Some runs diverged")
    # Bars of all that ended stay in the picture.
    assert (other["y"] + np.array(other["error_y"]["array"])).max() < top


def test_where_equal_rates_end_lower_it_is_said_first(disturbed):
    remarks = disturbed_remarks(disturbed)
    assert "Equal rates end lower under label noise in 2-D <steps> and covariate shift in 2-D <steps>" in remarks[0]
    assert "costs accuracy" in remarks[0]
    assert remarks[1:] == [
        "Two timescales end lower under label noise in ReLU and covariate shift in ReLU.",
        "Without a disturbance equal rates end lower in 2-D <steps>.",
        "Without a disturbance two timescales end lower in ReLU.",
    ]


def test_a_single_level_that_differs_from_the_whole_is_named(disturbed):
    table = disturbed[1].tables[0]
    two = table.two_timescales * np.array([1.0, 1.0, 3.0])[:, None]
    changed = replace(disturbed[1], tables=(replace(table, two_timescales=two),))
    assert table.verdict == "two timescales better"
    assert disturbed_remarks([changed])[1] == "At single levels equal rates end lower: label noise 0.5 in ReLU."
    (row,) = verdict_rows([changed])
    assert [each["text"] for each in row["exceptions"]] == ["at 0.5: equal rates better"]


def test_one_seed_draws_no_verdict(disturbed):
    single = comparison("ReLU", 0.5, seeds=1)
    assert [row["badge"]["text"] for row in verdict_rows([single])] == ["no difference seen"] * 2
    assert verdict_rows([single])[0]["ratio"] == "0.500 (interval unbounded)"
    assert disturbed_remarks([single])[0].startswith("Over all levels together no difference is seen under label noise")
    assert all(np.all(np.isfinite(trace["y"])) for chart in disturbed_charts([single]) for trace in chart.data)


def test_no_experiment_draws_nothing():
    assert disturbed_charts([]) == []
    assert disturbed_remarks([]) == []
