"""A small network between principal components of the inputs and of the outputs."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models._activations import activation_function


@dataclass(frozen=True)
class ComponentOperator:
    """A branch-trunk operator on principal components, before its weights are drawn.

        G(u) = output_mean + [ sigma(x . weights + biases), x, 1 ] . outer . output_basis^T,
        x = (u - input_mean) . input_basis

    The output basis plays the trunk's part: any query points, one linear map from the branch network's neurons.

    Arguments:
        width: neurons.
        input_components, output_components: at most this many principal components are kept.
        activation: sigma, by name.
        input_norm: standard deviation of the pre-activations at the start.

    Raises:
        ForetrainError: sizes below one, or an unknown activation.
    """

    width: int
    input_components: int = 24
    output_components: int = 18
    activation: str = "tanh"
    input_norm: float = 1.0

    def __post_init__(self) -> None:
        if min(self.width, self.input_components, self.output_components) < 1:
            raise ForetrainError(f"expected sizes of at least 1, came {self}")
        activation_function(self.activation)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "ComponentNetwork":
        """Takes the components from the data and draws the weights; the outer layer starts at zero."""
        input_mean, input_basis, deviations = _components(data.inputs, self.input_components)
        output_mean, output_basis, _ = _components(data.outputs, self.output_components)
        # The leading components keep more of their share than white features would give them.
        scaled = input_basis * deviations**-0.5
        scaled *= self.input_norm / np.sqrt(np.sum(deviations))
        weight_key, bias_key = jax.random.split(key)
        features, outputs = scaled.shape[1], output_basis.shape[1]
        return ComponentNetwork(
            weights=jax.random.normal(weight_key, (features, self.width)),
            biases=self.input_norm * jax.random.normal(bias_key, (self.width,)),
            outer=jnp.zeros((self.width + features + 1, outputs)),
            input_mean=jnp.asarray(input_mean, jnp.float32),
            input_basis=jnp.asarray(scaled, jnp.float32),
            output_mean=jnp.asarray(output_mean, jnp.float32),
            output_basis=jnp.asarray(output_basis, jnp.float32),
            activation=self.activation,
        )


class ComponentNetwork(eqx.Module):
    """A drawn network between principal components: `network(inputs)` at the training query points.

    Attributes:
        input_mean, input_basis, output_mean, output_basis: fixed by the data, not trained.
    """

    weights: Float[Array, "features width"]
    biases: Float[Array, " width"]
    outer: Float[Array, "width+features+1 components"]
    input_mean: Float[Array, " sensors"]
    input_basis: Float[Array, "sensors features"]
    output_mean: Float[Array, " points"]
    output_basis: Float[Array, "points components"]
    activation: str = eqx.field(static=True)

    def __call__(
        self, inputs: Float[ArrayLike, "functions sensors"], points: Float[ArrayLike, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The operator's values in physical units; `points` is there for the common signature."""
        coefficients = self.hidden(self.features(inputs)) @ self.outer
        return coefficients @ self.output_basis.T + self.output_mean

    def features(self, inputs: Float[ArrayLike, "functions sensors"]) -> Float[Array, "functions features"]:
        """x: scaled principal components of the inputs."""
        return (jnp.asarray(inputs, self.input_basis.dtype) - self.input_mean) @ self.input_basis

    def hidden(self, features: Float[Array, "rows features"]) -> Float[Array, "rows width+features+1"]:
        """The inner layer: neurons, and for the affine part the features and a constant."""
        neurons = activation_function(self.activation)(features @ self.weights + self.biases)
        return jnp.concatenate([neurons, features, jnp.ones((len(features), 1), features.dtype)], axis=-1)


def _components(values: np.ndarray, at_most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, orthonormal principal directions [points, components] and the components' standard deviations."""
    mean = values.mean(axis=0)
    _, singular, directions = np.linalg.svd(values - mean, full_matrices=False)
    kept = max(1, min(at_most, int(np.sum(singular > 1e-7 * singular[0]))))
    return mean, directions[:kept].T, singular[:kept] / np.sqrt(len(values))
