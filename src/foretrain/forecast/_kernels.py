"""The kernels a forecast rests on: that of infinite width and that of the drawn weights."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.data import OperatorDataset
from foretrain.models import ShallowOperator, ShallowOperatorNetwork
from foretrain.tangent import EmpiricalKernel, GridKernel, limit_kernel

Array = np.ndarray
Apply = Callable[[Array], Array]


def normalised_outputs(network: ShallowOperatorNetwork, data: OperatorDataset) -> Float[Array, "functions points"]:
    """The network's own outputs on the data, in normalised units."""
    inputs, points = network.embedding.inputs(data.inputs), network.embedding.points(data.query_points)
    return np.asarray(
        _evaluate(network, jnp.asarray(inputs, jnp.float32), jnp.asarray(points, jnp.float32)), np.float64
    )


@jax.jit
def _evaluate(network: ShallowOperatorNetwork, inputs: jax.Array, points: jax.Array) -> jax.Array:
    return network.normalised(inputs, points)


def limit_kernels(
    model: ShallowOperator, train: OperatorDataset, test: OperatorDataset | None
) -> tuple[GridKernel, Apply | None]:
    """Theta(train, train) of infinite width, and Theta(test, train)."""
    kernel = limit_kernel(model, train)
    gram = kernel.gram(train.inputs, train.query_points)
    if test is None:
        return gram, None
    first, second = kernel.between(test.inputs, test.query_points, train.inputs, train.query_points)
    return (
        gram,
        lambda residual: (
            first.functions @ (residual @ first.points.T) + second.functions @ (residual @ second.points.T)
        ),
    )


def trained_outputs(network: ShallowOperatorNetwork, inputs: jax.Array, points: jax.Array) -> jax.Array:
    """The network's normalised outputs, differentiable in its trained weights only.

    One function for every network, so that its derivatives are compiled once.
    """
    if not network.train_outer:
        network = eqx.tree_at(lambda tree: tree.outer, network, jax.lax.stop_gradient(network.outer))
    return network.normalised(inputs, points)


def drawn_kernels(
    network: ShallowOperatorNetwork, train: OperatorDataset, test: OperatorDataset | None
) -> tuple[EmpiricalKernel, Apply | None]:
    """Theta(train, train) of the drawn weights, and Theta(test, train)."""
    embedding = network.embedding
    inputs, points = jnp.asarray(embedding.inputs(train.inputs), jnp.float32), embedding.points(train.query_points)
    kernel = EmpiricalKernel(trained_outputs, network, inputs, jnp.asarray(points, jnp.float32), chunk=len(train))
    if test is None:
        return kernel, None
    test_inputs, test_points = embedding.inputs(test.inputs), embedding.points(test.query_points)
    return kernel, lambda residual: kernel.apply_to(residual, test_inputs, test_points)
