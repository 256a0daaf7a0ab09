from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from foretrain._foundation import DataError, ForetrainError
from foretrain.deployment import ConformalBand, OutOfRange
from foretrain.problems import burgers
from foretrain.problems._gaussian_fields import periodic_gaussian_field

GRID = np.linspace(0, 1, 40)


def gaussian_functions(count, length, seed):
    covariance = np.exp(-0.5 * ((GRID[:, None] - GRID) / length) ** 2) + 1e-10 * np.eye(len(GRID))
    return np.random.default_rng(seed).standard_normal((count, len(GRID))) @ np.linalg.cholesky(covariance).T


def residuals(count, seed):
    """Correlated along the grid, four times larger at one end than at the other."""
    return gaussian_functions(count, 0.2, seed) * (0.5 + 1.5 * GRID)


def area_under_curve(inside, outside):
    return np.mean(inside[:, None] < outside[None])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_bands_cover_fresh_functions_as_stated(coverage):
    repeats, calibration, fresh = 60, 99, 200
    per_point, simultaneous = np.empty((2, repeats))
    for repeat in range(repeats):
        band = ConformalBand.fit(residuals(calibration, 2 * repeat), coverage)
        new = residuals(fresh, 2 * repeat + 1)
        lower, upper = band.around(np.zeros((1, 40)))
        per_point[repeat] = np.mean((new >= lower) & (new <= upper))
        lower, upper = band.around(np.zeros((1, 40)), simultaneous=True)
        simultaneous[repeat] = np.mean(np.all((new >= lower) & (new <= upper), axis=1))
    # Over the draw of calibration and new functions the coverage is rank / (functions + 1), exactly; half of the
    # functions are ranked for the simultaneous band.
    exact = np.ceil(51 * coverage) / 51
    assert abs(per_point.mean() - coverage) < 4 * per_point.std() / np.sqrt(repeats)
    assert abs(simultaneous.mean() - exact) < 4 * simultaneous.std() / np.sqrt(repeats)


def test_half_widths_of_gaussian_residuals_are_gaussian_quantiles():
    deviation = 0.5 + 1.5 * GRID
    band = ConformalBand.fit(np.random.default_rng(0).standard_normal((20_000, 40)) * deviation, 0.9)
    np.testing.assert_allclose(band.half_width, norm.ppf(0.95) * deviation, rtol=0.04)
    assert np.all(band.simultaneous_half_width > band.half_width)


def test_with_a_given_scale_all_functions_are_ranked():
    values = residuals(19, 0)
    band = ConformalBand.fit(values, 0.95, scale=np.ones(40))
    np.testing.assert_allclose(band.simultaneous_half_width, np.abs(values).max())
    np.testing.assert_allclose(band.half_width, np.abs(values).max(axis=0))


def test_points_that_are_never_wrong_get_a_band_of_no_width():
    values = residuals(100, 0)
    values[:, 0] = 0
    band = ConformalBand.fit(values, 0.9)
    assert band.half_width[0] == 0
    assert band.simultaneous_half_width[0] < 1e-4 * band.simultaneous_half_width[-1]


def test_too_few_functions_for_the_coverage_are_refused():
    with pytest.raises(ForetrainError, match="needs at least 19 functions to rank, came 18"):
        ConformalBand.fit(residuals(18, 0), 0.95, scale=np.ones(40))
    with pytest.raises(ForetrainError, match="needs at least 9 functions to rank, came 5"):
        ConformalBand.fit(residuals(10, 0), 0.9)
    with pytest.raises(ForetrainError, match="expected a coverage between 0 and 1"):
        ConformalBand.fit(residuals(10, 0), 1.0)
    with pytest.raises(DataError, match="residuals: expected finite numbers"):
        ConformalBand.fit(np.full((10, 3), np.nan))


