"""The tangent kernel of the infinitely wide operator of branch and trunk, from inputs and query points alone."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import double_precision
from foretrain.data import Embedding
from foretrain.tangent._activations import Activation, activation
from foretrain.tangent._deep import SIGNAL_KEEPING, Layers, LayerVariances, network_kernels
from foretrain.tangent._grid import GridKernel, Term
from foretrain.tangent._receptive_fields import ReceptiveFields

Array = np.ndarray


@double_precision
def activation_kernels(
    name: str,
    left: Float[Array, "rows features"],
    right: Float[Array, "columns features"],
    depth: int = 1,
    layers: Layers = SIGNAL_KEEPING,
) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
    """The two kernels of a network's last layer on embedded points; its first layer has standard normal weights.

        K(x, x') = E[sigma(w.x) sigma(w.x')],   D(x, x') = (x.x') E[sigma'(w.x) sigma'(w.x')]      at depth 1

    K is the mean product of two features and D the tangent kernel of a feature; `network_kernels` gives the recursion
    for more layers.

    Arguments:
        name: of the activation.
        left, right: embedded inputs or points.
        depth: number of hidden layers.
        layers: how those above the first are drawn, and whether a linear readout follows.

    Raises:
        ForetrainError: an activation without a tangent kernel ("matern12"), or layers that do not fit the depth.
    """
    sigma = activation(name)
    variances = layers.variances(sigma, depth)
    rows, columns = jnp.asarray(left, jnp.float64), jnp.asarray(right, jnp.float64)
    value, slope = _both(sigma, rows, columns, variances, layers.linear_readout)
    return np.asarray(value), np.asarray(slope)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _both(
    sigma: Activation,
    rows: jax.Array,
    columns: jax.Array,
    variances: LayerVariances = (),
    linear_readout: bool = False,
) -> tuple[jax.Array, jax.Array]:
    v, w = jnp.sum(rows**2, axis=1)[:, None], jnp.sum(columns**2, axis=1)[None, :]
    return network_kernels(sigma, v, w, rows @ columns.T, variances, linear_readout)


@double_precision
def _diagonals(name: str, rows: Array, depth: int, layers: Layers) -> tuple[Array, Array]:
    """K(x, x) and D(x, x) of every row, without the matrices they are the diagonals of."""
    sigma = activation(name)
    v = jnp.sum(jnp.asarray(rows, jnp.float64) ** 2, axis=1)
    value, slope = _along_diagonal(sigma, v, layers.variances(sigma, depth), layers.linear_readout)
    return np.asarray(value), np.asarray(slope)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _along_diagonal(
    sigma: Activation, v: jax.Array, variances: LayerVariances, linear_readout: bool
) -> tuple[jax.Array, jax.Array]:
    return network_kernels(sigma, v, v, v, variances, linear_readout)


@dataclass(frozen=True)
class BranchTrunkKernel:
    """Theta((u, y), (u', y')) of a wide branch-trunk operator with one step size for each weight group.

        G(u)(y) = (m p)^{-1/2} sum_{r<=m, k<=p} a_rk b_k(u) t_r(y),      a_rk = +-1 or N(0, 1)
        Theta = K(U) (x) [trunk_rate D(Y) + outer_rate K(Y)] + D(U) (x) [branch_rate K(Y)]

    with K = E[b b'] and D the tangent kernel of b over the branch's inputs U, likewise of t over the query points Y.
    With one hidden layer b and t are neurons: the shallow operator. With more they are the last features of deep
    networks, every layer of a network trained at its group's rate.

    `deeponet` gives the kernel of networks with linear readouts multiplied output by output.

    Attributes:
        branch_activation, trunk_activation: by name.
        embedding: of inputs and points.
        trunk_rate, branch_rate, outer_rate: relative step sizes of the three groups; 0 freezes a group.
        ridge: relative ridge on the diagonals of the factors, which keeps the two-term structure.
        branch_depth, trunk_depth: hidden layers of either network.
        branch_layers, trunk_layers: how the layers above the first are drawn; a linear readout makes b or t outputs.
        fields: receptive fields of local branch neurons (of one layer), or None.
        local_share: how many of the branch neurons are local, as a fraction.

    **Assumption:** all widths go to infinity; at depth 1 the finite kernel's mean is Theta at every width.

    Source: Xu, Li, Huang, arXiv 2412.05545 (one layer, outer weights frozen: outer_rate = 0); Jacot, Gabriel, Hongler
    (2018), for more layers.
    """

    embedding: Embedding
    branch_activation: str = "relu"
    trunk_activation: str = "relu"
    trunk_rate: float = 1.0
    branch_rate: float = 1.0
    outer_rate: float = 0.0
    ridge: float = 0.0
    branch_depth: int = 1
    trunk_depth: int = 1
    branch_layers: Layers = SIGNAL_KEEPING
    trunk_layers: Layers = SIGNAL_KEEPING
    fields: ReceptiveFields | None = None
    local_share: float = 0.0

    @classmethod
    def deeponet(
        cls,
        embedding: Embedding,
        activation: str = "relu",
        branch_depth: int = 2,
        trunk_depth: int = 2,
        *,
        weight_variance: float | None = None,
        bias_variance: float = 0.0,
        ridge: float = 0.0,
    ) -> "BranchTrunkKernel":
        """The kernel of the infinitely wide DeepONet: two multilayer perceptrons with linear readouts, all trained.

            f(u)(y) = p^{-1/2} sum_{k<=p} b_k(u) t_k(y),      Theta = Sigma_b (x) Theta_t + Theta_b (x) Sigma_t

        Sigma is the covariance of a network's outputs and Theta_b, Theta_t the networks' own tangent kernels: the K and
        D of networks with a linear readout, with outer weights that are frozen because there are none. Cross terms of
        different outputs vanish as p grows. In terms of the last features' K and D, Sigma = s_w K + s_b and
        Theta_b = Sigma + s_w D, so that without biases this kernel is s_w^2 times that of the features with
        outer_rate = 2: the readouts of branch and trunk are trained outer weights, once each.

        Arguments:
            branch_depth, trunk_depth: hidden layers of either network, the readout not counted.
            weight_variance, bias_variance: of all layers above the first and of the readouts (see `Layers`).
        """
        layers = Layers(weight_variance, bias_variance, linear_readout=True)
        return cls(
            embedding,
            activation,
            activation,
            ridge=ridge,
            branch_depth=branch_depth,
            trunk_depth=trunk_depth,
            branch_layers=layers,
            trunk_layers=layers,
        )

    def between(
        self,
        inputs: Float[Array, "rows sensors"],
        points: Float[Array, "row_points dimension"],
        other_inputs: Float[Array, "columns sensors"],
        other_points: Float[Array, "column_points dimension"],
    ) -> tuple[Term, Term]:
        """The two Kronecker products between two sets of inputs and points."""
        value, slope = self.function_factors(inputs, other_inputs)
        first, second = self.point_factors(points, other_points)
        return Term(value, first), Term(slope, second)

    def function_factors(
        self, inputs: Float[Array, "rows sensors"], other_inputs: Float[Array, "columns sensors"]
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """K(U) and D(U), the factors of either term that depend on the input functions."""
        rows, columns = self.embedding.inputs(inputs), self.embedding.inputs(other_inputs)
        everywhere = activation_kernels(self.branch_activation, rows, columns, self.branch_depth, self.branch_layers)
        if self.fields is None:
            return everywhere
        return self._mixed(everywhere, self.fields.kernels(self.branch_activation, inputs, other_inputs))

    def point_factors(
        self, points: Float[Array, "rows dimension"], other_points: Float[Array, "columns dimension"]
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """The factors of either term that depend on the query points, with the groups' rates."""
        rows, columns = self.embedding.points(points), self.embedding.points(other_points)
        value, slope = activation_kernels(self.trunk_activation, rows, columns, self.trunk_depth, self.trunk_layers)
        return self.trunk_rate * slope + self.outer_rate * value, self.branch_rate * value

    def diagonal(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"]
    ) -> Float[Array, "functions points"]:
        """Theta of every function and point with itself, without the ridge and without any matrix."""
        (value, slope), (point_value, point_slope) = self._own(inputs, points)
        trunk = self.trunk_rate * point_slope + self.outer_rate * point_value
        return np.outer(value, trunk) + np.outer(slope, self.branch_rate * point_value)

    def initial_variance(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"]
    ) -> Float[Array, "functions points"]:
        """E[G(u)(y)^2] over the draw of the weights, K(u, u) K(y, y): how large outputs are before training."""
        (value, _), (point_value, _) = self._own(inputs, points)
        return np.outer(value, point_value)

    def _own(self, inputs: Array, points: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        embed = self.embedding
        functions = _diagonals(self.branch_activation, embed.inputs(inputs), self.branch_depth, self.branch_layers)
        if self.fields is not None:
            functions = self._mixed(functions, self.fields.diagonals(self.branch_activation, inputs))
        return functions, _diagonals(self.trunk_activation, embed.points(points), self.trunk_depth, self.trunk_layers)

    def _mixed(self, everywhere: tuple[Array, Array], local: tuple[Array, Array]) -> tuple[Array, Array]:
        share = self.local_share
        return (
            (1 - share) * everywhere[0] + share * local[0],
            (1 - share) * everywhere[1] + share * local[1],
        )

    def cross_apply(
        self,
        inputs: Float[Array, "new sensors"],
        points: Float[Array, "new_points dimension"],
        train_inputs: Float[Array, "functions sensors"],
        train_points: Float[Array, "points dimension"],
        coefficients: Float[Array, "functions points"],
    ) -> Float[Array, "new new_points"]:
        """The kernel between new pairs and the training pairs, applied to coefficients."""
        parts = self.contract_functions(inputs, train_inputs, coefficients)
        return sum(
            part @ factor.T for part, factor in zip(parts, self.point_factors(points, train_points), strict=True)
        )

    def contract_functions(
        self,
        inputs: Float[Array, "new sensors"],
        train_inputs: Float[Array, "functions sensors"],
        coefficients: Float[Array, "functions points"],
    ) -> tuple[Float[Array, "new points"], Float[Array, "new points"]]:
        """A1(u, U) alpha and A2(u, U) alpha: `cross_apply` before its points, cheap where the new functions are few."""
        value, slope = self.function_factors(inputs, train_inputs)
        return value @ coefficients, slope @ coefficients

    def explained_variance(
        self,
        gram: GridKernel,
        inputs: Float[Array, "new sensors"],
        points: Float[Array, "new_points dimension"],
        train_inputs: Float[Array, "functions sensors"],
        train_points: Float[Array, "points dimension"],
    ) -> Float[Array, "new new_points"]:
        """k*^T Theta^{-1} k* for new functions and points, by the kernel of the training data."""
        return gram.explained_variance(self.between(inputs, points, train_inputs, train_points))

    def gram(self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"]) -> GridKernel:
        """The kernel of the training data, its factors symmetric and with the ridge on their diagonals."""
        terms = self.between(inputs, points, inputs, points)
        return GridKernel(tuple(Term(*(self._symmetric(matrix) for matrix in term)) for term in terms))  # type: ignore[arg-type]

    def _symmetric(self, matrix: Array) -> Array:
        symmetric = (matrix + matrix.T) / 2
        return symmetric + self.ridge * np.mean(np.diagonal(matrix)) * np.eye(len(matrix))
