import numpy as np
import pytest
from scipy.stats import norm

from foretrain._foundation import DataError, ForetrainError
from foretrain.deployment import ConformalBand, OutOfRange

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


def test_score_is_the_mahalanobis_distance_when_the_components_explain_all():
    mixing = np.array([[2.0, 0.3, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 0.7]])
    inputs = np.random.default_rng(0).standard_normal((400, 3)) @ mixing + 5.0
    detector = OutOfRange.fit(inputs, 0.95)
    new = np.random.default_rng(1).standard_normal((20, 3)) * 3
    fitted = inputs[1::2]
    centred = new - fitted.mean(axis=0)
    exact = np.sqrt(np.einsum("ij,jk,ik->i", centred, np.linalg.inv(np.cov(fitted.T)), centred))
    np.testing.assert_allclose(detector.score(new), exact, rtol=1e-10)


def test_what_the_components_leave_is_measured_against_what_they_leave_of_training_inputs():
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.standard_normal((30, 30)))[0]
    inputs = generator.standard_normal((2000, 4)) @ basis[:, :4].T * 10
    inputs += 0.01 * generator.standard_normal((2000, 26)) @ basis[:, 4:].T
    detector = OutOfRange.fit(inputs, 0.9)
    assert detector.directions.shape == (30, 4)
    assert detector.residual_deviation == pytest.approx(0.01 * np.sqrt(26), rel=0.05)
    # A step of many noise deviations along a direction that the training inputs hardly have.
    assert detector.score(detector.mean[None] + basis[:, 10])[0] == pytest.approx(1 / 0.051, rel=0.05)


def test_false_alarms_come_at_the_stated_rate():
    rates = [
        OutOfRange.fit(gaussian_functions(398, 0.2, 2 * seed), 0.95)
        .flags(gaussian_functions(300, 0.2, 2 * seed + 1))
        .mean()
        for seed in range(30)
    ]
    # One in twenty in expectation over training and new inputs: 200 are ranked, 190 of them below.
    assert abs(np.mean(rates) - 0.05) < 4 * np.std(rates) / np.sqrt(len(rates))


def test_rougher_inputs_are_told_from_training_inputs():
    detector = OutOfRange.fit(gaussian_functions(500, 0.2, 0))
    usual, rougher = (detector.score(gaussian_functions(300, length, 1)) for length in (0.2, 0.1))
    assert area_under_curve(usual, rougher) > 0.99
    assert detector.flags(gaussian_functions(300, 0.1, 2)).mean() > 0.95


def test_inputs_of_another_size_and_noisy_inputs_are_flagged():
    detector = OutOfRange.fit(gaussian_functions(500, 0.2, 0))
    new = gaussian_functions(200, 0.2, 1)
    assert detector.flags(5 * new).mean() > 0.9
    assert detector.flags(new + 0.2 * np.random.default_rng(2).standard_normal(new.shape)).all()


def test_inputs_that_cannot_be_scored_are_refused():
    detector = OutOfRange.fit(gaussian_functions(300, 0.2, 0))
    with pytest.raises(DataError, match="expected values at 40 sensors, came 3"):
        detector.score(np.zeros((2, 3)))
    with pytest.raises(DataError, match="expected finite numbers"):
        detector.score(np.full((2, 40), np.inf))
    with pytest.raises(DataError, match="expected functions that differ"):
        OutOfRange.fit(np.ones((300, 4)))
    with pytest.raises(ForetrainError, match="needs at least 99 functions to rank, came 25"):
        OutOfRange.fit(gaussian_functions(50, 0.2, 0))
    with pytest.raises(ForetrainError, match="expected a quantile"):
        OutOfRange.fit(gaussian_functions(50, 0.2, 0), quantile=1.5)