def test_score_is_the_distance_of_six_log_energies_from_those_of_training_inputs():
    inputs = gaussian_functions(400, 0.2, 0)
    detector = OutOfRange.fit(inputs, 0.95)
    new = gaussian_functions(5, 0.1, 1)

    def log_energies(function):
        v = function - detector.mean
        inside = [v @ direction for direction in detector.directions.T]
        left = v - sum(c * direction for c, direction in zip(inside, detector.directions.T, strict=True))
        first = [v[j + 1] - v[j] for j in range(39)]
        second = [v[j + 2] - 2 * v[j + 1] + v[j] for j in range(38)]
        third = [v[j + 3] - 3 * v[j + 2] + 3 * v[j + 1] - v[j] for j in range(37)]
        fourth = [v[j + 4] - 4 * v[j + 3] + 6 * v[j + 2] - 4 * v[j + 1] + v[j] for j in range(36)]
        yardstick = detector.residual_deviation**2 + sum(detector.deviations**2)
        return np.log(
            [
                np.mean([(c / d) ** 2 for c, d in zip(inside, detector.deviations, strict=True)]),
                left @ left / detector.residual_deviation**2,
                *(
                    np.dot(each, each) / yardstick + count * 16e-12
                    for each, count in ((first, 2), (second, 6), (third, 20), (fourth, 70))
                ),
            ]
        )

    eighth = np.array([log_energies(function) for function in inputs[::8]])
    np.testing.assert_allclose(detector.centre, eighth.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(detector.spread, eighth.std(axis=0, ddof=1), rtol=1e-6)
    exact = [np.linalg.norm((log_energies(u) - detector.centre) / detector.spread) for u in new]
    np.testing.assert_allclose(detector.score(new), exact, rtol=1e-8)


def test_what_the_components_leave_is_measured_against_what_they_leave_of_training_inputs():
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.standard_normal((30, 30)))[0]
    inputs = generator.standard_normal((2000, 4)) @ basis[:, :4].T
    inputs += 0.01 * generator.standard_normal((2000, 26)) @ basis[:, 4:].T
    detector = OutOfRange.fit(inputs, 0.9)
    assert detector.directions.shape == (30, 4)
    assert detector.residual_deviation == pytest.approx(0.01 * np.sqrt(26), rel=0.05)
    # A step of many noise deviations along a direction that the training inputs hardly have.
    assert detector.flags(inputs + basis[:, 10]).all()


def test_false_alarms_come_at_the_stated_rate():
    rates = [
        OutOfRange.fit(gaussian_functions(398, 0.2, 2 * seed), 0.95)
        .flags(gaussian_functions(300, 0.2, 2 * seed + 1))
        .mean()
        for seed in range(30)
    ]
    # In expectation over training and new inputs: 149 are ranked, 143 of them below.
    assert abs(np.mean(rates) - (1 - np.ceil(150 * 0.95) / 150)) < 4 * np.std(rates) / np.sqrt(len(rates))


def initial_states(count, shift, key, size=1.0):
    """Burgers' initial states N(0, (-Laplace + shift)^-2), of the same variance whatever the shift (25 in training).

    As the problem draws them: on a grid four times finer, and read off at 128 points.
    """
    states = periodic_gaussian_field(count, 512, 1.0, shift, 2.0, np.random.default_rng(key))[:, ::4]
    deviations = ((2 * np.pi * np.arange(1, 256)) ** 2 + shift) ** -1.0
    return size * states / np.sqrt(np.sum(deviations**2))


@pytest.fixture(scope="module")
def of_burgers():
    return OutOfRange.fit(initial_states(800, 25.0, 0))


@pytest.mark.parametrize(
    ("shift", "size"),
    [(25 / 4, 1.0), (25 * 4, 1.0), (25 * 2.25, 1.0), (25.0, 0.5), (25.0, 2.0), (25.0, 2 / 3), (25.0, 1.5)],
    ids=["doubled", "halved", "two thirds as long", "half as large", "twice", "two thirds as large", "1.5 times"],
)
def test_other_lengths_and_sizes_of_burgers_inputs_are_told_from_those_of_training(of_burgers, shift, size):
    usual, other = (
        of_burgers.score(values) for values in (initial_states(500, 25.0, 1), initial_states(500, shift, 2, size))
    )
    assert area_under_curve(usual, other) > 0.98


def test_a_length_one_and_a_half_times_as_long_is_told_from_that_of_training(of_burgers):
    usual, other = (of_burgers.score(initial_states(1000, shift, 3)) for shift in (25.0, 25.0 / 2.25))
    assert area_under_curve(usual, other) > 0.94


