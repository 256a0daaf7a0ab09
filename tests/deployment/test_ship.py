"""Budgets hold for the file as it is shipped, its band and its score included."""

from dataclasses import replace

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, BudgetTooSmall, compress
from foretrain.data import OperatorDataset
from foretrain.deployment import OnnxPackager, Runtime, compress_with_trust, set_aside, stored_numbers, with_trust

PACKAGE = OnnxPackager(latency_repeats=1)
QUICK = {"package": PACKAGE, "fresh": 0, "rows": 100, "evaluations": 1}


SENSORS = 20


def teacher(inputs):
    return np.tanh(np.cumsum(inputs, axis=1) / 3)


def drawn(count, key):
    smooth = np.exp(-0.5 * (np.subtract.outer(np.arange(SENSORS), np.arange(SENSORS)) / 1.2) ** 2)
    return np.random.default_rng(key).standard_normal((count, SENSORS)) @ smooth


@pytest.fixture(scope="module")
def parts():
    """300 functions at 20 points of no grid, for students between components; full trust is some 250 numbers."""
    points, inputs = np.sort(np.random.default_rng(0).random(SENSORS)), drawn(300, 1)
    return OperatorDataset(inputs, teacher(inputs), points, points).split(60, key=0)


def shipped(parts, budget):
    return compress_with_trust(teacher, budget, *parts, **QUICK)


@pytest.mark.slow
def test_students_leave_the_room_that_trust_takes(parts):
    small, line = shipped(parts, Budget(numbers=2500))
    file = small.chosen.package.file
    runtime = Runtime(file)
    assert runtime.band is not None
    assert runtime.out_of_range.directions.shape[1] == 8
    assert small.chosen.numbers == stored_numbers(file) <= 2500
    assert small.chosen.bytes == len(file)
    assert "no room" not in line
    # As wide as it may be: one neuron more would not fit.
    widest = small.candidates[1]
    each = widest.network.weights.shape[0] + widest.network.outer.shape[1] + 1
    assert 2500 - each < widest.numbers <= 2500
    # Without room kept, the widest student of the same budget leaves the score none.
    judge, _ = set_aside(parts[1])
    alone = compress(teacher, Budget(numbers=2500), parts[0], test=judge, **QUICK)
    needed = small.chosen.numbers - with_trust(small.chosen.package).numbers
    assert alone.candidates[1].numbers + needed > 2500


def test_every_row_is_what_its_own_file_weighs_with_trust(parts):
    small, _ = shipped(parts, Budget(numbers=2500))
    for row in small.candidates[1:]:
        assert (row.numbers, row.bytes) == (stored_numbers(row.package.file), len(row.package.file))
        assert row.package.runtime.band is not None
    floats, halves = (small.candidates[place].package.runtime.band.half_width for place in (1, 2))
    # Around that file's own answers.
    assert not np.array_equal(floats, halves)


@pytest.mark.parametrize("draw", [0, *(pytest.param(draw, marks=pytest.mark.slow) for draw in range(1, 6))])
def test_no_shipped_file_exceeds_a_random_budget_silently(parts, draw, tmp_path):
    rng = np.random.default_rng(draw)
    limits = {"numbers": int(10 ** rng.uniform(2.3, 3.6)), "bytes": int(10 ** rng.uniform(3.6, 4.6))}
    budget = Budget(**{name: limit for name, limit in limits.items() if draw % 3 != ("numbers", "bytes").index(name)})
    try:
        small, _ = shipped(parts, budget)
    except BudgetTooSmall:
        return
    for row in small.candidates[1:]:
        exceeds = budget.excess(0.0, stored_numbers(row.package.file), len(row.package.file), 0.0)
        assert exceeds == row.excess
    if small.chosen is None:
        with pytest.raises(ForetrainError, match="nothing keeps the budget"):
            small.export(tmp_path / "model.onnx")
        return
    file = small.export(tmp_path / "model.onnx").read_bytes()
    assert budget.excess(0.0, stored_numbers(file), len(file), 0.0) == ""


@pytest.mark.slow
def test_trust_gives_way_where_no_student_would_fit_beside_it(parts):
    with pytest.raises(BudgetTooSmall) as refused:
        shipped(parts, Budget(numbers=300))
    least = int(str(refused.value).split("at least ")[1].split(" stored")[0].replace(",", ""))
    small, line = shipped(parts, Budget(numbers=least + 45))
    assert small.chosen.numbers <= least + 45
    assert small.chosen.package.runtime.band is not None
    assert "no room in the budget for the out-of-range score" in line


def test_what_is_put_into_a_chosen_file_later_is_refused_at_export(parts, tmp_path):
    small, _ = shipped(parts, Budget(numbers=2500))
    grown = replace(small, budget=Budget(numbers=small.chosen.numbers - 1))
    with pytest.raises(ForetrainError, match=r"the chosen file exceeds the budget \(numbers [\d,]+ over [\d,]+\)"):
        grown.export(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_test_functions_among_the_given_inputs_are_not_learnt_and_it_is_said(parts):
    train, test = parts
    more = drawn(30, 9)
    asked = []

    def listening(inputs):
        asked.append(inputs)
        return teacher(inputs)

    given = np.concatenate([more, test.inputs[:11]])
    options = {**QUICK, "fresh": 0}
    _, line = compress_with_trust(listening, Budget(numbers=2500), train, test, unlabelled=given, **options)
    assert "11 unlabelled inputs that are test functions were left out" in line
    calibration = {row.tobytes() for row in set_aside(test)[1].inputs}
    assert not calibration & {row.tobytes() for row in np.concatenate(asked)}
