import numpy as np
import pytest

from foretrain.compression import select_neurons


def left_out(features, kept):
    """What the kept columns cannot say about all columns, by least squares."""
    coefficients = np.linalg.lstsq(features[:, kept], features, rcond=None)[0]
    return features - features[:, kept] @ coefficients


def test_independent_neurons_are_kept_and_their_copies_and_combinations_left():
    rng = np.random.default_rng(0)
    independent = rng.standard_normal((50, 5))
    order = rng.permutation(15)
    copies, combinations = 0.5 * independent, 0.1 * independent @ rng.standard_normal((5, 5))
    features = np.concatenate([independent, copies, combinations], axis=1)[:, order]
    kept = select_neurons(features, 5)
    assert len(set(kept)) == 5
    assert np.linalg.norm(left_out(features, kept)) < 1e-12 * np.linalg.norm(features)
    # A copy at half the size is never preferred to the neuron itself, nor picked beside it.
    originals = {int(order[column]) for column in kept}
    assert all(not {index, index + 5} <= originals for index in range(5))
    assert originals == set(range(5))


def test_neurons_that_are_silent_are_dropped_first():
    features = np.random.default_rng(1).standard_normal((30, 8))
    features[:, [1, 4, 6]] = 0
    np.testing.assert_array_equal(select_neurons(features, 5), [0, 2, 3, 5, 7])


@pytest.mark.parametrize("keep", [3, 8, 15])
def test_what_is_left_out_is_nearly_as_small_as_any_choice_could_make_it(keep):
    rng = np.random.default_rng(2)
    spectrum = np.logspace(0, -8, 20)
    left, right = (np.linalg.qr(rng.standard_normal((rows, 20)))[0] for rows in (60, 20))
    features = (left * spectrum) @ right.T
    kept = select_neurons(features, keep)
    # No twenty-column matrix of this rank loses less than the next singular value (Eckart, Young).
    assert spectrum[keep] * (1 - 1e-9) < np.linalg.norm(left_out(features, kept), 2) < 10 * spectrum[keep]
    assert list(kept) == sorted(set(kept))


@pytest.mark.parametrize("keep", [4, 9])
def test_asked_for_as_many_as_there_are_it_keeps_them_all(keep):
    features = np.random.default_rng(3).standard_normal((10, 4))
    np.testing.assert_array_equal(select_neurons(features, keep), np.arange(4))
