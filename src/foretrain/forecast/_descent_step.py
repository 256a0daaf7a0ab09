"""One step of gradient descent on any network: what is timed here is what training runs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from foretrain.data import OperatorDataset


def training_arrays(
    network: Any, data: OperatorDataset
) -> tuple[
    Float[jax.Array, "functions inputs"], Float[jax.Array, "points coordinates"], Float[jax.Array, "functions points"]
]:
    """Embedded inputs, embedded points and normalised outputs in the network's precision."""
    values = (
        network.embedding.inputs(data.inputs),
        network.embedding.points(data.query_points),
        network.scale.normalise(data.outputs),
    )
    precision = jnp.result_type(*(leaf for leaf in jax.tree.leaves(network) if eqx.is_inexact_array(leaf)))
    return tuple(jnp.asarray(np.asarray(value), precision) for value in values)  # type: ignore[return-value]


def loss_gradient(
    network: Any, inputs: jax.Array, points: jax.Array, target: jax.Array
) -> tuple[Any, Float[jax.Array, ""]]:
    """Gradient of L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2 in the trained weights, and the mean squared residual.

    The gradient is a tree like the network with None where nothing is trained.
    """
    moved, frozen = eqx.partition(network, network.trained())

    def half_sum_of_squares(weights: Any) -> jax.Array:
        return 0.5 * jnp.sum((eqx.combine(weights, frozen).normalised(inputs, points) - target) ** 2)

    value, gradient = jax.value_and_grad(half_sum_of_squares)(moved)
    return gradient, 2 * value / target.size


def moved_by(network: Any, change: PyTree) -> Any:
    """The network with its trained weights changed; `change` has None where nothing is trained."""
    return eqx.apply_updates(network, change)


def descend(
    network: Any,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: jax.Array | float,
    rates: PyTree | None = None,
) -> tuple[Any, Float[jax.Array, ""]]:
    """One gradient step on L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2; also the mean squared residual before it."""
    gradient, loss = loss_gradient(network, inputs, points, target)
    change = scaled(gradient, -step_size, rates)
    return moved_by(network, change), loss


def scaled(gradient: PyTree, factor: jax.Array | float, rates: PyTree | None) -> PyTree:
    """A gradient times a factor and each group's relative step size."""
    if rates is None:
        return jax.tree.map(lambda slope: factor * slope, gradient)
    return jax.tree.map(
        lambda slope, rate: None if slope is None else factor * rate * slope,
        gradient,
        rates,
        is_leaf=lambda leaf: leaf is None,
    )


@eqx.filter_jit
def training_step(
    network: Any,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: jax.Array | float,
) -> tuple[Any, Float[jax.Array, ""]]:
    """`descend`, compiled."""
    return descend(network, inputs, points, target, step_size)
