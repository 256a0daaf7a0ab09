import numpy as np
import pytest

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.problems import _advection as module
from foretrain.problems._advection import advection


def drawn_fields(samples, key=0):
    return np.random.default_rng(key).standard_normal((samples, 100))


def field_values(coefficients, points):
    """The published sum over 50 cosines and 50 sines, term by term."""
    values = np.zeros((len(coefficients), len(points)))
    for index in range(50):
        angle = 2 * np.pi * (index + 1) * points
        deviation = ((2 * np.pi * (index + 1)) ** 2 + 9) ** -1.0
        values += np.sqrt(2) * deviation * np.outer(coefficients[:, 2 * index], np.cos(angle))
        values += np.sqrt(2) * deviation * np.outer(coefficients[:, 2 * index + 1], np.sin(angle))
    return values


def jumps(states):
    """Sign changes around the circle, of a grid that does not repeat its end."""
    return np.sum(states != np.roll(states, 1, axis=1), axis=1)


def row_of_each(states, others):
    """In which row of the others each state is found."""
    places = {other.tobytes(): row for row, other in enumerate(others)}
    return np.array([places[state.tobytes()] for state in np.ascontiguousarray(states)])


@pytest.mark.parametrize("time", [1.0, 0.7, 3.3])
def test_square_waves_are_carried_along_and_around(time):
    data = advection(50, "I", key=3, time=time)
    height, width, centre = (np.random.default_rng(3).random((50, 3)) * [1, 0.3, 0.4] + [1, 0.3, 0.3]).T[:, :, None]
    t, x = data.query_points.T
    inside = [np.abs(x - t + turns - centre) <= width / 2 for turns in range(-1, 6)]
    np.testing.assert_array_equal(data.outputs, np.any(inside, axis=0) * height)
    np.testing.assert_array_equal(data.inputs, (np.abs(data.sensor_points.T - centre) <= width / 2) * height)


def test_on_the_published_grid_square_waves_take_one_node_for_each_time():
    data = advection(20, "I")
    states = data.outputs.reshape(20, 40, 40)
    for step in range(40):
        np.testing.assert_array_equal(states[:, step, :39], np.roll(data.inputs[:, :39], step, axis=1))
    np.testing.assert_array_equal(states[:, :, 39], states[:, :, 0])
    np.testing.assert_array_equal(data.query_points[41], [1 / 39, 1 / 39])


def test_square_waves_keep_their_mean_and_their_total_variation():
    data = advection(20, "I", 60, repeat_end=False)
    states = data.outputs.reshape(20, 60, 60)
    np.testing.assert_allclose(states.mean(axis=2), np.repeat(data.inputs.mean(axis=1), 60).reshape(20, 60), rtol=1e-13)
    variation = np.abs(states - np.roll(states, 1, axis=2)).sum(axis=2)
    np.testing.assert_allclose(variation, np.repeat(2 * data.inputs.max(axis=1), 60).reshape(20, 60), rtol=1e-13)


def test_square_waves_are_as_high_and_wide_and_central_as_published():
    data = advection(600, "I", 64, repeat_end=False)
    height, width = data.inputs.max(axis=1), np.mean(data.inputs > 0, axis=1)
    centre = np.sum((data.inputs > 0) * data.sensor_points.T, axis=1) / np.sum(data.inputs > 0, axis=1)
    for values, low, high in ((height, 1, 2), (width, 0.3, 0.6), (centre, 0.3, 0.7)):
        assert values.min() >= low - 1 / 64
        assert values.max() <= high + 1 / 64
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * (high - low) / np.sqrt(12 * 600))
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.1)


def test_signs_are_those_of_the_field_at_the_points_and_behind_them():
    data, grid = advection(30, key=5, time=0.3), np.linspace(0, 1, 200)
    fields = drawn_fields(40, 5)
    rows = row_of_each(data.inputs, np.sign(field_values(fields, grid)))
    np.testing.assert_array_equal(data.outputs, np.sign(field_values(fields[rows], grid - 0.3)))
    np.testing.assert_array_equal(data.inputs[:, 0], data.inputs[:, -1])


@pytest.mark.parametrize(("resolution", "time", "nodes"), [(200, 0.5, 100), (64, 0.25, 16), (50, 2.1, 5)])
def test_a_grid_that_moves_onto_itself_only_has_its_values_reordered(resolution, time, nodes):
    data = advection(40, resolution=resolution, time=time, repeat_end=False)
    np.testing.assert_array_equal(data.outputs, np.roll(data.inputs, nodes, axis=1))


def test_without_its_end_the_published_grid_is_that_of_a_circle():
    published, circle = advection(100), advection(100, resolution=199, repeat_end=False)
    np.testing.assert_array_equal(published.inputs[:, :-1], circle.inputs)
    np.testing.assert_array_equal(published.outputs[:, :-1], circle.outputs)
    np.testing.assert_allclose(published.sensor_points[:-1], circle.sensor_points)


