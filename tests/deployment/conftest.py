"""Small data and networks of both kinds, with random or with fitted outer layers."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.models import ComponentNetwork, ComponentOperator, ShallowFourierNetwork, ShallowFourierOperator
from foretrain.problems import burgers


@pytest.fixture(scope="session")
def line() -> OperatorDataset:
    """A periodic grid in one dimension."""
    return burgers(samples=60, resolution=64, viscosity=0.05)


@pytest.fixture(scope="session")
def plane() -> OperatorDataset:
    """A periodic grid of 6 x 10 points: smoothed noise, and its squares shifted."""
    axes = np.meshgrid(np.arange(6) / 6, np.arange(10) / 10, indexing="ij")
    points = np.stack(axes, -1).reshape(-1, 2)
    noise = np.random.default_rng(0).standard_normal((50, 6, 10))
    neighbours = sum(np.roll(noise, shift, axis) for axis in (1, 2) for shift in (-1, 1))
    inputs = (noise + 0.2 * neighbours).reshape(50, -1)
    return OperatorDataset(inputs, np.roll(inputs, 1, axis=1) ** 2 + 3.0, points, points)


@pytest.fixture(scope="session")
def fourier() -> Callable[..., ShallowFourierNetwork]:
    """Builds a Fourier network with random readout and linear part."""

    def build(data: OperatorDataset, reflection: int = 0, modes: int = 8, width: int = 24) -> ShallowFourierNetwork:
        operator = ShallowFourierOperator(width=width, modes=modes, reflection=reflection)
        network = operator.initialise(data, jax.random.key(1))
        readout, linear = jax.random.key(2), jax.random.key(3)
        values = (jax.random.normal(readout, (width,)), jax.random.normal(linear, network.linear.shape))
        return eqx.tree_at(lambda net: (net.readout, net.linear), network, values)

    return build


@pytest.fixture(scope="session")
def component() -> Callable[..., ComponentNetwork]:
    """Builds a component network with a random outer layer."""

    def build(data: OperatorDataset, activation: str = "tanh", width: int = 24) -> ComponentNetwork:
        network = ComponentOperator(width, 9, 7, activation).initialise(data, jax.random.key(1))
        outer = jax.random.normal(jax.random.key(2), network.outer.shape)
        return eqx.tree_at(lambda net: net.outer, network, outer)

    return build


@pytest.fixture(scope="session")
def fitted(line: OperatorDataset) -> dict[str, ShallowFourierNetwork | ComponentNetwork]:
    """Networks of both kinds, outer layer fitted to Burgers: as smooth as trained ones."""
    fourier = ShallowFourierOperator(width=48, modes=12, reflection=-1).initialise(line, jax.random.key(4))
    hidden = np.asarray(fourier.hidden(fourier.features(line.inputs)), np.float64)
    outputs = (line.outputs - float(fourier.scale.offset)) / float(fourier.scale.scale)
    outer = _ridge(hidden.reshape(-1, hidden.shape[-1]), outputs.ravel())
    fourier = eqx.tree_at(lambda net: (net.readout, net.linear), fourier, (outer[:48], outer[48:]))
    component = ComponentOperator(width=32).initialise(line, jax.random.key(5))
    hidden = np.asarray(component.hidden(component.features(line.inputs)), np.float64)
    coefficients = (line.outputs - np.asarray(component.output_mean)) @ np.asarray(component.output_basis)
    component = eqx.tree_at(lambda net: net.outer, component, _ridge(hidden, coefficients))
    return {"fourier": fourier, "component": component}


def _ridge(features: np.ndarray, targets: np.ndarray) -> jax.Array:
    gram = features.T @ features
    gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return jnp.asarray(np.linalg.solve(gram, features.T @ targets), jnp.float32)
