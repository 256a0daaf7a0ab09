import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain import load
from foretrain._foundation import DataError
from foretrain.data import OperatorDataset, mean_relative_error, relative_errors

FUNCTIONS, SENSORS, QUERIES = 10, 6, 5


def values(functions=FUNCTIONS, points=SENSORS, seed=0):
    return np.random.default_rng(seed).standard_normal((functions, points))


def dataset(**changes):
    arguments = {"inputs": values(), "outputs": values(points=QUERIES, seed=1)} | changes
    return OperatorDataset(**arguments)


def spoilt(array, value):
    array = array.copy()
    array[3, 2] = value
    return array


REFUSALS = {
    "one-dimensional inputs": ({"inputs": np.ones(10)}, r"inputs: .*\[functions, points\], came .* \(10,\)"),
    "a single number": ({"outputs": 3.0}, r"outputs: .*one row for each function.*shape \(\)"),
    "another number of outputs": ({"outputs": values(9, QUERIES)}, "as many output .* 10 inputs and 9 outputs"),
    "a single function": ({"inputs": values(1), "outputs": values(1)}, "at least 2 functions .* came 1"),
    "no functions": ({"inputs": np.ones((0, 4)), "outputs": np.ones((0, 4))}, "at least 2 functions .* came 0"),
    "no sensors": ({"inputs": np.ones((10, 0))}, "at least one sensor and one query point"),
    "no query points": ({"outputs": np.ones((10, 0))}, "at least one sensor and one query point"),
    "NaN in the inputs": ({"inputs": spoilt(values(), np.nan)}, "inputs: .* came 1 .* row 3, column 2"),
    "an infinite output": (
        {"outputs": spoilt(values(points=QUERIES), -np.inf)},
        "outputs: expected finite numbers, came 1 .* row 3, column 2",
    ),
    "NaN in the points": ({"query_points": [0, 1, 2, np.nan, 4]}, "query_points: expected finite numbers"),
    "infinite sensor points": ({"sensor_points": [0, 1, 2, 3, 4, np.inf]}, "sensor_points: expected finite numbers"),
    "text": ({"inputs": np.full((10, 6), "a")}, "inputs: expected real numbers, came values of type <U1"),
    "complex numbers": ({"outputs": values(points=QUERIES) + 1j}, "outputs: expected real numbers, .* complex128"),
    "objects": ({"inputs": np.full((10, 6), None)}, "inputs: expected real numbers, came values of type object"),
    "dates": ({"inputs": np.zeros((10, 6), "datetime64[s]")}, "inputs: expected real numbers"),
    "rows of different lengths": ({"inputs": [[1.0, 2.0], [3.0]]}, "inputs: .* rows of different lengths"),
    "masked entries": ({"inputs": np.ma.masked_greater(values(), 1.0)}, "inputs: .* came masked entries"),
    "repeated inputs": ({"inputs": values()[[0, 1, 2, 3, 4, 5, 6, 7, 2, 9]]}, "inputs: .* 1 repeated, .* rows 2 and 8"),
    "constant outputs": ({"outputs": np.full((10, QUERIES), 7.0)}, "outputs: .* came the constant 7 everywhere"),
    "outputs constant up to rounding": (
        {"outputs": 7.0 + 1e-15 * np.arange(50).reshape(10, QUERIES)},
        "outputs: .* came the constant 7 everywhere",
    ),
    "values whose squares overflow": ({"inputs": 1e200 * values()}, "inputs: .* choose other units"),
    "values that vanish in single precision": ({"outputs": 1e-200 * values(points=QUERIES)}, "outputs: .*other units"),
    "too few query points": ({"query_points": [0.0, 0.5]}, r"query_points: expected 5 points, .* shape \(2, 1\)"),
    "too many sensor points": ({"sensor_points": np.arange(7)}, r"sensor_points: expected 6 points, .* \(7, 1\)"),
    "points without coordinates": ({"query_points": np.ones((5, 0))}, r"query_points: .* shape \(5, 0\)"),
    "points with three axes": ({"query_points": np.ones((5, 1, 1))}, r"query_points: .* shape \(5, 1, 1\)"),
    "a single number as points": ({"query_points": 1.0}, r"query_points: .* shape \(\)"),
    "text as points": ({"query_points": list("abcde")}, "query_points: expected real numbers"),
    "complex points": ({"sensor_points": np.arange(6) * 1j}, "sensor_points: expected real numbers"),
    "repeated query points": ({"query_points": [0, 1, 2, 1, 4]}, "query_points: .* 1 repeated, the first in row 3"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_data_is_refused_with_one_line_that_names_it(case):
    changes, message = REFUSALS[case]
    with pytest.raises(DataError, match=message) as refusal:
        dataset(**changes)
    assert "\n" not in str(refusal.value)


def test_without_points_both_grids_are_regular_on_the_unit_interval():
    data = dataset()
    np.testing.assert_array_equal(data.sensor_points, [[0.0], [1 / 6], [2 / 6], [3 / 6], [4 / 6], [5 / 6]])
    np.testing.assert_array_equal(data.query_points, [[0.0], [0.2], [0.4], [3 / 5], [0.8]])
    assert (data.name, dict(data.description)) == ("data", {})


def test_a_grid_in_further_axes_is_flattened_row_by_row_with_points_to_match():
    function = np.arange(12.0).reshape(3, 4)
    inputs = np.stack([function, function**2, -function])
    data = OperatorDataset(inputs, inputs + 1)
    for row in range(12):
        first, second = data.query_points[row]
        np.testing.assert_array_equal(data.inputs[:, row], inputs[:, round(3 * first), round(4 * second)])


def test_an_axis_of_one_channel_is_no_coordinate():
    data = OperatorDataset(values()[:, :, None], values(seed=1)[:, None, :, None])
    np.testing.assert_array_equal(data.sensor_points, dataset().sensor_points)
    np.testing.assert_array_equal(data.query_points, data.sensor_points)


def test_integers_booleans_and_lists_become_double_precision():
    data = OperatorDataset([[1, 2], [3, 4]], np.array([[True, False], [False, False]]))
    for array in (data.inputs, data.outputs, data.sensor_points, data.query_points):
        assert array.dtype == np.float64
    np.testing.assert_array_equal(data.outputs, [[1.0, 0.0], [0.0, 0.0]])


def test_arrays_cannot_be_written_to():
    data = dataset()
    for array in (data.inputs, data.outputs, data.sensor_points, data.query_points):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0.0
    with pytest.raises(TypeError):
        data.description["key"] = 1
    with pytest.raises(AttributeError):
        data.inputs = values()


def test_the_makers_arrays_stay_writable_and_are_not_shared():
    arrays = {"inputs": values(), "outputs": values(points=QUERIES), "sensor_points": np.arange(6.0)[:, None]}
    data = dataset(**arrays)
    before = {name: getattr(data, name).copy() for name in arrays}
    for array in arrays.values():
        array += 1.0
    for name, kept in before.items():
        np.testing.assert_array_equal(getattr(data, name), kept)


@settings(max_examples=40, deadline=None)
@given(functions=st.integers(4, 40), share=st.floats(0.0, 1.0), key=st.integers(0, 2**32 - 1))
def test_a_split_is_disjoint_and_complete_and_keeps_pairs_together(functions, share, key):
    marks = np.arange(float(functions))[:, None]
    data = OperatorDataset(marks, 2 * marks + 1)
    count = 2 + round(share * (functions - 4))
    rest, held_out = data.split(count, key)
    assert len(held_out) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.inputs, held_out.inputs]), axis=0), marks)
    for part in (rest, held_out):
        np.testing.assert_array_equal(part.outputs, 2 * part.inputs + 1)


