"""Two timescales beside equal rates on disturbed samples: what is run, and that the verdicts follow the errors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from foretrain._foundation import ForetrainError, write_json
from foretrain.studies._disturbed_data import (
    DISTURBANCE_LEVELS,
    DISTURBANCES,
    RobustnessTable,
    compare_on_disturbed_data,
    robustness_sweep,
)
from foretrain.studies._two_timescale_settings import SampledSetting, draw_sample, run_equal_rates, run_sampled

STEPS = SampledSetting("steps", 2, 200, 0.05, 400, neurons=4, step_width=0.1, test_samples=500)


def table(equal, two, levels=(0.0, 1.0, 2.0)):
    return RobustnessTable("label noise", levels, np.array(equal), np.array(two), 0.1)


@pytest.fixture(scope="module")
def compared():
    told = []
    found = compare_on_disturbed_data(
        "Steps",
        STEPS,
        range(3),
        lambda *progress: told.append(progress),
        levels=dict.fromkeys(DISTURBANCES, (0.0, 0.7)),
    )
    return found, told


def test_level_zero_is_the_undisturbed_setting(compared):
    found, _ = compared
    equal, two = run_equal_rates(STEPS, range(3)), run_sampled(STEPS, None, range(3))
    assert [each.kind for each in found.tables] == list(DISTURBANCES)
    for each in found.tables:
        assert each.equal_rates_step_size == equal.setting.step_size
        np.testing.assert_array_equal(each.equal_rates[0], equal.test_error)
        np.testing.assert_array_equal(each.two_timescales[0], two.test_error)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("label noise", {"label_noise": 0.7}),
        ("input noise", {"input_noise": 0.7}),
        ("covariate shift", {"density": (1.0, 1.7)}),
    ],
)
def test_each_level_is_the_disturbed_setting_run_by_itself(compared, kind, change):
    found, _ = compared
    each = found.tables[DISTURBANCES.index(kind)]
    disturbed = replace(STEPS, **change)
    equal = run_sampled(replace(disturbed, step_size=each.equal_rates_step_size), 1.0, range(3))
    np.testing.assert_array_equal(each.equal_rates[1], equal.test_error)
    np.testing.assert_array_equal(each.two_timescales[1], run_sampled(disturbed, None, range(3)).test_error)


def test_one_disturbance_alone_gives_the_same_table(compared):
    found, _ = compared
    alone = robustness_sweep(STEPS, "input noise", (0.0, 0.7), range(3))
    np.testing.assert_array_equal(alone.equal_rates, found.tables[1].equal_rates)
    np.testing.assert_array_equal(alone.two_timescales, found.tables[1].two_timescales)


def test_progress_counts_up_to_what_it_announced(compared):
    _, told = compared
    stages, done, total = zip(*(each[:3] for each in told), strict=True)
    assert set(stages) == {"steps, disturbed"}
    assert list(done) == list(range(1, total[0] + 1))


def test_shifted_points_have_the_moments_of_their_density():
    for shift in DISTURBANCE_LEVELS["covariate shift"]:
        points = draw_sample(replace(STEPS, samples=40_000, density=(1.0, 1.0 + shift)), 0).points
        # Beta(1, 1 + s): mean 1 / (2 + s), variance (1 + s) / ((2 + s)^2 (3 + s)).
        assert points.mean() == pytest.approx(1 / (2 + shift), rel=0.01)
        assert points.var() == pytest.approx((1 + shift) / (2 + shift) ** 2 / (3 + shift), rel=0.02)


def test_errors_grow_with_the_noise_and_start_undisturbed():
    found = robustness_sweep(STEPS, "label noise", [0.0, 3.0], range(4))
    assert (found.two_timescales[1] > found.two_timescales[0]).all()
    assert (found.equal_rates[1] > found.equal_rates[0]).all()


def test_verdicts_follow_the_errors():
    base = np.array([1.0, 1.1, 0.9, 1.05, 1.2, 0.95])
    scatter = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 1.0])
    for factor, verdict in ((0.8, "two timescales better"), (1.25, "equal rates better"), (1.0, "no difference seen")):
        found = table([base] * 3, [base * scatter, factor * base * scatter, factor * base * scatter])
        assert found.verdict == verdict
        assert found.verdicts == ("no difference seen", verdict, verdict)
        assert found.effect.ratio == pytest.approx(factor, rel=0.01)


def test_levels_that_differ_from_the_whole_are_named():
    scatter = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 1.0])
    found = table(
        [scatter] * 4, [0.5 * np.ones(6), 0.5 * np.ones(6), scatter[::-1], 2 * np.ones(6)], (0.0, 1.0, 2.0, 3.0)
    )
    assert found.verdict == "no difference seen"
    assert found.exceptions == ((1.0, "two timescales better"), (3.0, "equal rates better"))
    # A level without a verdict of its own contradicts nothing.
    assert table([scatter] * 3, [scatter, scatter[::-1], 0.5 * scatter]).exceptions == ()


def test_exchanging_both_ways_inverts_the_ratio():
    rng = np.random.default_rng(0)
    equal, two = rng.uniform(0.5, 2, (2, 3, 5))
    there, back = table(equal, two).effect, table(two, equal).effect
    assert (there.ratio, there.lower, there.upper) == pytest.approx((1 / back.ratio, 1 / back.upper, 1 / back.lower))


def test_levels_of_one_seed_are_one_observation():
    rng = np.random.default_rng(1)
    equal, two = rng.uniform(0.5, 2, (2, 5))
    once, often = table([equal, equal], [two, two], (0.0, 1.0)), table([equal] * 4, [two] * 4, (0.0, 1.0, 2.0, 3.0))
    assert (once.effect.lower, once.effect.upper) == pytest.approx((often.effect.lower, often.effect.upper))
    # The undisturbed level has no say, unless it is alone.
    far = table([1e6 * equal, equal], [two, two], (0.0, 1.0))
    assert far.effect == once.effect
    alone = table([equal], [two], (0.0,))
    assert alone.effect == alone.effects[0]


def test_diverged_runs_leave_medians_verdicts_and_the_file_in_order(tmp_path):
    two = np.full(8, 0.1) * np.linspace(1, 1.1, 8)
    some, most, every = (np.where(np.arange(8) < runs, np.inf, 2 * two) for runs in (1, 7, 8))
    found = table([some, most, every], [two, two, two])
    assert found.verdict == "two timescales better"
    assert found.verdicts == ("two timescales better",) * 3
    assert found.effects[0].ratio == pytest.approx(0.5)
    assert found.effects[2].upper == 0
    both = table([every] * 3, [every] * 3)
    assert both.verdict == "no difference seen"
    assert both.effect.ratio == 1
    assert table([two] * 3, [every] * 3).verdict == "equal rates better"
    record = json.loads(write_json(tmp_path / "table.json", found.as_dict()).read_text())
    assert [each["median_equal_rates"] for each in record["levels"]] == [pytest.approx(0.2122, rel=0.05), None, None]
    assert record["levels"][1]["equal_rates"] == [None] * 7 + [pytest.approx(0.22)]


def test_a_single_seed_gives_a_ratio_and_no_verdict():
    found = table([[1.0], [1.0], [1.0]], [[0.1], [0.1], [0.1]])
    assert found.effect.ratio == pytest.approx(0.1)
    assert (found.effect.lower, found.effect.upper) == (0, np.inf)
    assert found.verdict == "no difference seen"


def test_the_file_holds_the_figures(compared, tmp_path):
    found, _ = compared
    record = json.loads(write_json(tmp_path / "compared.json", found.as_dict()).read_text())
    assert record["setting"]["name"] == "steps"
    for kept, each in zip(record["tables"], found.tables, strict=True):
        assert kept["verdict"] == each.verdict
        assert kept["effect"]["lower"] == each.effect.lower
        for index, level in enumerate(kept["levels"]):
            assert level["two_timescales"] == each.two_timescales[index].tolist()
            assert level["median_equal_rates"] == np.median(each.equal_rates[index])


@pytest.mark.parametrize(("kind", "levels"), [("dropout", [0.0]), ("label noise", []), ("input noise", [0.1, -0.1])])
def test_impossible_requests_are_refused_in_one_line(kind, levels):
    with pytest.raises(ForetrainError, match="label noise, input noise, covariate shift") as failure:
        robustness_sweep(STEPS, kind, levels)
    assert "\n" not in str(failure.value)
