"""The mean of minibatch descent, which is full-batch descent, from the Krylov space of the initial residual."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from foretrain._foundation import Progress
from foretrain.forecast._methods import Method
from foretrain.forecast._spectral import loss_bounds
from foretrain.tangent import KrylovBasis, lanczos_until

Array = np.ndarray
Apply = Callable[[Array], Array]
TINY = 1e-300


@dataclass(frozen=True)
class MeanDynamics:
    """E r_k = (1 - h Theta)^k r_0 for any number of steps.

    Attributes:
        basis: Krylov space of r_0.
        method: with its step size.
        rows: numbers in the residual.
    """

    basis: KrylovBasis
    method: Method
    rows: int

    @property
    def step_size(self) -> float:
        """h."""
        return self.method.step_size or 0.0

    @property
    def fastest_mode_steps(self) -> float:
        """Steps in which the mode of the largest eigenvalue is learnt, 1 / (h l)."""
        return 1 / (self.step_size * float(self.eigenpairs[0][-1]))

    @functools.cached_property
    def eigenpairs(self) -> tuple[Float[Array, " krylov"], Float[Array, "krylov krylov"]]:
        """Ritz values, and Ritz vectors by their coefficients on the Krylov vectors."""
        return ritz_pairs(self.basis)

    def bounds(self, steps: Float[Array, " steps"]) -> tuple[Array, Array]:
        """Lower and upper bound of |E r_k|^2 / rows."""
        return loss_bounds(self.basis, self.method, steps, self.rows)

    def loss(self, steps: Float[Array, " steps"]) -> Float[Array, " steps"]:
        """|E r_k|^2 / rows, halfway between its bounds on a logarithmic scale."""
        lower, upper = self.bounds(steps)
        return np.sqrt(lower) * np.sqrt(upper)

    def coefficients(self, steps: Float[Array, " steps"]) -> Float[Array, "steps krylov"]:
        """E r_k on the Ritz vectors."""
        values, vectors = self.eigenpairs
        return self.method.residual_factor(values, steps) * self.basis.norm * vectors[0]

    def residual(self, steps: Float[Array, " steps"], power: int = 0) -> Float[Array, "steps functions points"]:
        """Theta^power E r_k for each step."""
        values, vectors = self.eigenpairs
        return combined((self.coefficients(steps) * values**power) @ vectors.T, self.basis)


def mean_dynamics(
    apply: Apply,
    residual: Float[Array, "functions points"],
    method: Method,
    steps: int,
    tolerance: float,
    max_krylov: int,
    progress: Progress,
) -> MeanDynamics:
    """Extends the Krylov space of the residual until it resolves the mean loss at the last step."""
    marks = np.array([steps / 10, steps / 3, steps], float).round()

    @np.errstate(over="ignore", invalid="ignore")
    def gap(basis: KrylovBasis) -> float:
        lower, upper = loss_bounds(basis, method, marks, residual.size)
        return float(np.nan_to_num(np.max((upper - lower) / np.maximum(lower, TINY)), nan=0.0))

    basis = lanczos_until(apply, residual, gap, tolerance, max_krylov, progress=progress)
    return MeanDynamics(basis, method, residual.size)


def ritz_pairs(basis: KrylovBasis) -> tuple[Float[Array, " krylov"], Float[Array, "krylov krylov"]]:
    """Eigenvalues of the Lanczos matrix, not below 0, and its eigenvectors."""
    values, vectors = scipy.linalg.eigh_tridiagonal(basis.diagonal, basis.off_diagonal[:-1], lapack_driver="stev")
    return np.maximum(values, 0), vectors


def combined(coefficients: Float[Array, "some krylov"], basis: KrylovBasis) -> Float[Array, "some functions points"]:
    """Sums of the Krylov vectors."""
    return np.tensordot(coefficients, basis.vectors, 1)
