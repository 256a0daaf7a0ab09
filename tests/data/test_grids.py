import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data import OperatorDataset, common_grid_shape, periodic_grid_shape, regular_grid_shape
from foretrain.problems import antiderivative


def grid(*axes):
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def waves(points, period, functions=20, seed=0):
    """Random trigonometric polynomials of three modes on points in one dimension."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.outer(points, [1, 2, 3]) / period
    return rng.standard_normal((functions, 3)) @ np.cos(angle).T + rng.standard_normal((functions, 3)) @ np.sin(angle).T


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 7), min_size=1, max_size=3),
    exponent=st.integers(-12, 12),
    start=st.floats(-3, 3),
)
def test_the_shape_of_a_regular_grid_is_found_in_any_units(sizes, exponent, start):
    spacings = [1.0, 0.3, 7.0]
    axes = [
        10.0**exponent * (start + spacing * np.arange(size)) for spacing, size in zip(spacings, sizes, strict=False)
    ]
    assert regular_grid_shape(grid(*axes)) == tuple(sizes)


@pytest.mark.parametrize("size", [128, 1000, 4096])
def test_coordinates_kept_in_single_precision_are_still_a_grid(size):
    points = np.linspace(0, 1, size, dtype=np.float32).astype(np.float64)[:, None]
    assert regular_grid_shape(points) == (size,)


def test_single_precision_in_two_dimensions_is_still_a_grid():
    axis = np.linspace(-1, 1, 29, dtype=np.float32)
    assert regular_grid_shape(grid(axis, axis).astype(np.float64)) == (29, 29)


@pytest.mark.parametrize("size", [8, 33])
def test_shuffled_points_are_no_grid(size):
    points = grid(np.arange(size))
    assert regular_grid_shape(np.random.default_rng(0).permutation(points)) is None
    assert regular_grid_shape(points[::-1]) is None


def test_columns_listed_first_are_not_rows_listed_first():
    points = grid(np.arange(3.0), np.arange(4.0))
    assert regular_grid_shape(points) == (3, 4)
    assert regular_grid_shape(points.reshape(3, 4, 2).transpose(1, 0, 2).reshape(-1, 2)) is None
    assert regular_grid_shape(points[:, ::-1]) is None


@pytest.mark.parametrize(
    "points",
    [
        np.linspace(0, 1, 20)[:, None] ** 2,
        np.cos(np.pi * np.arange(12) / 11)[::-1, None],
        np.append(np.arange(9.0), 9.01)[:, None],
        grid(np.arange(4.0), [0.0, 1.0, 3.0]),
        grid(np.arange(4.0), np.arange(3.0))[:-1],
        np.random.default_rng(0).uniform(size=(36, 2)),
        grid(np.arange(4.0), [5.0]),
        np.array([[1.0]]),
    ],
    ids=["squares", "Chebyshev", "one off", "uneven axis", "missing corner", "scattered", "flat axis", "one point"],
)
def test_irregular_points_are_no_grid(points):
    assert regular_grid_shape(points) is None


def test_burgers_on_the_circle_is_periodic(small_burgers):
    assert periodic_grid_shape(small_burgers) == (32,)


def test_functions_on_the_torus_are_periodic_and_on_half_of_it_not():
    rng = np.random.default_rng(0)
    axis = np.arange(12) / 12
    points = grid(axis, axis)
    angle = 2 * np.pi * points @ np.array([[1, 0], [0, 1], [1, 1], [1, -1]]).T
    inputs = rng.standard_normal((20, 4)) @ np.sin(angle).T + rng.standard_normal((20, 4)) @ np.cos(angle).T
    assert periodic_grid_shape(OperatorDataset(inputs, inputs**2, points, points)) == (12, 12)
    half = points[:, 1] < 0.5
    cut = OperatorDataset(inputs[:, half], inputs[:, half] ** 2, points[half], points[half])
    assert periodic_grid_shape(cut) is None


def test_antiderivatives_do_not_close_up():
    assert periodic_grid_shape(antiderivative(samples=30)) is None


@pytest.mark.parametrize("period", [1e-9, 1.0, 2 * np.pi])
def test_a_grid_that_lists_both_ends_is_not_a_period(period):
    both_ends = np.linspace(0, period, 33)
    one_end = both_ends[:-1]
    for points, shape in ((one_end, (32,)), (both_ends, None)):
        inputs = waves(points, period)
        assert periodic_grid_shape(OperatorDataset(inputs, inputs**2, points, points)) == shape


def test_periodic_inputs_with_outputs_that_jump_are_not_periodic():
    points = np.arange(32) / 32
    inputs = waves(points, 1.0)
    assert periodic_grid_shape(OperatorDataset(inputs, inputs + 9 * points, points, points)) is None
    assert periodic_grid_shape(OperatorDataset(inputs + 9 * points, inputs, points, points)) is None


def test_sensors_elsewhere_than_query_points_share_no_grid():
    points = np.arange(32) / 32
    inputs = waves(points, 1.0)
    assert common_grid_shape(OperatorDataset(inputs, inputs, points, points)) == (32,)
    assert common_grid_shape(OperatorDataset(inputs, inputs, points, points.astype(np.float32))) == (32,)
    for elsewhere in (points + 0.5, 1e-9 * points, points[:, None] * [1.0, 0.0]):
        assert common_grid_shape(OperatorDataset(inputs, inputs, points, elsewhere)) is None
    tiny = 1e-9 * points
    assert common_grid_shape(OperatorDataset(inputs, inputs, tiny, 1.1 * tiny)) is None
