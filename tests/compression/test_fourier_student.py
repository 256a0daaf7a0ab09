from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, ignore_progress
from foretrain.compression import Budget
from foretrain.compression._fourier_student import fourier_students, pruned
from foretrain.compression._stages import Effort, StageLog
from foretrain.compression._width import within_budget
from foretrain.data import OperatorDataset
from foretrain.deployment import OnnxPackager
from foretrain.models import FilteredFourierOperator

OPERATOR = FilteredFourierOperator(64, 8, 5, reflection=-1)
EXPORT = OnnxPackager(latency_repeats=1)


@pytest.fixture(scope="module")
def measure(circle):
    return lambda network: EXPORT(network, "float32", circle.inputs)


@pytest.fixture(scope="module")
def known(circle):
    """A network of this form with five neurons, and functions it labelled."""
    network = replace(OPERATOR, width=5, modes=4, output_modes=3).initialise(circle, jax.random.key(3))
    readout = jax.random.normal(jax.random.key(4), network.readout.shape)
    network = eqx.tree_at(lambda net: net.readout, network, readout)
    mixing = np.random.default_rng(0).standard_normal((140, len(circle))) / np.sqrt(len(circle))
    inputs = mixing @ circle.inputs
    outputs = np.asarray(network(inputs), np.float64)
    return network, OperatorDataset(inputs, outputs, circle.sensor_points, circle.query_points)


def drawn(operator, data):
    network = operator.initialise(data, jax.random.key(0))
    return eqx.tree_at(lambda net: net.readout, network, jax.random.normal(jax.random.key(1), network.readout.shape))


@pytest.mark.parametrize(("name", "limit"), [("numbers", 700), ("bytes", 12_000)])
def test_the_widest_within_budget_keeps_it_and_one_wider_by_little_does_not(circle, measure, name, limit):
    (operator,) = within_budget([OPERATOR], Budget(**{name: limit}), circle, measure)
    kept = getattr(measure(drawn(operator, circle)), name)
    over = getattr(measure(drawn(replace(operator, width=operator.width + 2), circle)), name)
    assert kept <= limit < over


def test_fewer_modes_leave_room_for_more_neurons_and_no_budget_for_all(circle, measure):
    many, few = within_budget([OPERATOR, replace(OPERATOR, modes=3)], Budget(numbers=700), circle, measure)
    assert 1.3 * many.width < few.width < OPERATOR.width
    assert within_budget([OPERATOR], Budget(), circle, measure) == [OPERATOR]


def test_a_budget_too_small_for_any_student_is_refused_with_the_least_that_is_not(circle, measure):
    with pytest.raises(ForetrainError, match="expected a budget of at least") as refused:
        within_budget([OPERATOR], Budget(numbers=50), circle, measure)
    said = str(refused.value)
    assert "\n" not in said
    least = int(said.split("at least ")[1].split(" stored")[0].replace(",", ""))
    (narrowest,) = within_budget([OPERATOR], Budget(numbers=least), circle, measure)
    assert measure(drawn(narrowest, circle)).numbers == least
    with pytest.raises(ForetrainError, match="expected a budget of at least"):
        within_budget([OPERATOR], Budget(numbers=least - 1), circle, measure)


def test_pruning_leaves_out_the_neurons_that_say_nothing(circle):
    network = drawn(replace(OPERATOR, width=9), circle)
    silent = np.array([1, 4, 6, 8])
    columns = np.concatenate([silent, silent + 9])
    network = eqx.tree_at(lambda net: net.readout, network, network.readout.at[:, columns].set(0))
    smaller = pruned(network, circle.inputs, 5, key=0)
    assert smaller.readout.shape == (6, 10)
    np.testing.assert_allclose(smaller(circle.inputs), network(circle.inputs), atol=1e-5)


@pytest.mark.slow
def test_students_of_a_network_of_their_own_form_come_close_to_it_and_each_stage_says_how_close(known, measure):
    network, data = known
    lessons, check = data.split(test=40, key=0)
    log = StageLog()
    log.record("teacher", 0.0, 0.0)
    budget, effort = Budget(numbers=400), Effort(4000, 25)
    students = fourier_students(lessons, check, budget, measure, effort, log, 0, ignore_progress)
    assert measure(students[0]).numbers <= 400
    assert len(students[1].biases) == len(students[0].biases) // 2
    assert [stage.name.split()[0] for stage in log.stages] == ["teacher", "draw", "distil,", "prune", "distil,"]
    for student, stage in zip(students, (log.stages[2], log.stages[4]), strict=True):
        answers, truth = np.asarray(student(check.inputs)), np.asarray(network(check.inputs))
        misses = np.linalg.norm(answers - truth, axis=1) / np.linalg.norm(truth, axis=1)
        assert stage.error_after == pytest.approx(np.mean(misses), rel=1e-3)
        assert stage.error_after < stage.error_before
    linear = np.linalg.lstsq(lessons.inputs, lessons.outputs, rcond=1e-6)[0]
    misses = np.linalg.norm(check.inputs @ linear - check.outputs, axis=1) / np.linalg.norm(check.outputs, axis=1)
    assert log.stages[2].error_after < 0.1 * np.mean(misses)
