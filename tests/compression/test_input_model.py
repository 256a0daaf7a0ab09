import numpy as np
import pytest

from foretrain.compression import GaussianInputs

DRAWS = 40_000


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return 3.0 + rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6))


def test_its_covariance_is_the_sample_covariance(inputs):
    model = GaussianInputs.fit(inputs)
    covariance = (model.directions * model.deviations**2) @ model.directions.T
    np.testing.assert_allclose(covariance, np.cov(inputs.T), rtol=1e-10)
    np.testing.assert_allclose(model.directions.T @ model.directions, np.eye(6), atol=1e-12)


def test_draws_have_that_mean_and_covariance_within_sampling_error(inputs):
    drawn = GaussianInputs.fit(inputs).draw(DRAWS, key=7)
    covariance = np.cov(inputs.T)
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(drawn.mean(axis=0) - inputs.mean(axis=0)) < 5 * spread / np.sqrt(DRAWS))
    # An entry of a Gaussian sample covariance has the variance (c_ii c_jj + c_ij^2) / draws.
    error = np.sqrt((np.outer(spread**2, spread**2) + covariance**2) / DRAWS)
    assert np.all(np.abs(np.cov(drawn.T) - covariance) < 5 * error)
    standard = (drawn - inputs.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.mean(standard**4) == pytest.approx(3, abs=5 * np.sqrt(96 / standard.size))


def test_the_same_key_draws_the_same_functions_and_another_key_others(inputs):
    model = GaussianInputs.fit(inputs)
    np.testing.assert_array_equal(model.draw(5, key=1), GaussianInputs.fit(inputs).draw(5, key=1))
    assert np.min(np.abs(model.draw(5, key=1) - model.draw(5, key=2))) > 0


def test_few_functions_are_continued_only_in_the_directions_they_span():
    few = np.random.default_rng(1).standard_normal((4, 30))
    model = GaussianInputs.fit(few)
    assert model.directions.shape == (30, 3)
    drawn = model.draw(50, key=0) - few.mean(axis=0)
    basis = (few - few.mean(axis=0)).T
    projected = basis @ np.linalg.lstsq(basis, drawn.T, rcond=None)[0]
    np.testing.assert_allclose(projected, drawn.T, atol=1e-12)


def test_positive_functions_are_continued_by_positive_ones_of_the_same_logarithms():
    rng = np.random.default_rng(2)
    fields = 0.5 * rng.standard_normal((400, 3)) @ rng.standard_normal((3, 8))
    model = GaussianInputs.fit(np.exp(fields))
    drawn = model.draw(DRAWS, key=3)
    assert model.logarithm
    assert drawn.min() > 0
    plain = GaussianInputs.fit(fields)
    assert not plain.logarithm
    np.testing.assert_allclose(np.log(drawn), plain.draw(DRAWS, key=3), atol=1e-10)