def test_a_split_is_decided_by_its_key():
    data = dataset()
    same, again, other = (data.split(4, key)[1].fingerprint for key in (5, 5, 6))
    assert same == again != other


def test_every_function_is_held_out_equally_often():
    data = OperatorDataset(np.arange(10.0)[:, None], np.arange(10.0)[:, None])
    draws = 600
    counts = sum(np.bincount(data.split(3, key)[1].inputs[:, 0].astype(int), minlength=10) for key in range(draws))
    expected, spread = 0.3 * draws, np.sqrt(draws * 0.3 * 0.7)
    assert np.all(np.abs(counts - expected) < 4 * spread)


def test_a_fraction_is_rounded_to_a_number_of_functions():
    assert [len(part) for part in dataset().split(0.34)] == [7, 3]


@pytest.mark.parametrize("test", [0, 1, 9, 10, 1000, -3, 0.01, 1.0])
def test_a_split_without_two_functions_on_either_side_is_refused(test):
    with pytest.raises(DataError, match=f"between 2 and 8 of 10 functions, came {test};"):
        dataset().split(test)


def test_three_functions_cannot_be_divided():
    with pytest.raises(DataError, match="at least 4 functions to divide into two parts, came 3"):
        dataset().take([0, 1, 2]).split(2)


def test_take_keeps_order_points_name_and_description():
    data = dataset(query_points=np.linspace(3, 4, QUERIES), name="name", description={"key": 1})
    part = data.take([7, 2, 4])
    np.testing.assert_array_equal(part.inputs, data.inputs[[7, 2, 4]])
    np.testing.assert_array_equal(part.outputs, data.outputs[[7, 2, 4]])
    np.testing.assert_array_equal(part.query_points, data.query_points)
    assert (part.name, dict(part.description)) == ("name", {"key": 1})


