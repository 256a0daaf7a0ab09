import numpy as np
import pytest

from foretrain.problems._gaussian_fields import periodic_gaussian_field

SAMPLES, RESOLUTION = 4000, 64


@pytest.fixture(scope="module")
def field():
    return periodic_gaussian_field(SAMPLES, RESOLUTION, 25.0, 25.0, 2.0, np.random.default_rng(0))


def variances():
    """Eigenvalues of 625 (-Laplace + 25)^-2 on the unit circle."""
    return 625 / ((2 * np.pi * np.arange(RESOLUTION // 2 + 1)) ** 2 + 25) ** 2


def test_the_power_of_every_mode_is_the_eigenvalue_of_the_covariance(field):
    coefficients = np.fft.rfft(field, axis=1) / RESOLUTION
    power = np.mean(np.abs(coefficients) ** 2, axis=0)
    # The squared modulus of a complex Gaussian is exponential: its spread is its mean.
    error = np.abs(power[1:-1] / variances()[1:-1] - 1) * np.sqrt(SAMPLES)
    assert np.all(error < 4)
    assert np.mean(error**2) == pytest.approx(1.0, abs=0.8)
    np.testing.assert_allclose(coefficients[:, [0, -1]], 0, atol=1e-15)


def test_the_covariance_depends_on_the_distance_alone(field):
    lags = np.arange(RESOLUTION) / RESOLUTION
    modes = np.arange(1, RESOLUTION // 2)
    expected = np.cos(2 * np.pi * np.outer(lags, modes)) @ (2 * variances()[modes])
    covariance = field.T @ field / SAMPLES
    distance = (np.arange(RESOLUTION)[:, None] - np.arange(RESOLUTION)) % RESOLUTION
    # Var of a product of Gaussians: c(0)^2 + c(s)^2.
    spread = np.sqrt((expected[0] ** 2 + expected[distance] ** 2) / SAMPLES)
    assert np.all(np.abs(covariance - expected[distance]) < 5 * spread)


def test_phases_are_uniform(field):
    coefficients = np.fft.rfft(field, axis=1)[:, 1:-1]
    directions = np.mean((coefficients / np.abs(coefficients)) ** 2, axis=0)
    assert np.all(np.abs(directions) < 4 / np.sqrt(SAMPLES))


def test_a_finer_grid_with_the_same_modes_shows_the_same_functions():
    coarse = periodic_gaussian_field(3, 64, 25.0, 25.0, 2.0, np.random.default_rng(1))
    fine = periodic_gaussian_field(3, 256, 25.0, 25.0, 2.0, np.random.default_rng(1), modes=31)
    np.testing.assert_allclose(fine[:, ::4], coarse, atol=1e-13)
