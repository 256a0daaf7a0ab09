"""The tangent kernel of the infinitely wide shallow operator, from inputs and query points alone."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import double_precision
from foretrain.data import Embedding
from foretrain.tangent._activations import Activation, activation
from foretrain.tangent._grid import GridKernel, Term

Array = np.ndarray


@double_precision
def activation_kernels(
    name: str, left: Float[Array, "rows features"], right: Float[Array, "columns features"]
) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
    """The two kernels of one layer on embedded points, standard normal weights.

    K(x, x') = E[sigma(w.x) sigma(w.x')],   D(x, x') = (x.x') E[sigma'(w.x) sigma'(w.x')]
    """
    value, slope = _both(activation(name), jnp.asarray(left, jnp.float64), jnp.asarray(right, jnp.float64))
    return np.asarray(value), np.asarray(slope)


@functools.partial(jax.jit, static_argnums=0)
def _both(sigma: Activation, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    covariance = rows @ columns.T
    v, w = jnp.sum(rows**2, axis=1)[:, None], jnp.sum(columns**2, axis=1)[None, :]
    dual, derivative = sigma.duals(v, w, covariance)
    return dual, covariance * derivative


@dataclass(frozen=True)
class BranchTrunkKernel:
    """Theta((u, y), (u', y')) of a wide shallow operator with one step size for each weight group.

        Theta = K(U) (x) [trunk_rate D(Y) + outer_rate K(Y)] + D(U) (x) [branch_rate K(Y)]

    Attributes:
        branch_activation, trunk_activation: by name.
        embedding: of inputs and points.
        trunk_rate, branch_rate, outer_rate: relative step sizes of the three groups; 0 freezes a group.
        ridge: relative ridge on the diagonals of the factors, which keeps the two-term structure.

    Source: Xu, Li, Huang, arXiv 2412.05545 (outer weights frozen: outer_rate = 0).
    """

    embedding: Embedding
    branch_activation: str = "relu"
    trunk_activation: str = "relu"
    trunk_rate: float = 1.0
    branch_rate: float = 1.0
    outer_rate: float = 0.0
    ridge: float = 0.0

    def between(
        self,
        inputs: Float[Array, "rows sensors"],
        points: Float[Array, "row_points dimension"],
        other_inputs: Float[Array, "columns sensors"],
        other_points: Float[Array, "column_points dimension"],
    ) -> tuple[Term, Term]:
        """The two Kronecker products between two sets of inputs and points."""
        embed = self.embedding
        value, slope = activation_kernels(self.branch_activation, embed.inputs(inputs), embed.inputs(other_inputs))
        point_value, point_slope = activation_kernels(
            self.trunk_activation, embed.points(points), embed.points(other_points)
        )
        first = self.trunk_rate * point_slope + self.outer_rate * point_value
        return Term(value, first), Term(slope, self.branch_rate * point_value)

    def gram(self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"]) -> GridKernel:
        """The kernel of the training data, its factors symmetric and with the ridge on their diagonals."""
        terms = self.between(inputs, points, inputs, points)
        return GridKernel(tuple(Term(*(self._symmetric(matrix) for matrix in term)) for term in terms))  # type: ignore[arg-type]

    def _symmetric(self, matrix: Array) -> Array:
        symmetric = (matrix + matrix.T) / 2
        return symmetric + self.ridge * np.mean(np.diagonal(matrix)) * np.eye(len(matrix))
