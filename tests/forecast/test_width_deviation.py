"""What pilots tell about finite width: the scaling theory predicts, and bands that mean what they say."""

import numpy as np
import pytest
import scipy.stats

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.forecast import GradientDescent, WidthDeviation, log_spaced_steps, measure_width_deviation
from foretrain.forecast._pilot import Pilot
from foretrain.forecast._width import BASES, STUDENT_QUANTILE, _further, _grown
from foretrain.models import ShallowOperator, draw_network
from foretrain.problems import burgers

SMALL = {"pilots": 4, "functions": 20, "points": 8}


@pytest.fixture(scope="module")
def deviation_of_wide_pilots(split, model):
    return measure_width_deviation(split[0], model, 100, pilot_width=1024, **SMALL)


def overall(deviations):
    return np.sqrt(np.mean(np.asarray(deviations)[1:] ** 2))


def test_deviations_fall_with_the_width_about_as_one_over_its_root(deviation, deviation_of_wide_pilots):
    exponents = []
    for basis in BASES:
        for kind in ("loss", "test_error"):
            narrow, wide = (
                overall(np.hypot(getattr(each, kind)[basis], getattr(each, f"{kind}_shift")[basis]))
                for each in (deviation, deviation_of_wide_pilots)
            )
            exponents.append(np.log(narrow / wide) / np.log(1024 / 64))
    # Four pilots tell a deviation to a factor of about 1.5.
    assert min(exponents) > 0.25
    assert 0.35 < np.mean(exponents) < 0.8


def test_drawn_weights_are_free_of_the_noise_of_the_draw(deviation, deviation_of_wide_pilots):
    for each in (deviation, deviation_of_wide_pilots):
        drawn, limit = (np.hypot(each.loss[basis], each.loss_shift[basis]) for basis in BASES[::-1])
        assert overall(drawn) < 0.8 * overall(limit)
        # Both forecasts start from the same drawn outputs.
        assert each.loss["infinite width"][0] < 1e-5


def test_the_same_key_gives_the_same_deviations(split, model, deviation):
    again = measure_width_deviation(split[0], model, 100, pilot_width=64, **SMALL)
    for basis in BASES:
        np.testing.assert_array_equal(again.loss[basis], deviation.loss[basis])


def test_clean_test_functions_show_what_noisy_training_functions_would_hide(split, model):
    train, test = split
    noise = 3 * np.std(train.outputs) * np.random.default_rng(0).normal(size=train.outputs.shape)
    noisy = OperatorDataset(train.inputs, train.outputs + noise, train.sensor_points, train.query_points)
    settings = {"pilot_width": 64, "draws": "own", "bases": BASES[1:], **SMALL}
    blind, told = (measure_width_deviation(noisy, model, 100, **settings, test=data) for data in (None, test))
    seen_by = [each.test_error_shift["drawn weights"] for each in (blind, told)]
    # The training side is the same; noise that no weights can follow is most of the error it would be compared with.
    np.testing.assert_array_equal(*(each.loss_shift["drawn weights"] for each in (blind, told)))
    assert overall(seen_by[0]) < 0.5 * overall(seen_by[1])


def test_the_mean_of_the_outputs_makes_no_difference(split, model, deviation):
    train = split[0]
    shifted = OperatorDataset(
        train.inputs, 10 * np.std(train.outputs) + train.outputs, train.sensor_points, train.query_points
    )
    moved = measure_width_deviation(shifted, model, 100, pilot_width=64, **SMALL)
    for basis in BASES:
        np.testing.assert_allclose(moved.loss[basis], deviation.loss[basis], rtol=0.02, atol=1e-4)
        # Every error is divided by a larger norm, in the forecast as in the measurement.
        assert overall(moved.test_error[basis]) < 2 * overall(deviation.test_error[basis])


def test_bands_narrow_with_the_width_and_widen_beyond_the_pilots(deviation):
    steps = np.array([0, 1, 5, 20, 100, 10_000])
    for basis in BASES:
        for band in (deviation.loss_band, deviation.test_error_band):
            np.testing.assert_allclose(band(steps, 1024, basis), band(steps, 256, basis) / 2)
    # At a width that no pilot had, nothing is corrected, and the mean deviation counts as spread.
    quantile = scipy.stats.t.ppf(0.95, 3)
    both = np.hypot(deviation.loss["drawn weights"], deviation.loss_shift["drawn weights"] / 1.645)
    at_last, beyond = deviation.loss_band(steps, 256, "drawn weights")[-2:]
    nearby = np.max(both[deviation.steps + 1 >= 101 / 3])
    assert at_last == pytest.approx(quantile * nearby / 2, rel=1e-3)
    assert not deviation.loss_correction(steps, 256, "drawn weights").any()
    # Where no pilot went, the band grows with the logarithm of the steps.
    assert beyond / at_last == pytest.approx(np.log(10_001) / np.log(101), rel=1e-6)


