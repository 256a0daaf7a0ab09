import numpy as np
import pytest

from foretrain import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import FilteredFourierOperator, ShallowOperator
from foretrain.problems import antiderivative
from foretrain.training import TwoTimescale, TwoTimescaleRecord, train_two_timescales
from foretrain.training._two_timescale_forecast import (
    Expected,
    LearningLaw,
    evaluations_until,
    forecast_two_timescales,
    parted,
    sampling_spread,
    seconds_each,
)

MODEL = ShallowOperator(6, 16, activation="tanh", form="shared")
STEPS = 400


def curved(samples: int, key: int = 0, noise: float = 0.05) -> OperatorDataset:
    linear = antiderivative(samples=samples, resolution=16, modes=6, key=key)
    random = np.random.default_rng(key).standard_normal(linear.outputs.shape)
    outputs = np.tanh(2 * linear.outputs) + noise * np.std(linear.outputs) * random
    return OperatorDataset(linear.inputs, outputs, linear.sensor_points, linear.query_points)


@pytest.fixture(scope="module")
def train() -> OperatorDataset:
    return curved(240)


@pytest.fixture(scope="module")
def unseen() -> OperatorDataset:
    return curved(400, key=2)


@pytest.fixture(scope="module")
def told(train):
    return forecast_two_timescales(train, MODEL, steps=STEPS, key=1, target_error=0.5, price_per_hour=3.6)


@pytest.fixture(scope="module")
def run(train):
    return train_two_timescales(train, MODEL, steps=STEPS, key=1)


@pytest.mark.parametrize("kept", [0.4, 0.5, 0.7])
def test_a_law_is_read_off_its_own_errors_exactly_and_carried_on(kept):
    law = LearningLaw(step=40.0, error=0.07, slope=0.13, kept=kept)
    steps = np.array([4, 10, 12, 17, 21, 30, 33, 40])
    read = LearningLaw.read_off(steps, [law.at(step) for step in steps], kept)
    assert (read.step, read.kept) == (40.0, kept)
    assert read.error == pytest.approx(0.07, rel=1e-12)
    assert read.slope == pytest.approx(0.13, rel=1e-12)
    # By hand: three doublings bring the slope times kept, kept^2 and kept^3.
    assert read.at(320) == pytest.approx(0.07 * np.exp(-0.13 * (kept + kept**2 + kept**3)), rel=1e-12)


def test_the_step_of_an_error_is_where_the_law_reaches_it_and_none_below_its_floor():
    law = LearningLaw(step=40.0, error=0.07, slope=0.2, kept=0.7)
    assert law.at(law.step_of(0.06)) == pytest.approx(0.06, rel=1e-12)
    floor = 0.07 * np.exp(-0.2 * (0.7 / 0.3))
    assert law.step_of(1.001 * floor) is not None
    assert law.step_of(0.999 * floor) is None
    assert law.step_of(0.08) == 40.0


def test_a_law_of_an_error_that_no_longer_falls_is_flat():
    law = LearningLaw.read_off([10, 20, 30, 40], [0.1, 0.11, 0.12, 0.13])
    assert law.slope == 0.0
    assert law.at(1000) == law.error
    assert law.step_of(0.5 * law.error) is None


def test_time_per_evaluation_is_a_straight_line_s_slope_whatever_was_compiled_first():
    steps = [0, 1, 2, 3, 5, 8, 12, 17, 24, 30, 40]
    records = [TwoTimescaleRecord(step, 1.0, 0.1, None, 0.0, 0.0, 7.0 + 0.02 * step) for step in steps]
    first = TwoTimescaleRecord(0, 1.0, 0.1, None, 0.0, 0.0, 1.0)
    each = seconds_each([first, *records[1:]])
    assert (each.value, each.lower, each.upper) == pytest.approx((0.02, 0.02, 0.02), rel=1e-9)


def test_the_sampling_spread_is_that_of_means_over_functions_drawn_at_random():
    rng = np.random.default_rng(0)
    sizes = rng.uniform(1, 3, 4000)
    grid = np.linspace(0, 1, 4)[:, None]
    data = OperatorDataset(rng.standard_normal((4000, 4)), sizes[:, None] * np.ones((1, 4)) / 2, grid, grid)
    means = [np.mean(0.1 / rng.choice(sizes, 25)) for _ in range(4000)]
    assert sampling_spread(data, 25) == pytest.approx(np.std(np.log(means)), rel=0.05)


