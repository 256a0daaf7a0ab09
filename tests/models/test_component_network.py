import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.models import ComponentOperator
from foretrain.problems import antiderivative


@pytest.fixture(scope="module")
def line():
    return antiderivative(samples=40, resolution=20, modes=6)


def drawn(data, **arguments):
    """A network whose outer layer is not zero."""
    network = ComponentOperator(**{"width": 11, "input_components": 4, "output_components": 3} | arguments).initialise(
        data, jax.random.key(0)
    )
    outer = np.random.default_rng(0).standard_normal(network.outer.shape)
    return eqx.tree_at(lambda net: net.outer, network, jnp.asarray(outer))


def principal(values, count):
    """Mean, leading eigenvectors and eigenvalues of the covariance."""
    mean = values.mean(axis=0)
    power, directions = np.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    return mean, directions[:, ::-1][:, :count], power[::-1][:count]


def test_the_network_is_the_formula_on_its_arrays(line):
    network = drawn(line)
    weights, biases, outer, input_mean, input_basis, output_mean, output_basis = (
        np.asarray(array, np.float64)
        for array in (
            network.weights,
            network.biases,
            network.outer,
            network.input_mean,
            network.input_basis,
            network.output_mean,
            network.output_basis,
        )
    )
    for row, inputs in enumerate(line.inputs[:5]):
        x = (inputs - input_mean) @ input_basis
        layer = np.concatenate([np.tanh(x @ weights + biases), x, [1.0]])
        expected = output_mean + output_basis @ (layer @ outer)
        np.testing.assert_allclose(network(line.inputs)[row], expected, atol=2e-6 * np.abs(expected).max())


def test_bases_are_the_eigenvectors_of_the_covariances(line):
    network = drawn(line)
    for mean, basis, values, count in (
        (network.input_mean, network.input_basis, line.inputs, 4),
        (network.output_mean, network.output_basis, line.outputs, 3),
    ):
        expected_mean, directions, _ = principal(values, count)
        np.testing.assert_allclose(mean, expected_mean, atol=1e-6)
        unit = np.asarray(basis, np.float64) / np.linalg.norm(basis, axis=0)
        np.testing.assert_allclose(np.abs(unit.T @ directions), np.eye(count), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(network.output_basis, axis=0), 1.0, atol=1e-6)


def test_features_are_uncorrelated_with_powers_like_the_components_deviations(line):
    features = np.asarray(drawn(line, input_norm=1.5).features(line.inputs), np.float64)
    deviations = np.sqrt(principal(line.inputs, 4)[2])
    expected = np.diag(1.5**2 * deviations / deviations.sum())
    np.testing.assert_allclose(features.T @ features / len(features), expected, atol=1e-5)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-5)


def test_the_drawn_network_answers_with_the_mean_until_it_is_trained(line):
    network = ComponentOperator(5).initialise(line, jax.random.key(0))
    np.testing.assert_allclose(network(line.inputs), np.tile(line.outputs.mean(axis=0), (40, 1)), atol=1e-6)


def test_a_linear_operator_is_reached_by_the_affine_part_alone(line):
    network = ComponentOperator(3).initialise(line, jax.random.key(0))
    assert network.input_basis.shape[1] == network.output_basis.shape[1] == 6, "six modes, six components"
    hidden = np.asarray(network.hidden(network.features(line.inputs)), np.float64)
    coefficients = (line.outputs - line.outputs.mean(axis=0)) @ np.asarray(network.output_basis, np.float64)
    affine = np.linalg.lstsq(hidden[:, 3:], coefficients, rcond=None)[0]
    outer = jnp.asarray(np.vstack([np.zeros((3, 6)), affine]), jnp.float32)
    fitted = eqx.tree_at(lambda net: net.outer, network, outer)
    fresh = antiderivative(samples=10, resolution=20, modes=6, key=1)
    np.testing.assert_allclose(fitted(fresh.inputs), fresh.outputs, atol=2e-5 * np.abs(fresh.outputs).max())


def test_units_of_the_inputs_do_not_matter(line):
    scaled = type(line)(1e6 * line.inputs, line.outputs, line.sensor_points, line.query_points)
    ours, theirs = drawn(line)(line.inputs), drawn(scaled)(scaled.inputs)
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"input_components": 0}, {"output_components": -1}, {"activation": "?"}]
)
def test_impossible_models_are_refused(arguments):
    with pytest.raises(ForetrainError, match="expected"):
        ComponentOperator(**{"width": 4} | arguments)
