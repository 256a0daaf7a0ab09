import numpy as np
import pytest
from scipy.integrate import cumulative_simpson, quad

from foretrain._foundation import ForetrainError
from foretrain.problems import antiderivative


def test_outputs_are_the_integrals_of_the_inputs():
    data = antiderivative(samples=20, resolution=257)
    integrals = cumulative_simpson(data.inputs, x=data.query_points[:, 0], initial=0.0)
    np.testing.assert_allclose(data.outputs, integrals, atol=2e-6)
    np.testing.assert_array_equal(data.outputs[:, 0], 0.0)


def test_the_slope_of_the_outputs_is_the_input_to_second_order():
    errors = []
    for resolution in (65, 129, 257):
        data = antiderivative(samples=10, resolution=resolution, key=3)
        slope = np.gradient(data.outputs, data.query_points[:, 0], axis=1)[:, 1:-1]
        errors.append(np.abs(slope - data.inputs[:, 1:-1]).max())
    np.testing.assert_allclose(-np.diff(np.log2(errors)), 2.0, atol=0.1)


def test_coefficients_have_the_decay_asked_for():
    samples = 3000
    data = antiderivative(samples=samples, resolution=200, modes=5, decay=1.5)
    grid = data.sensor_points[:, 0]
    waves = np.cos(np.pi * np.outer(np.arange(1, 6), grid))
    coefficients = np.linalg.lstsq(waves.T, data.inputs.T, rcond=None)[0]
    ratio = np.var(coefficients, axis=1) * np.arange(1, 6) ** 3.0
    np.testing.assert_allclose(ratio, 1.0, atol=4 * np.sqrt(2 / samples))


def test_one_function_agrees_with_adaptive_quadrature():
    data = antiderivative(samples=2, resolution=11, modes=1)
    slope_at_zero = data.inputs[0, 0]
    for point, value in zip(data.query_points[:, 0], data.outputs[0], strict=True):
        assert value == pytest.approx(quad(lambda x: slope_at_zero * np.cos(np.pi * x), 0, point)[0], abs=1e-12)


def test_the_same_key_gives_the_same_functions_on_any_grid():
    coarse, fine = antiderivative(5, 17, key=2), antiderivative(5, 33, key=2)
    np.testing.assert_allclose(coarse.outputs, fine.outputs[:, ::2], atol=1e-14)
    assert antiderivative(5, 17, key=3).fingerprint != coarse.fingerprint


@pytest.mark.parametrize("sizes", [{"samples": 1}, {"resolution": 1}, {"modes": 0}])
def test_sizes_too_small_are_refused(sizes):
    with pytest.raises(ForetrainError, match="antiderivative: expected samples >= 2"):
        antiderivative(**sizes)