def test_at_the_pilots_own_width_a_forecast_is_corrected_by_their_mean(deviation):
    correction = deviation.loss_correction(deviation.steps, 64, "drawn weights")
    np.testing.assert_allclose(correction, deviation.loss_shift["drawn weights"], rtol=1e-12)


def test_own_pilots_are_the_network_itself_on_other_functions(split, model, deviation):
    own = measure_width_deviation(split[0], model, 100, pilot_width=64, draws="own", **SMALL)
    # One draw learns each subset alike; other draws differ among themselves as well.
    assert overall(own.loss["infinite width"]) < overall(deviation.loss["infinite width"])


def test_deviations_are_led_on_along_the_root_of_the_number_of_functions():
    def seen(count):
        return {"drawn weights": np.array([0.1 - 2 / np.sqrt(count) * np.ones(3), [0.3, 0.2, count**-0.5]])}

    for wanted in (100, 900, 40_000):
        more = _grown(seen(100), [seen(25)], _further(100, wanted))["drawn weights"]
        np.testing.assert_allclose(seen(25)["drawn weights"] + more, seen(wanted)["drawn weights"], rtol=1e-12)


@pytest.mark.slow
def test_pilots_of_two_sizes_tell_the_deviation_on_more_functions():
    data = burgers(samples=480, resolution=16, time_steps=50)
    model, marks = ShallowOperator(256, 2), np.array([0, 10, 100, 300])
    network = draw_network(model, data, 0)
    everything = Pilot(network, data, data.take(np.arange(32)), GradientDescent())
    truth = everything.deviations(model, BASES[1:], marks, 0)["drawn weights"][0, -1]

    told = measure_width_deviation(data, model, 300, draws="own", bases=BASES[1:])
    small = measure_width_deviation(data, model, 300, draws="own", bases=BASES[1:], functions=60)
    assert list(told.loss) == ["drawn weights"]
    missed, left = (abs(each.loss_shift["drawn weights"][-1] - truth) for each in (small, told))
    assert missed > 0.01
    assert left < 0.5 * missed


@pytest.mark.parametrize("basis", BASES)
def test_one_kernel_alone_tells_what_it_tells_beside_the_other(split, model, basis):
    settings = SMALL | {"draws": "own"}
    both, alone = (
        measure_width_deviation(split[0], model, 100, pilot_width=256, bases=bases, **settings)
        for bases in (BASES, (basis,))
    )
    assert set(alone.loss) == {basis}
    # Pilots step by the drawn kernel's largest eigenvalue where it is known, else by the limit's.
    np.testing.assert_allclose(alone.loss_shift[basis], both.loss_shift[basis], atol=0.01)


def test_quantiles_are_those_of_students_distribution():
    for pilots, quantile in STUDENT_QUANTILE.items():
        assert quantile == pytest.approx(scipy.stats.t.ppf(0.95, pilots - 1), abs=1e-3)


def test_the_width_for_a_tolerance_has_a_band_of_that_tolerance(deviation):
    for basis in BASES:
        width = deviation.width_for(0.03, 100, basis)
        # Pilots on fewer functions may miss a third of the mean deviation.
        off = np.hypot(STUDENT_QUANTILE[4] * deviation.loss[basis], 0.35 * deviation.loss_shift[basis])
        assert np.expm1(off.max() * np.sqrt(1.5 * 64 / width)) == pytest.approx(0.03)
    assert deviation.width_for(0.01, 100) > 8 * deviation.width_for(0.03, 100)


def test_a_band_of_pilots_that_agree_by_chance_does_not_pinch():
    marks, crossing = np.array([0.0, 9, 10, 11, 100, 1000]), np.array([0.0, 0.2, 0.0, 0.3, 0.0, 0.1])
    each = dict.fromkeys(BASES, crossing)
    band = WidthDeviation(marks, each, each, 64, 8).loss_band(marks, 64, "drawn weights") / STUDENT_QUANTILE[8]
    # The widest within a factor of three in the steps, and of the neighbours where these are farther away.
    np.testing.assert_allclose(band, [0.2, 0.3, 0.3, 0.3, 0.3, 0.1])


@pytest.mark.parametrize("steps", [1, 2, 10, 1000, 12_345])
def test_spaced_steps_increase_to_the_last_and_contain_the_round_ones(steps):
    marks = log_spaced_steps(steps)
    assert (marks[0], marks[-1]) == (0, steps)
    assert np.all(np.diff(marks) > 0)
    assert {mark for mark in (10, 30, 100, 300, 1000, 3000, 10_000) if mark <= steps} <= set(marks.tolist())
    assert len(marks) < 20 * (1 + np.log10(steps))


def test_a_number_of_pilots_without_a_quantile_is_refused(split, model):
    with pytest.raises(ForetrainError, match=r"4, 6, 8, 12, 16.* came 5"):
        measure_width_deviation(split[0], model, 10, pilots=5)
