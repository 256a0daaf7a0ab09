"""The two-timescale reproduction: what it runs, and that its verdicts follow its figures."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, write_json
from foretrain.models import StepNetwork
from foretrain.problems import PiecewiseConstant
from foretrain.studies import (
    CoverageSetting,
    ReproductionSettings,
    _reproduce,
    drawn_positions,
    reproduce_two_timescales,
)
from foretrain.studies._one_start import ROOM_AFTER_THE_END, follow_one_start
from foretrain.studies._published_claims import share_interval
from foretrain.studies._reproduce import compare_on_samples, with_step_size
from foretrain.studies._step_coverage import EQUAL_RATES, TWO_TIMESCALES
from foretrain.studies._two_timescale_settings import EQUAL_RATES_STEP_SIZES, SAMPLED_SETTINGS, run_sampled
from foretrain.training import descend_online, event_driven_limit

pytestmark = pytest.mark.slow

SMALL_RELU = dataclasses.replace(SAMPLED_SETTINGS["relu"], samples=100, steps=300, test_samples=50)
ONE_JUMP = PiecewiseConstant(0.0, (0.5,), (1.0,))


@pytest.fixture(scope="module")
def result():
    """Everything on two starts, with one small experiment on a fixed sample."""
    stages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reproduce, "SAMPLED_NAMES", {"relu": "ReLU teacher"})
        patch.setattr(_reproduce, "DISTURBED_NAMES", {"relu": "ReLU teacher"})
        patch.setattr(_reproduce, "SAMPLED_SETTINGS", {"relu": SMALL_RELU})
        found = reproduce_two_timescales(
            ReproductionSettings(seeds=2), lambda stage, done, total, figures=None: stages.append(stage)
        )
    assert {"gradient flow", "limit of ratio 0", "coverage, ratio 0.01", "relu, disturbed"} <= set(stages)
    return found


def claim(result, beginning):
    (found,) = [each for each in result.claims if each.what.startswith(beginning)]
    return found


def test_the_graph_of_a_trajectory_is_the_function_of_its_network(result):
    for each in (result.start.online, result.start.equal):
        points, values = each.graph(7)
        network = StepNetwork(
            jnp.asarray(each.outer[7, 0]), jnp.asarray(each.outer[7, 1:]), jnp.asarray(each.positions[7]), 4e-3
        )
        # In single precision a position is off by up to 6e-8, a slope reaches 12 heights / 4 / width.
        np.testing.assert_allclose(values, network(jnp.asarray(points)), atol=2e-3)
        assert points[0] == 0
        assert points[-1] == 1
        assert np.all(np.diff(points) >= 0)


def test_all_dynamics_begin_at_the_same_positions_and_end_at_the_same_jumps(result):
    start = result.start
    for each in (*start.dynamics, start.equal):
        np.testing.assert_allclose(each.positions[0], start.online.positions[0], atol=1e-12)
    for each in start.dynamics:
        assert each.slow_times[-1] == pytest.approx(start.online.slow_times[-1])
        assert start.covered(each).all()
    assert start.distance_to_limit < 0.02
    assert start.steep_limit.loss[-1] == 0


def test_the_steep_limit_is_that_of_the_event_driven_limit(result):
    start = result.start
    limit = event_driven_limit(start.target, start.online.positions[0])
    np.testing.assert_array_equal(start.steep_limit.positions, limit.positions(start.steep_limit.slow_times))
    assert start.finish_time == limit.finish_time
    assert [event.outcome for event in start.events] == [event.outcome for event in limit.events]


def test_a_fresh_descent_ends_within_the_sampling_band(result):
    start = result.start
    setting = start.two_timescales
    network = StepNetwork(np.zeros(()), np.zeros(20), start.online.positions[0], setting.step_width)
    fresh = descend_online(
        start.target, network, steps=setting.steps, step_size=setting.step_size, ratio=setting.ratio, key=987, records=1
    )
    centre = start.other_ends.mean(axis=0)
    assert np.all(np.abs(fresh.positions[-1] - centre) <= start.sampling_band)
    assert np.all(start.distances_to_flow <= start.sampling_band)
    # A band that anything lies in would tell nothing: it is far narrower than the motion.
    assert start.sampling_band.max() < 0.2 * np.abs(start.online.positions[-1] - start.online.positions[0]).max()


def test_two_timescales_go_on_until_the_limit_of_the_start_has_come_to_rest():
    two = CoverageSetting("two", 100, 1e-2, 1e-2, neurons=2, target=ONE_JUMP)
    equal = CoverageSetting("equal", 100, 1e-3, 1.0, neurons=2, target=ONE_JUMP)
    positions = np.array([0.4, 0.55])
    start = follow_one_start(positions, two, equal, records=5)
    finish = event_driven_limit(ONE_JUMP, positions).finish_time
    assert finish > two.slow_time
    assert start.two_timescales.slow_time == pytest.approx(ROOM_AFTER_THE_END * finish, rel=1e-3)
    assert start.online.slow_times[-1] == pytest.approx(start.two_timescales.slow_time)
    np.testing.assert_allclose(start.limit.slow_times[-1], start.two_timescales.slow_time, rtol=1e-3)
    assert np.min(np.abs(start.limit.positions[-1] - 0.5)) < two.step_width


def test_the_same_key_gives_the_same_figures():
    two = CoverageSetting("two", 2000, 1e-3, 1e-2, neurons=2, target=ONE_JUMP)
    positions = drawn_positions(ONE_JUMP, 2, np.random.default_rng(1))
    ends = [follow_one_start(positions, two, two, key=key, records=3).online.positions for key in (5, 5, 6)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_larger_steps_keep_the_slow_time():
    coarse = with_step_size(TWO_TIMESCALES, 1e-3)
    assert coarse.steps == 1_750_000
    assert coarse.slow_time == pytest.approx(TWO_TIMESCALES.slow_time)


def test_starts_hold_two_neurons_in_every_piece_unless_uniform(result):
    edges = [0.0, *result.start.target.locations, 1.0]
    assert np.histogram(result.start.online.positions[0], edges)[0].min() >= 2
    assert result.equal_rates.setting.neurons_in_every_piece == 2
    assert ReproductionSettings(uniform=True).neurons_in_every_piece == 0
    assert ReproductionSettings(full=True).coverage_seeds == 100


def test_the_verdicts_follow_the_figures(result):
    assert claim(result, "Two timescales").holds
    assert claim(result, "Median loss").holds
    assert claim(result, "One start: neurons that end off").holds
    everywhere = np.ones_like(result.equal_rates.covered)
    stuck = dataclasses.replace(result.equal_rates, covered=~everywhere)
    free = dataclasses.replace(result.equal_rates, covered=everywhere)
    assert claim(dataclasses.replace(result, equal_rates=stuck), "Equal rates").verdict == "reproduced"
    assert claim(dataclasses.replace(result, equal_rates=free), "Equal rates").verdict == "not reproduced"
    missed = dataclasses.replace(result, two_timescales=dataclasses.replace(result.two_timescales, covered=~everywhere))
    assert claim(missed, "Two timescales").verdict == "not reproduced"
    uniform = dataclasses.replace(missed, settings=ReproductionSettings(uniform=True))
    assert claim(uniform, "Two timescales").verdict == "for information"
    assert not claim(dataclasses.replace(result, sweep=result.sweep[::-1]), "Median loss").holds
    online = result.start.online
    astray = dataclasses.replace(online, positions=online.positions + 0.1)
    moved = dataclasses.replace(result, start=dataclasses.replace(result.start, online=astray))
    assert claim(moved, "One start: neurons that end off").verdict == "not reproduced"


def test_a_training_error_above_the_published_one_is_not_reproduced(result):
    (each,) = result.sampled
    for error, verdict in ((0.0109, "reproduced"), (0.0111, "not reproduced")):
        training = {**each.training, "two timescales": np.full(3, error)}
        changed = dataclasses.replace(result, sampled=(dataclasses.replace(each, training=training),))
        assert claim(changed, "ReLU teacher: training error").verdict == verdict


def test_equal_rates_that_end_lower_are_no_reproduction(result):
    (each,) = result.sampled
    for error, holds in ((0.004, False), (0.006, True)):
        training = {**each.training, "two timescales": np.full(3, 0.005), "equal rates": np.full(3, error)}
        changed = dataclasses.replace(result, sampled=(dataclasses.replace(each, training=training),))
        assert claim(changed, "ReLU teacher: equal rates").holds is holds


def test_equal_rates_take_the_best_of_their_step_sizes(result):
    found = compare_on_samples("ReLU", SMALL_RELU, [0, 1])
    sizes = [SMALL_RELU.step_size * multiple for multiple in EQUAL_RATES_STEP_SIZES]
    medians = [
        np.median(run_sampled(dataclasses.replace(SMALL_RELU, step_size=size), 1.0, [0, 1]).training_error)
        for size in sizes
    ]
    assert found.medians("equal rates")[0] == medians[0]
    assert found.medians("equal rates, best step size")[0] == min(medians)
    two = run_sampled(SMALL_RELU, None, [0, 1])
    np.testing.assert_array_equal(found.test["two timescales"], two.test_error)


def test_noise_and_covariate_shift_are_run_on_the_seeds_of_the_key(result):
    (each,) = result.disturbed
    assert [table.kind for table in each.tables] == ["label noise", "input noise", "covariate shift"]
    for table in each.tables:
        assert table.levels[0] == 0
        np.testing.assert_array_equal(table.two_timescales[0], run_sampled(SMALL_RELU, None, [0, 1]).test_error)
    assert ReproductionSettings(full=True).disturbed_seeds == 20
    assert ReproductionSettings(seeds=5).disturbed_seeds == 5


@pytest.mark.parametrize("seeds", [5, 20, 100])
def test_the_interval_of_a_share_is_exact_at_its_ends(seeds):
    low, high = share_interval(0, seeds)
    assert low == 0
    # No success in n tries has probability (1 - p)^n.
    assert (1 - high) ** seeds == pytest.approx(0.025)
    assert share_interval(seeds, seeds) == pytest.approx((1 - high, 1.0))


def test_the_file_holds_the_figures(result, tmp_path):
    record = json.loads(write_json(tmp_path / "result.json", result.as_dict()).read_text())
    assert [each["verdict"] for each in record["claims"]] == [each.verdict for each in result.claims]
    online = record["one_start"]["dynamics"]["online descent"]
    np.testing.assert_array_equal(online["positions"], result.start.online.positions)
    assert record["coverage"][1]["losses"] == result.two_timescales.losses.tolist()
    assert record["sampled"][0]["training"]["limit"] == result.sampled[0].training["limit"].tolist()
    label_noise = record["disturbed"][0]["tables"][0]
    assert label_noise["levels"][1]["equal_rates"] == result.disturbed[0].tables[0].equal_rates[1].tolist()
    assert "positions" not in result.as_dict(trajectories=False)["one_start"]["dynamics"]["online descent"]


@pytest.mark.parametrize(("settings", "line"), [({"seeds": 0}, "seeds: expected"), ({"key": -1}, "key: expected")])
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(ForetrainError, match=line):
        ReproductionSettings(**settings)


def test_equal_rates_run_as_published(result):
    assert result.start.equal_rates == EQUAL_RATES
    assert result.start.equal.steps == 1_000_000
