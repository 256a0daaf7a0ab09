import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.training import refit_outer_layer, variable_projection

FORMS = ["fourier", "odd fourier", "component"]


@pytest.fixture(params=FORMS)
def known(request, student):
    """A student, many inputs, and the outputs of its own network on them."""
    teacher, data = student(request.param)
    # More functions than one batch holds.
    factors = np.random.default_rng(0).uniform(0.5, 1.5, (5, len(data), 1))
    inputs = (factors * data.inputs).reshape(-1, data.inputs.shape[1])
    return teacher, inputs, np.asarray(teacher.network(inputs), np.float64)


def outer_layer(teacher):
    outer = np.asarray(teacher.network.outer, np.float64)
    return outer if outer.ndim == 2 else outer[:, None]


def refitted(student, weights, inputs, outputs):
    outer = refit_outer_layer(lambda rows: student.hidden(weights, rows), student.batches(inputs, outputs))
    return student.with_weights(weights, outer)


def distance(one, other):
    return np.linalg.norm(np.asarray(one, np.float64) - other) / np.linalg.norm(other)


def test_inner_and_outer_layer_on_rows_are_the_network(known):
    teacher, inputs, outputs = known
    for rows, targets in [*teacher.batches(inputs, outputs), teacher.sample(inputs, outputs, 200, key=3)]:
        answers = np.asarray(teacher.hidden(teacher.inner(), rows), np.float64) @ outer_layer(teacher)
        assert len(rows) == len(targets)
        assert distance(answers, targets) < 1e-5


def test_batches_hold_everything_once(known):
    teacher, inputs, outputs = known
    targets = np.concatenate([targets for _, targets in teacher.batches(inputs, outputs)])
    network = teacher.network
    if targets.shape[1] == 1:
        values = np.sort(((outputs - network.scale.offset) / network.scale.scale).ravel())
        np.testing.assert_allclose(np.sort(targets.ravel()), values, rtol=1e-12)
    else:
        # Orthonormal components of what lies in their span: lengths and scalar products stay.
        centred = outputs - np.asarray(network.output_mean, np.float64)
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
    outer = outer_layer(teacher).copy()
    outer[np.setdiff1d(np.arange(teacher.width), chosen)] = 0
    silenced = teacher.with_weights(teacher.inner(), outer)
    assert distance(smaller.network(inputs), np.asarray(silenced.network(inputs), np.float64)) < 1e-5


def test_refitting_recovers_the_outer_layer_of_a_network_it_does_not_know(known):
    teacher, inputs, outputs = known
    blank = teacher.with_weights(teacher.inner(), np.zeros(outer_layer(teacher).shape))
    assert distance(blank.network(inputs), outputs) > 0.5
    assert distance(refitted(blank, blank.inner(), inputs, outputs).network(inputs), outputs) < 1e-4


def test_distilling_recovers_a_teacher_of_the_same_form_from_inner_weights_a_fifth_off(known):
    teacher, inputs, outputs = known
    keys = iter(jax.random.split(jax.random.key(5), 2))
    start = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), teacher.inner())
    before = refitted(teacher, start, inputs, outputs)
    rows, targets = teacher.sample(inputs, outputs, 1500, key=0)
    result = variable_projection(
        teacher.hidden, start, rows, jnp.asarray(targets, jnp.float32), evaluations=400, stage="distilling"
    )
    after = refitted(teacher, result.weights, inputs, outputs)
    assert distance(before.network(inputs), outputs) > 0.02
    assert distance(after.network(inputs), outputs) < 1e-4
