"""What the teacher is asked, and what students then learn from."""

import numpy as np
import pytest

from foretrain._foundation import DataError, ignore_progress
from foretrain.compression import Budget, compress
from foretrain.compression._lessons import lessons_of, not_among
from foretrain.compression._stages import StageLog
from foretrain.deployment import OnnxPackager
from foretrain.problems import darcy

LIGHT = {"package": OnnxPackager(latency_repeats=3), "rows": 300, "evaluations": 2}


class Listening:
    """A teacher that is a known map, and keeps what it was asked."""

    def __init__(self, points):
        self.asked, self._points = [], points

    def __call__(self, inputs):
        self.asked.append(inputs)
        return np.cumsum(inputs, axis=1)[:, : self._points] + 2


@pytest.fixture
def parts(interval):
    return interval.split(20, key=0)


def lessons(teacher, parts, unlabelled, fresh):
    log = StageLog()
    return lessons_of(teacher, parts[0], unlabelled, fresh, 0, log, parts[1], ignore_progress), log.stages[0].name


def test_given_inputs_come_after_the_training_functions_with_the_teachers_answers(parts):
    given = np.random.default_rng(0).standard_normal((300, 20))
    teacher = Listening(20)
    made, words = lessons(teacher, parts, given, 0)
    assert len(made) == 60 + 300
    np.testing.assert_array_equal(made.outputs[:60], parts[0].outputs)
    np.testing.assert_array_equal(made.inputs[60:], given)
    np.testing.assert_allclose(made.outputs[60:], np.cumsum(given, axis=1) + 2)
    assert words == "teacher labels 300 given inputs"
    beside, words = lessons(teacher, parts, given, 50)
    assert len(beside) == 410
    assert words == "teacher labels 300 given inputs and 50 fresh inputs"
    drawn, words = lessons(teacher, parts, None, 50)
    np.testing.assert_array_equal(drawn.inputs[60:], beside.inputs[360:])
    assert words == "teacher labels 50 fresh inputs"


def test_given_inputs_that_judge_are_not_learnt(parts):
    given = np.concatenate([parts[1].inputs[:7], np.random.default_rng(0).standard_normal((5, 20))])
    made, words = lessons(Listening(20), parts, given, 0)
    np.testing.assert_array_equal(made.inputs[60:], given[7:])
    assert words == "teacher labels 5 given inputs (7 that judge left out)"
    np.testing.assert_array_equal(not_among(given, parts[1].inputs), given[7:])


GIVEN = {
    "other sensors": (np.ones((3, 19)), "expected values at 20 sensors, came 19"),
    "one function without its axis": (np.ones(20), r"\[functions, 20\], came an array of shape \[20\]"),
    "no functions": (np.ones((0, 20)), r"came an array of shape \[0, 20\]"),
    "complex numbers": (np.ones((3, 20)) * 1j, "expected real numbers"),
    "NaN": (np.where(np.arange(60).reshape(3, 20) == 25, np.nan, 1.0), "finite numbers, .* first in row 1"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_given_inputs_that_do_not_fit_are_refused_in_one_line(parts, case):
    values, message = GIVEN[case]
    with pytest.raises(DataError, match=f"unlabelled inputs: .*{message}") as refused:
        compress(Listening(20), Budget(), parts[0], test=parts[1], unlabelled=values, **LIGHT)
    assert "\n" not in str(refused.value)


def test_a_teacher_that_does_not_fit_is_refused_before_it_labels(parts):
    teacher = Listening(13)
    with pytest.raises(DataError, match=r"the teacher: expected outputs \[20, 20\] from inputs \[20, 20\], came"):
        compress(teacher, Budget(), parts[0], test=parts[1], **LIGHT)
    assert len(teacher.asked) == 1
    with pytest.raises(DataError, match="the teacher: expected finite outputs"):
        compress(lambda inputs: np.full((len(inputs), 20), np.nan), Budget(), parts[0], test=parts[1], **LIGHT)


@pytest.mark.slow
def test_patterned_inputs_of_the_user_are_learnt_where_none_are_drawn():
    flow = darcy(60, resolution=13, simulation_resolution=25)
    train, test = flow.split(20, key=0)
    more = darcy(30, resolution=13, simulation_resolution=25, key=5).inputs
    assert set(np.unique(more)) == set(np.unique(flow.inputs))
    teacher = Listening(169)
    small = compress(teacher, Budget(numbers=3000), train, test=test, unlabelled=more, **LIGHT)
    assert small.stages[0].name == "teacher labels 30 given inputs"
    asked = {row.tobytes() for row in np.concatenate(teacher.asked)}
    assert {row.tobytes() for row in more} <= asked
    assert len(asked) == 30 + len({row.tobytes() for row in test.inputs})