def test_signs_correlate_as_the_arcsine_law_says():
    draws, points = 4000, np.arange(1, 10) / 18
    eigenvalues = ((2 * np.pi * np.arange(1, 51)) ** 2 + 9) ** -2.0
    correlation = np.cos(2 * np.pi * np.outer(points, np.arange(1, 51))) @ eigenvalues / eigenvalues.sum()
    signs = module._signs(drawn_fields(draws), np.concatenate([[0.0], points]))
    seen = np.mean(signs[:, 1:] * signs[:, :1], axis=0)
    assert np.abs(seen - 2 / np.pi * np.arcsin(correlation)).max() < 4 / np.sqrt(draws)
    assert np.abs(signs.mean(axis=0)).max() < 4 / np.sqrt(draws)


def test_half_a_spacing_leaves_one_output_of_each_jump_at_even_odds():
    data = advection(1200, resolution=199, repeat_end=False)
    behind = np.stack([np.roll(data.inputs, 99, axis=1), np.roll(data.inputs, 100, axis=1)])
    agree = behind[0] == behind[1]
    # Two jumps within one spacing, which the sensors do not see, are rare.
    assert np.mean(data.outputs[agree] == behind[0][agree]) > 0.999
    undetermined = data.outputs[~agree]
    assert abs(undetermined.mean()) < 4 / np.sqrt(undetermined.size)
    error = np.linalg.norm(behind.mean(axis=0) - data.outputs, axis=1) / np.sqrt(199)
    assert error.mean() == pytest.approx(np.sqrt(jumps(data.inputs) / 199).mean(), rel=0.01)
    assert error.mean() == pytest.approx(0.112, abs=0.003)


def test_the_same_key_gives_the_same_functions_on_a_grid_twice_as_fine():
    coarse, fine = advection(150, resolution=100, key=2), advection(300, resolution=199, key=2)
    # Of functions that differ between the coarse nodes only the first is in the coarse data.
    rows = len(fine) - 1 - row_of_each(coarse.inputs, fine.inputs[::-1, ::2])
    assert np.all(np.diff(rows) > 0)
    np.testing.assert_array_equal(fine.outputs[rows, ::2], coarse.outputs)
    fine_skipped = advection(rows[-1] + 1, resolution=199, key=2).description["skipped"]
    assert rows[-1] + fine_skipped == 149 + coarse.description["skipped"]


def test_repeated_functions_are_skipped_and_counted():
    data = advection(400, resolution=100, key=1)
    drawn = np.sign(field_values(drawn_fields(400 + data.description["skipped"], 1), np.linspace(0, 1, 100)))
    first = np.sort(np.unique(drawn, axis=0, return_index=True)[1])
    np.testing.assert_array_equal(data.inputs, drawn[first])
    assert data.description["skipped"] > 0


@pytest.mark.parametrize("setup", ["I", "II"])
def test_the_same_key_gives_the_same_functions_however_many_and_another_key_others(setup, monkeypatch):
    few, other = advection(20, setup), advection(20, setup, key=1)
    assert advection(20, setup).fingerprint == few.fingerprint
    monkeypatch.setattr(module, "DRAWS_AT_ONCE", 7)
    many = advection(50, setup)
    np.testing.assert_array_equal(many.inputs[:20], few.inputs)
    np.testing.assert_array_equal(many.outputs[:20], few.outputs)
    assert np.mean(other.inputs != few.inputs) > 0.2


def test_progress_is_reported_up_to_the_end():
    calls = []
    advection(3, progress=lambda *arguments: calls.append(arguments))
    assert calls[0] == ("drawing initial states", 0, 3)
    assert calls[-1] == ("drawing initial states", 3, 3)


@pytest.mark.parametrize(
    "sizes",
    [
        {"samples": 1},
        {"setup": "III"},
        {"resolution": 15},
        {"time": 0.0},
        {"time": -1.0},
        {"time": 1001.0},
        {"time": float("nan")},
        {"samples": 300, "resolution": 16},
    ],
)
def test_impossible_sizes_are_refused(sizes, monkeypatch):
    monkeypatch.setattr(module, "MOST_DRAWS", 1)
    with pytest.raises(ForetrainError, match=r"advection: expected .* came") as refusal:
        advection(**{"samples": 4} | sizes)
    assert "\n" not in str(refusal.value)


def test_a_dataset_that_does_not_fit_into_memory_is_refused_before_it_is_drawn():
    with pytest.raises(MemoryBudgetError, match=r"advection: .* fewer samples"):
        advection(100, "I", 10_000_000)
