"""The wide shallow neural operator whose training the theory forecasts."""

import math
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import ForetrainError, require_memory
from foretrain.data import Embedding, OperatorDataset, OutputScale, choose_embedding
from foretrain.models._activations import activation_function


@dataclass(frozen=True)
class ShallowOperator:
    """A shallow neural operator, before its weights are drawn.

        G(u)(y) = 1/sqrt(m) sum_{r<=m} [ 1/sqrt(p) sum_{k<=p} a_rk sigma(b_rk . u) ] sigma(t_r . y)

    with u and y embedded (see `foretrain.data.Embedding`), branch weights b and trunk weights t standard normal and
    outer weights a = +-1. In the *block* form every r has branch neurons of its own; in the *shared* form b_rk = b_k.
    Both have the same tangent kernel as m grows; at equal cost the block form is the more predictable.

    Arguments:
        width: m, the number of trunk neurons.
        branch_width: p, branch neurons for each of them (block) or for all (shared).
        activation: sigma, by name.
        form: "block" or "shared".
        train_outer: whether a is trained too.
        antisymmetric: draw neurons in pairs of opposite sign, so that the initial operator is zero (up to rounding).
        embedding: scaling of inputs and coordinates; by default chosen from the data.

    Raises:
        ForetrainError: widths below one, an odd width or the shared form with antisymmetric drawing, an unknown form or
            activation.

    Source: Xu, Li, Huang, arXiv 2412.05545 (block form, a frozen).
    """

    width: int
    branch_width: int
    activation: str = "relu"
    form: Literal["block", "shared"] = "block"
    train_outer: bool = False
    antisymmetric: bool = False
    embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.branch_width < 1:
            raise ForetrainError(f"expected widths of at least 1, came {self.width} and {self.branch_width}")
        if self.form not in ("block", "shared"):
            raise ForetrainError(f"expected the form 'block' or 'shared', came {self.form!r}")
        if self.antisymmetric and self.width % 2:
            raise ForetrainError(f"expected an even width for antisymmetric drawing, came {self.width}")
        if self.antisymmetric and self.form == "shared":
            raise ForetrainError(
                "expected the block form with antisymmetric drawing, came the shared form, whose paired neurons would "
                "cancel the training of the branch; use form='block'"
            )
        activation_function(self.activation)

    def embedding_for(self, data: OperatorDataset) -> Embedding:
        """The embedding this model uses on the data."""
        return self.embedding if self.embedding is not None else choose_embedding(data)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "ShallowOperatorNetwork":
        """Draws the weights; the same key gives the same network.

        Raises:
            MemoryBudgetError: if the weights would not fit into memory.
        """
        numbers = self.parameter_count(data)
        require_memory(4 * numbers, f"a network of {numbers:,} numbers", "choose smaller widths")
        trunk_shape, branch_shape, outer_shape = self._shapes(data)
        if self.antisymmetric:
            trunk_shape, outer_shape = _half(trunk_shape), _half(outer_shape)
            branch_shape = _half(branch_shape) if self.form == "block" else branch_shape
        trunk_key, branch_key, outer_key = jax.random.split(key, 3)
        trunk = jax.random.normal(trunk_key, trunk_shape)
        branch = jax.random.normal(branch_key, branch_shape)
        outer = jax.random.rademacher(outer_key, outer_shape, trunk.dtype)
        if self.antisymmetric:
            trunk, outer = jnp.concatenate([trunk, trunk]), jnp.concatenate([outer, -outer])
            branch = jnp.concatenate([branch, branch]) if self.form == "block" else branch
        embedding, scale = self.embedding_for(data), OutputScale.of(data.outputs)
        return ShallowOperatorNetwork(trunk, branch, outer, self.activation, embedding, scale, self.train_outer)

    def parameter_count(self, data: OperatorDataset) -> int:
        """How many numbers the drawn network holds, the frozen outer weights included."""
        return sum(math.prod(shape) for shape in self._shapes(data))

    def _shapes(self, data: OperatorDataset) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of trunk, branch and outer weights."""
        embedding = self.embedding_for(data)
        inputs = embedding.inputs(data.inputs[:1]).shape[1]
        coordinates = embedding.points(data.query_points[:1]).shape[1]
        branch = (self.branch_width, inputs) if self.form == "shared" else (self.width, self.branch_width, inputs)
        return (self.width, coordinates), branch, (self.width, self.branch_width)


def _half(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] // 2, *shape[1:])


class ShallowOperatorNetwork(eqx.Module):
    """A shallow neural operator with drawn weights: `network(inputs, points)` in physical units."""

    trunk: Float[Array, "width coordinates"]
    branch: Float[Array, "*width branch_width inputs"]
    outer: Float[Array, "width branch_width"]
    activation: str = eqx.field(static=True)
    embedding: Embedding = eqx.field(static=True)
    scale: OutputScale = eqx.field(static=True)
    train_outer: bool = eqx.field(static=True, default=False)

    def __call__(
        self, inputs: Float[ArrayLike, "functions sensors"], points: Float[ArrayLike, "points dimension"]
    ) -> Float[Array, "functions points"]:
        """The operator's values in physical units."""
        normalised = self.normalised(self.embedding.inputs(inputs), self.embedding.points(points))
        return normalised * self.scale.scale + self.scale.offset

    def normalised(
        self, inputs: Float[ArrayLike, "functions inputs"], points: Float[ArrayLike, "points coordinates"]
    ) -> Float[Array, "functions points"]:
        """The operator of the equation: embedded inputs and points to normalised outputs."""
        sigma = activation_function(self.activation)
        width, branch_width = self.outer.shape
        trunk = sigma(jnp.asarray(points) @ self.trunk.T)
        neurons = sigma(jnp.asarray(inputs) @ self.branch.reshape(-1, self.branch.shape[-1]).T)
        if self.branch.ndim == 3:
            branch = jnp.sum(neurons.reshape(-1, width, branch_width) * self.outer, axis=-1)
        else:
            branch = neurons @ self.outer.T
        return (branch / branch_width**0.5) @ (trunk.T / width**0.5)

    def trained(self) -> "ShallowOperatorNetwork":
        """The same tree with True at the weights that training moves (a filter for `equinox.partition`)."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(
            lambda network: (network.trunk, network.branch, network.outer), nothing, (True, True, self.train_outer)
        )
