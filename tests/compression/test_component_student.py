import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.compression import Budget, BudgetTooSmall
from foretrain.compression._component_student import WIDE, ComponentStudent, refitted, wide_draw
from foretrain.data import OperatorDataset
from foretrain.deployment import OnnxPackager
from foretrain.training import variable_projection


@pytest.fixture
def known(component, interval):
    """A student, many inputs, and the outputs of its own network on them."""
    factors = np.random.default_rng(0).uniform(0.5, 1.5, (5, len(interval), 1))
    inputs = (factors * interval.inputs).reshape(-1, interval.inputs.shape[1])
    return component, inputs, np.asarray(component.network(inputs), np.float64)


def refitted_to(student, weights, inputs, outputs):
    moved = student.with_weights(weights, np.zeros(student.network.outer.shape))
    return refitted(moved, OperatorDataset(inputs, outputs))


def distance(one, other):
    return np.linalg.norm(np.asarray(one, np.float64) - other) / np.linalg.norm(other)


def test_inner_and_outer_layer_on_rows_are_the_network(known):
    teacher, inputs, outputs = known
    for rows, targets in [*teacher.batches(inputs, outputs), teacher.sample(inputs, outputs, 200, key=3)]:
        answers = np.asarray(teacher.hidden(teacher.inner(), rows), np.float64) @ np.asarray(
            teacher.network.outer, np.float64
        )
        assert len(rows) == len(targets)
        assert distance(answers, targets) < 1e-5


def test_batches_hold_everything_once(known):
    teacher, inputs, outputs = known
    targets = np.concatenate([targets for _, targets in teacher.batches(inputs, outputs)])
    # Orthonormal components of what lies in their span: lengths and scalar products stay.
    centred = outputs - np.asarray(teacher.network.output_mean, np.float64)
    np.testing.assert_allclose(targets @ targets.T, centred @ centred.T, atol=1e-5 * np.sum(centred[0] ** 2))


def test_samples_are_rows_of_the_batches_spread_over_the_functions(known):
    teacher, inputs, outputs = known
    rows, targets = teacher.sample(inputs, outputs, 100, key=3)
    assert len(rows) == 100
    everything = np.concatenate([targets for _, targets in teacher.batches(inputs, outputs)])
    where = [int(np.argmin(np.abs(everything - target).sum(axis=1))) for target in targets]
    np.testing.assert_allclose(everything[where], targets, rtol=1e-12)
    per_function = len(everything) // len(inputs)
    assert len({place // per_function for place in where}) > 70
    again, other = teacher.sample(inputs, outputs, 100, key=3), teacher.sample(inputs, outputs, 100, key=4)
    np.testing.assert_array_equal(again[0], rows)
    assert not np.array_equal(other[1], targets)


def test_keeping_neurons_is_taking_the_others_out(known):
    teacher, inputs, _ = known
    chosen = np.array([1, 2, 5])
    smaller = teacher.keep(chosen)
    assert smaller.width == 3
    outer = np.array(teacher.network.outer, np.float64)
    outer[np.setdiff1d(np.arange(teacher.width), chosen)] = 0
    silenced = teacher.with_weights(teacher.inner(), outer)
    assert distance(smaller.network(inputs), np.asarray(silenced.network(inputs), np.float64)) < 1e-5


def test_refitting_recovers_the_outer_layer_of_a_network_it_does_not_know(known):
    teacher, inputs, outputs = known
    blank = teacher.with_weights(teacher.inner(), np.zeros(teacher.network.outer.shape))
    assert distance(blank.network(inputs), outputs) > 0.5
    assert distance(refitted_to(blank, blank.inner(), inputs, outputs).network(inputs), outputs) < 1e-4


def test_distilling_recovers_a_teacher_of_the_same_form_from_inner_weights_a_fifth_off(known):
    teacher, inputs, outputs = known
    keys = iter(jax.random.split(jax.random.key(5), 2))
    start = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), teacher.inner())
    before = refitted_to(teacher, start, inputs, outputs)
    rows, targets = teacher.sample(inputs, outputs, 1500, key=0)
    result = variable_projection(
        teacher.hidden, start, rows, jnp.asarray(targets, jnp.float32), evaluations=400, stage="distilling"
    )
    after = refitted_to(teacher, result.weights, inputs, outputs)
    assert distance(before.network(inputs), outputs) > 0.02
    assert distance(after.network(inputs), outputs) < 1e-4


def test_a_budget_too_small_for_any_student_is_refused_with_the_least_that_is_not(interval):
    def measure(network):
        return OnnxPackager(latency_repeats=1)(network, "float32", interval.inputs)

    with pytest.raises(BudgetTooSmall, match="expected a budget of at least") as refused:
        wide_draw(interval, Budget(numbers=100), measure)
    said = str(refused.value)
    assert "\n" not in said
    least = int(said.split("at least ")[1].split(" stored")[0].replace(",", ""))
    narrowest = ComponentStudent.draw(wide_draw(interval, Budget(numbers=least), measure), interval, key=0)
    kept = narrowest.keep(np.arange(narrowest.width // WIDE))
    assert kept.width == 8
    assert 0.98 * least < measure(kept.network).numbers <= least
    size = measure(kept.network).bytes + 300
    in_bytes = wide_draw(interval, Budget(bytes=size), measure)
    drawn = in_bytes.initialise(interval, jax.random.key(0))
    assert measure(ComponentStudent(drawn).keep(np.arange(in_bytes.width // WIDE)).network).bytes <= size


@pytest.mark.slow
def test_functions_that_jump_get_the_components_they_need_and_smooth_ones_no_more_than_usual(interval):
    def measure(network):
        return OnnxPackager(latency_repeats=1)(network, "float32", jumps.inputs)

    points, places = np.arange(64) / 64, np.random.default_rng(0).uniform(0, 1, (300, 1))
    widths, heights = np.random.default_rng(1).uniform(0.2, 0.5, (300, 1)), np.linspace(1, 2, 300)[:, None]
    # Blocks somewhere on a ring, carried a third around it: exact between all components only.
    before, after = (heights * (np.mod(points - where, 1) < widths) for where in (places, places + 21 / 64))
    jumps = OperatorDataset(before, after, points, points)
    roomy, tight = (wide_draw(jumps, Budget(numbers=numbers), measure) for numbers in (40_000, 2500))
    assert roomy.input_components > 40
    assert tight.input_components <= 24
    waves = OperatorDataset(*(wave(2 * np.pi * (points - places)) for wave in (np.cos, np.sin)), points, points)
    assert wide_draw(waves, Budget(numbers=40_000), measure).input_components == 24