@pytest.mark.parametrize("name", ["inputs", "outputs", "sensor_points", "query_points"])
def test_the_fingerprint_changes_with_the_last_bit_of_any_value(name):
    data = dataset()
    array = getattr(data, name)
    for place in (0, array.size // 2, array.size - 1):
        changed = array.copy()
        changed.flat[place] = np.nextafter(changed.flat[place], np.inf)
        assert dataset(**{name: changed}).fingerprint != data.fingerprint


def test_the_fingerprint_tells_the_order_and_the_place_of_values():
    inputs, outputs = values(), values(seed=1)
    data = OperatorDataset(inputs, outputs)
    assert OperatorDataset(outputs, inputs).fingerprint != data.fingerprint
    assert data.take(np.arange(10)[::-1]).fingerprint != data.fingerprint
    assert OperatorDataset(inputs.reshape(20, 3), outputs.reshape(20, 3)).fingerprint != data.fingerprint


def test_the_fingerprint_is_the_hash_of_shapes_and_bytes_and_nothing_else():
    data = dataset()
    expected = hashlib.sha256()
    for array in (data.inputs, data.outputs, data.sensor_points, data.query_points):
        expected.update(f"({array.shape[0]}, {array.shape[1]})".encode())
        expected.update(np.ascontiguousarray(array, "<f8").tobytes())
    assert data.fingerprint == f"sha256:{expected.hexdigest()}"
    assert dataset(name="another", description={"note": 1}).fingerprint == data.fingerprint


def test_saving_and_loading_changes_nothing(tmp_path):
    description = {"equation": "u_t = u", "key": np.int64(3), "viscosity": np.float32(0.5), "sizes": (1, 2)}
    data = dataset(query_points=values(QUERIES, 2), name="näme [x]", description=description)
    data.save(tmp_path / "data.npz")
    back = load(tmp_path / "data.npz")
    assert back.fingerprint == data.fingerprint
    assert back.name == data.name
    assert dict(back.description) == {"equation": "u_t = u", "key": 3, "viscosity": 0.5, "sizes": [1, 2]}


def test_datasets_are_told_apart_by_identity():
    data = dataset()
    assert data == data
    assert data != dataset()
    assert len({data, data}) == 1


def test_relative_errors_are_those_of_each_function():
    truth = np.array([[3.0, 4.0], [0.0, 2.0]])
    prediction = np.array([[3.0, 5.0], [1.0, 2.0]])
    np.testing.assert_allclose(relative_errors(prediction, truth), [1 / 5, 1 / 2])
    assert mean_relative_error(prediction, truth) == pytest.approx(0.35)


def test_a_function_that_vanishes_is_measured_against_the_others():
    truth = np.array([[3.0, 4.0], [0.0, 0.0]])
    prediction = np.array([[3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(relative_errors(prediction, truth), [0.0, 1 / np.sqrt(25 / 2)])


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_relative_errors_do_not_depend_on_units(factor, seed):
    truth, prediction = values(seed=seed), values(seed=seed + 1)
    np.testing.assert_allclose(
        relative_errors(factor * prediction, factor * truth), relative_errors(prediction, truth), rtol=1e-12
    )