def test_a_run_ends_with_the_evaluations_its_last_fall_asks_for(train):
    run = train_two_timescales(train, MODEL, steps=STEPS, key=1)
    # Of the last falls possible, the evaluations of exactly one or two are the run's.
    falls = [step for step in range(STEPS) if evaluations_until(step, STEPS) == run.evaluations]
    assert 1 <= len(falls) <= 2
    cut = train_two_timescales(train, MODEL, steps=falls[-1], key=1)
    errors = [record.held_out_error for record in cut.records]
    assert errors[-1] == min(errors)
    assert evaluations_until(10_000, STEPS) == STEPS + 1


def test_most_runs_of_a_small_problem_end_within_the_bands(train, unseen):
    held = []
    for key in range(5):
        told = forecast_two_timescales(train, MODEL, steps=STEPS, key=key)
        run = train_two_timescales(train, MODEL, steps=STEPS, key=key)
        held += [told.evaluations.holds(run.evaluations), told.test_error.holds(run.score(unseen))]
    # Of ten numbers, each in its band nine times of ten: fewer than eight has a chance of 7 %.
    assert sum(held) >= 8


def test_price_and_target_follow_from_seconds_and_error(train, told):
    assert told.price == told.seconds.times(0.001)
    assert told.test_error.upper < 0.5
    assert told.target_reached == "expected"
    assert told.steps_to in [record.step for record in told.records]
    below, within = told.test_error.lower / 2, told.test_error.value
    again = {
        target: forecast_two_timescales(train, MODEL, steps=STEPS, key=1, target_error=target)
        for target in (below, within)
    }
    assert again[below].target_reached == "not expected"
    assert again[below].steps_to is None
    assert again[within].target_reached == "possible"


def test_the_rehearsal_is_the_beginning_of_the_run(told, run):
    of_run = {record.step: record.held_out_error for record in run.records}
    shared = [record for record in told.records if record.step in of_run]
    assert len(shared) > 10
    assert all(record.held_out_error == of_run[record.step] for record in shared)
    assert told.records[-1].step < 0.6 * run.evaluations


def test_a_run_no_longer_than_its_rehearsal_is_told_exactly(train):
    told = forecast_two_timescales(train, MODEL, steps=10)
    run = train_two_timescales(train, MODEL, steps=10)
    assert told.evaluations == Expected(run.evaluations, run.evaluations, run.evaluations)


def test_the_gap_is_what_the_held_out_error_fell_less_than_the_root_of_the_loss():
    def record(step: int, loss: float, held_out_error: float) -> TwoTimescaleRecord:
        return TwoTimescaleRecord(step, loss, held_out_error, None, 0.0, 0.0, 0.0)

    start = [record(0, 9.0, 2.0), record(3, 1.0, 0.4)]
    assert parted([*start, record(40, 0.01, 0.2)]) == pytest.approx(np.log(10) - np.log(2), rel=1e-12)
    assert parted([*start, record(40, 0.01, 0.02)]) == 0.0


def test_an_error_that_falls_steeply_is_rehearsed_for_longer():
    data, model = curved(240, noise=0.0), ShallowOperator(16, 48, activation="tanh", form="shared")
    short = forecast_two_timescales(data, model, steps=400)
    assert short.records[-1].step == 40
    assert short.law.slope > 0.25
    longer = forecast_two_timescales(data, model, steps=640)
    assert longer.records[-1].step == 160
    assert longer.test_error.upper < short.records[-1].held_out_error


def test_what_is_said_names_every_number(told):
    for words in ("evaluations [", " s [", "test error", "price", "50.00% expected"):
        assert words in told.said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("few functions", "80 functions or more, came 60"),
        ("none held out", "held out"),
        ("no steps", "at least 3 steps, came 2"),
        ("target", "target_error above 0, came -1"),
        ("price", "price_per_hour above 0, came 0"),
        ("fourier", "FilteredFourierOperator"),
    ],
)
def test_what_cannot_be_forecast_is_refused_in_one_line(train, change, words):
    asked = {
        "few functions": {"train": train.take(np.arange(60))},
        "none held out": {"method": TwoTimescale(held_out=0.0)},
        "no steps": {"steps": 2},
        "target": {"target_error": -1},
        "price": {"price_per_hour": 0},
        "fourier": {"model": FilteredFourierOperator(8)},
    }[change]
    with pytest.raises(ForetrainError, match=words) as error:
        forecast_two_timescales(**({"train": train, "model": MODEL, "steps": 20} | asked))
    assert "\n" not in str(error.value)
