"""The kernels a forecast rests on: that of infinite width and that of the drawn weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.data import OperatorDataset
from foretrain.models import ShallowFourierOperator, ShallowOperator, group_rates
from foretrain.tangent import EmpiricalKernel, fourier_limit, functions_at_once, limit_kernel

Array = np.ndarray
Apply = Callable[[Array], Array]


def normalised_outputs(network: Any, data: OperatorDataset) -> Float[Array, "functions points"]:
    """The network's own outputs on the data, in normalised units."""
    return outputs_on(network, data)(network)


def outputs_on(network: Any, data: OperatorDataset) -> Callable[[Any], Float[Array, "functions points"]]:
    """What gives the normalised outputs on the data of this network, and of the same with other weights."""
    kernel, _ = drawn_kernels(network, data, None)
    return lambda moved: replace(kernel, weights=moved).outputs().astype(np.float64)


def has_limit(model: Any) -> bool:
    """Whether the model's kernel of infinite width is known from the data alone."""
    return isinstance(model, ShallowOperator | ShallowFourierOperator)


def limit_kernels(
    model: ShallowOperator | ShallowFourierOperator,
    train: OperatorDataset,
    test: OperatorDataset | None,
    rates: Mapping[str, float] | None = None,
) -> tuple[Any, Apply | None]:
    """Theta(train, train) of infinite width, a `GridKernel` or a `CirculantKernel`, and Theta(test, train)."""
    if isinstance(model, ShallowFourierOperator):
        return fourier_limit(model, train, test, rates)
    kernel = limit_kernel(model, train, rates)
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


def trained_outputs(network: Any, inputs: jax.Array, points: jax.Array) -> jax.Array:
    """The network's normalised outputs, differentiable in its trained weights only.

    One function for every network, so that its derivatives are compiled once.
    """
    network = jax.tree.map(
        lambda moves, weight: weight if moves else jax.lax.stop_gradient(weight), network.trained(), network
    )
    return network.normalised(inputs, points)


def drawn_kernels(
    network: Any, train: OperatorDataset, test: OperatorDataset | None, rates: Mapping[str, float] | None = None
) -> tuple[EmpiricalKernel, Apply | None]:
    """Theta(train, train) of the drawn weights, and Theta(test, train)."""
    embedding = network.embedding
    inputs, points = jnp.asarray(embedding.inputs(train.inputs), jnp.float32), embedding.points(train.query_points)
    points = jnp.asarray(points, jnp.float32)
    chunk = functions_at_once(trained_outputs, network, inputs, points)
    kernel = EmpiricalKernel(trained_outputs, network, inputs, points, chunk, group_rates(network, rates))
    if test is None:
        return kernel, None
    test_inputs, test_points = embedding.inputs(test.inputs), embedding.points(test.query_points)
    return kernel, lambda residual: kernel.apply_to(residual, test_inputs, test_points)
