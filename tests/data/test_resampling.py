"""Grids of other sizes against trigonometric sums written out, and end points that files list twice."""

import numpy as np
import pytest

from foretrain.data import OperatorDataset, PeriodicGrid, resample, sufficient_resolution


def waves(grid_shape, highest, functions=3, seed=0):
    """Random trigonometric sums of wave numbers up to `highest`, as a function of the points."""
    rng = np.random.default_rng(seed)
    numbers = np.stack(np.meshgrid(*[np.arange(-highest, highest + 1)] * len(grid_shape), indexing="ij"), -1)
    numbers = numbers.reshape(-1, len(grid_shape))
    cosines, sines = rng.normal(size=(2, functions, len(numbers)))

    def values(shape):
        grid = np.stack(np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij"), -1)
        angles = 2 * np.pi * grid.reshape(-1, len(shape)) @ numbers.T
        return cosines @ np.cos(angles).T + sines @ np.sin(angles).T

    return values


@pytest.mark.parametrize(("shape", "other"), [((16,), (9,)), ((9,), (30,)), ((8, 12), (10, 9)), ((12, 8), (9, 8))])
def test_band_limited_functions_keep_their_values_wherever_they_are_looked_at(shape, other):
    values = waves(shape, 3)
    np.testing.assert_allclose(resample(values(shape), shape, other), values(other), rtol=0, atol=1e-12)


def test_waves_that_the_smaller_grid_cannot_tell_apart_are_left_out():
    alternating = np.array([[1.0, -1.0] * 4])
    # cos(pi y n) at the points of a grid of eight; on one of four its wave number is the highest.
    np.testing.assert_allclose(resample(alternating, (8,), (4,)), 0, atol=1e-15)
    np.testing.assert_allclose(resample(alternating, (8,), (16,)), 0, atol=1e-15)
    assert resample(alternating, (8,), (8,)) is alternating


# The least even products of 2, 3 and 5 beyond twice the highest wave number, 5, along every axis.
@pytest.mark.parametrize(("shape", "expected"), [((64,), (12,)), ((32, 48), (12, 16))])
def test_the_sufficient_grid_holds_the_outputs_and_the_next_coarser_one_does_not(shape, expected):
    rng = np.random.default_rng(1)
    values = waves(shape, 5)(shape) + 1e-6 * rng.normal(size=(3, int(np.prod(shape))))
    found = sufficient_resolution(values, shape, 1e-4)
    assert found == expected
    back = resample(resample(values, shape, found), found, shape)
    lost = np.linalg.norm(back - values, axis=1) / np.linalg.norm(values, axis=1)
    assert lost.mean() <= 1e-4
    assert sufficient_resolution(values, shape, 1e-9) == shape


def test_an_end_point_listed_twice_is_found_on_each_axis_and_comes_back():
    values = waves((6, 5), 2)
    own = values((6, 5)).reshape(3, 6, 5)
    listed = np.concatenate([own, own[:, :1]], axis=1)
    points = np.stack(np.meshgrid(np.linspace(0, 1, 7), np.arange(5) / 5, indexing="ij"), -1).reshape(-1, 2)
    data = OperatorDataset(listed.reshape(3, -1), 2 * listed.reshape(3, -1), points, points)
    grid = PeriodicGrid.of(data, (7, 5))
    assert (grid.shape, grid.repeated) == ((6, 5), (True, False))
    np.testing.assert_array_equal(grid.own(data.inputs), own.reshape(3, -1))
    np.testing.assert_array_equal(grid.all_listed(grid.own(data.inputs)), data.inputs)
    np.testing.assert_array_equal(grid.own_points_of(data).query_points, points[:30])


def test_zeros_at_both_ends_of_a_box_are_no_repetition():
    place = np.linspace(0, 1, 9)
    values = np.random.default_rng(0).normal(size=(4, 3)) @ np.sin(np.pi * np.outer([1, 2, 3], place))
    data = OperatorDataset(values, values, place, place)
    assert PeriodicGrid.of(data, (9,)).repeated == (False,)
