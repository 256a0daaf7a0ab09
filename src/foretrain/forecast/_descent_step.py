"""One step of full-batch gradient descent on a shallow operator: what is timed here is what training runs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.data import OperatorDataset
from foretrain.models import ShallowOperatorNetwork


def training_arrays(
    network: ShallowOperatorNetwork, data: OperatorDataset
) -> tuple[
    Float[jax.Array, "functions inputs"], Float[jax.Array, "points coordinates"], Float[jax.Array, "functions points"]
]:
    """Embedded inputs, embedded points and normalised outputs in the network's precision."""
    values = (
        network.embedding.inputs(data.inputs),
        network.embedding.points(data.query_points),
        network.scale.normalise(data.outputs),
    )
    return tuple(jnp.asarray(np.asarray(value), network.trunk.dtype) for value in values)  # type: ignore[return-value]


def descend(
    network: ShallowOperatorNetwork,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: jax.Array | float,
) -> tuple[ShallowOperatorNetwork, jax.Array]:
    """One gradient step on L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2; also the mean squared residual before it."""
    moved, frozen = eqx.partition(network, network.trained())

    def half_sum_of_squares(weights: ShallowOperatorNetwork) -> jax.Array:
        return 0.5 * jnp.sum((eqx.combine(weights, frozen).normalised(inputs, points) - target) ** 2)

    value, gradient = jax.value_and_grad(half_sum_of_squares)(moved)
    moved = jax.tree.map(lambda weight, slope: weight - step_size * slope, moved, gradient)
    return eqx.combine(moved, frozen), 2 * value / target.size


@eqx.filter_jit
def training_step(
    network: ShallowOperatorNetwork,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: jax.Array | float,
) -> tuple[ShallowOperatorNetwork, jax.Array]:
    """`descend`, compiled."""
    return descend(network, inputs, points, target, step_size)