def test_rounding_of_smooth_inputs_is_no_roughness():
    places, generator = np.linspace(0, 1, 1024, endpoint=False), np.random.default_rng(0)
    phases, sizes = generator.uniform(0, 1, (600, 1, 2)), generator.standard_normal((600, 1, 2))
    waves = np.sin(2 * np.pi * (np.arange(1, 3) * (places[:, None] - phases)))
    inputs = np.sum(sizes * waves, axis=-1)
    detector = OutOfRange.fit(inputs[:400], 0.95)
    fresh, single = (detector.score(values) for values in (inputs[400:], inputs[400:].astype(np.float32)))
    np.testing.assert_allclose(single, fresh, rtol=0.05)


def test_scores_of_files_with_fewer_differences_are_what_they_were():
    inputs = gaussian_functions(400, 0.2, 0)
    now = OutOfRange.fit(inputs, 0.95)
    then = replace(now, centre=now.centre[:4], spread=now.spread[:4])
    away = (now._log_energies(inputs, 4) - now.centre) / now.spread
    np.testing.assert_allclose(then.score(inputs), np.sqrt(np.sum(away[:, :4] ** 2, axis=1)), rtol=1e-12)


def test_the_problem_draws_inputs_like_those_the_score_was_judged_by(of_burgers):
    drawn = burgers(samples=300, viscosity=0.05, time=0.01, key=5, time_steps=2).inputs
    drawn = drawn / np.sqrt(np.mean(drawn**2)) * np.sqrt(np.mean(initial_states(2000, 25.0, 7) ** 2))
    assert of_burgers.flags(drawn).mean() < 0.05


@pytest.mark.parametrize("length", [0.1, 0.4])
def test_rougher_and_smoother_inputs_are_told_from_training_inputs(length):
    detector = OutOfRange.fit(gaussian_functions(500, 0.2, 0))
    usual, other = (detector.score(gaussian_functions(300, scale, 1)) for scale in (0.2, length))
    assert area_under_curve(usual, other) > 0.97


def test_constant_inputs_and_the_mean_itself_are_flagged():
    detector = OutOfRange.fit(gaussian_functions(500, 0.2, 0) + 3.0)
    assert detector.flags(np.stack([detector.mean, np.full(40, 3.0), np.zeros(40)])).all()
    assert np.all(np.isfinite(detector.score(detector.mean[None])))


def test_inputs_of_another_size_and_noisy_inputs_are_flagged():
    detector = OutOfRange.fit(gaussian_functions(500, 0.2, 0))
    new = gaussian_functions(200, 0.2, 1)
    assert detector.flags(5 * new).mean() > 0.9
    assert detector.flags(new / 5).mean() > 0.9
    assert detector.flags(new + 0.2 * np.random.default_rng(2).standard_normal(new.shape)).all()


def test_inputs_at_one_or_two_sensors_can_be_scored():
    values = np.random.default_rng(0).standard_normal((400, 2))
    for sensors in (1, 2):
        detector = OutOfRange.fit(values[:, :sensors], 0.9)
        assert detector.flags(np.full((1, sensors), 50.0)).all()
        assert detector.flags(np.random.default_rng(1).standard_normal((300, sensors))).mean() < 0.2


def test_inputs_that_cannot_be_scored_are_refused():
    detector = OutOfRange.fit(gaussian_functions(300, 0.2, 0))
    with pytest.raises(DataError, match="expected values at 40 sensors, came 3"):
        detector.score(np.zeros((2, 3)))
    with pytest.raises(DataError, match="expected finite numbers"):
        detector.score(np.full((2, 40), np.inf))
    with pytest.raises(DataError, match="expected functions that differ"):
        OutOfRange.fit(np.ones((300, 4)))
    with pytest.raises(ForetrainError, match="needs at least 99 functions to rank, came 18"):
        OutOfRange.fit(gaussian_functions(50, 0.2, 0))
    with pytest.raises(ForetrainError, match="expected a quantile"):
        OutOfRange.fit(gaussian_functions(50, 0.2, 0), quantile=1.5)
