"""What the tests of every architecture check alike: its tangent kernel, and that Adam can train it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from foretrain.data import OperatorDataset, OutputScale


@pytest.fixture(scope="session")
def dense_jacobian() -> Callable[..., np.ndarray]:
    """The explicit Jacobian of a network's normalised outputs in its trained weights, [outputs, weights].

    Outputs are those on the data, or on other inputs and points, and are divided by the scale of the data's outputs.
    """

    def jacobian(network: Any, data: OperatorDataset, *others: np.ndarray) -> np.ndarray:
        moved, frozen = eqx.partition(network, network.trained())
        flat, unravel = ravel_pytree(moved)
        arguments = others or (data.inputs, data.query_points)
        rows = jax.jit(jax.jacobian(lambda flat: eqx.combine(unravel(flat), frozen)(*arguments).ravel()))(flat)
        return np.asarray(rows, np.float64) / OutputScale.of(data.outputs).scale

    return jacobian


@pytest.fixture(scope="session")
def losses_of_adam() -> Callable[..., np.ndarray]:
    """Mean squared residuals of a network before each of some steps of Adam with step size 0.01, on all functions."""

    def losses(network: Any, data: OperatorDataset, steps: int) -> np.ndarray:
        embedding = network.embedding
        values = (
            embedding.inputs(data.inputs),
            embedding.points(data.query_points),
            network.scale.normalise(data.outputs),
        )
        inputs, points, target = (jnp.asarray(value, jnp.float32) for value in values)
        weights, frozen = eqx.partition(network, network.trained())

        def loss(weights: Any) -> jax.Array:
            return jnp.mean((eqx.combine(weights, frozen).normalised(inputs, points) - target) ** 2)

        def step(state: tuple[Any, Any, Any], number: jax.Array) -> tuple[tuple[Any, Any, Any], jax.Array]:
            weights, mean, square = state
            value, slope = jax.value_and_grad(loss)(weights)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
            square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, slope)
            moved = jax.tree.map(
                lambda w, m, s: w - 1e-2 * (m / (1 - 0.9**number)) / (jnp.sqrt(s / (1 - 0.999**number)) + 1e-8),
                weights,
                mean,
                square,
            )
            return (moved, mean, square), value

        zeros = jax.tree.map(jnp.zeros_like, weights)
        return np.asarray(jax.lax.scan(step, (weights, zeros, zeros), jnp.arange(1.0, steps + 1.0))[1])

    return losses
