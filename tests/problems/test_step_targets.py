import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain._foundation import ForetrainError
from foretrain.problems import PUBLISHED_STEPS, PiecewiseConstant, random_steps


def test_the_published_target_takes_its_published_values():
    middles = np.array([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    np.testing.assert_array_equal(PUBLISHED_STEPS(middles), [1.0, 5.0, 1.0, 3.0, 1.0, 5.0])
    assert PUBLISHED_STEPS.shortest_piece == pytest.approx(0.15)
    assert PUBLISHED_STEPS.smallest_jump == 2.0


def test_a_jump_belongs_to_the_piece_on_its_right():
    target = PiecewiseConstant(0.0, (0.5,), (2.0,))
    np.testing.assert_array_equal(target(np.array([0.0, np.nextafter(0.5, 0), 0.5, 1.0])), [0, 0, 2, 2])
    assert target(0.25) == 0.0


@settings(max_examples=50, deadline=None)
@given(pieces=st.integers(1, 12), key=st.integers(0, 1000))
def test_random_targets_are_sums_of_steps_with_room_between_them(pieces, key):
    target = random_steps(pieces, key, shortest=0.05)
    assert len(target.locations) == len(target.jumps) == pieces - 1
    assert target.shortest_piece >= 0.05 - 1e-12
    assert target.smallest_jump >= 0.5
    x = np.random.default_rng(key).uniform(size=50)
    expected = np.full(50, target.bias)
    for location, jump in zip(target.locations, target.jumps, strict=True):
        expected += jump * (x >= location)
    np.testing.assert_allclose(target(x), expected, atol=1e-12)
    assert random_steps(pieces, key, shortest=0.05) == target


def test_a_target_without_jumps_is_constant():
    target = PiecewiseConstant(3.0, (), ())
    np.testing.assert_array_equal(target(np.linspace(0, 1, 5)), 3.0)
    assert (target.shortest_piece, target.smallest_jump) == (1.0, np.inf)


@pytest.mark.parametrize(
    ("locations", "jumps"),
    [
        ((0.5,), ()),
        ((0.5, 0.4), (1.0, 1.0)),
        ((0.5, 0.5), (1.0, 1.0)),
        ((0.0,), (1.0,)),
        ((1.0,), (1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.5,), (0.0,)),
        ((0.5,), (float("nan"),)),
        ((0.5,), (float("inf"),)),
    ],
)
def test_locations_and_jumps_that_make_no_target_are_refused(locations, jumps):
    with pytest.raises(ForetrainError, match="expected"):
        PiecewiseConstant(0.0, locations, jumps)


@pytest.mark.parametrize(("pieces", "shortest"), [(0, 0.1), (10, 0.1), (3, 0.5)])
def test_pieces_that_do_not_fit_are_refused(pieces, shortest):
    with pytest.raises(ForetrainError, match="pieces x shortest < 1"):
        random_steps(pieces, shortest=shortest)
