"""The two-term grid kernel: a tangent kernel with functions x points rows at the price of functions and points."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import double_precision
from foretrain.tangent._factor import cholesky
from foretrain.tangent._krylov import EigenPair, largest_eigenvalue

Array = np.ndarray


class Term(NamedTuple):
    """One Kronecker product: functions (x) points."""

    functions: Float[Array, "functions functions"]
    points: Float[Array, "points points"]


class Solution(NamedTuple):
    """The solution of a kernel system and how well it holds.

    Attributes:
        value: alpha with Theta alpha = R.
        relative_residual: |Theta alpha - R| / |R|, with the kernel as it was before any jitter.
        jitter: what had to be added to the diagonals of the two factors to make them positive definite.
    """

    value: Float[Array, "functions points"]
    relative_residual: float
    jitter: tuple[float, float]


class _Diagonalisation(NamedTuple):
    functions: jax.Array  # V with V^T A1 V = I, V^T A2 V = diag(function_values)
    points: jax.Array  # W with W^T B2 W = diag(point_values), W^T B1 W = I
    function_values: jax.Array
    point_values: jax.Array
    log_determinants: tuple[float, float]
    jitter: tuple[float, float]


@dataclass(frozen=True)
class GridKernel:
    """Theta = A1 (x) B1 + A2 (x) B2 on residuals R [functions, points], Theta vec(R) = A1 R B1 + A2 R B2.

    The tangent kernel of a wide shallow operator on aligned data has exactly this form, whatever the step sizes of its
    weight groups. No array with (functions x points)^2 entries is ever made: apply costs O(n1^2 n2 + n1 n2^2), all else
    O(n1^3 + n2^3) once, in double precision.

    **Assumption:** the four matrices are symmetric positive semi-definite, A1 and B1 definite.

    Attributes:
        terms: the two Kronecker products ((A1, B1), (A2, B2)).

    Source: Xu, Li, Huang, arXiv 2412.05545, for the kernel; Golub, Van Loan, section 8.7, for the pencil.
    """

    terms: tuple[Term, Term]

    @property
    def shape(self) -> tuple[int, int]:
        """(functions, points)."""
        return len(self.terms[0].functions), len(self.terms[0].points)

    @property
    @double_precision
    def jitter(self) -> tuple[float, float]:
        """What `solve`, `logdet`, `eigenvalue_min` and `explained_variance` add to the diagonals of A1 and of B1."""
        return self._diagonalisation.jitter

    @double_precision
    def apply(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Theta applied to a residual."""
        return np.asarray(_apply(self._arrays, jnp.asarray(residual, jnp.float64)))

    def solve(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """alpha with Theta alpha = residual; `solve_with_report` also says how well it holds."""
        return self.solve_with_report(residual).value

    @double_precision
    def solve_with_report(self, residual: Float[Array, "functions points"]) -> Solution:
        """Solves Theta alpha = R exactly, through the pencils (A2, A1) and (B2, B1).

        Theta^{-1} R = V [ (V^T R W) / (1 + mu_i l_j) ] W^T
        """
        right = jnp.asarray(residual, jnp.float64)
        parts = self._diagonalisation
        value = _solve(parts, right)
        mismatch = jnp.linalg.norm(_apply(self._arrays, value) - right) / (jnp.linalg.norm(right) or 1.0)
        return Solution(np.asarray(value), float(mismatch), parts.jitter)

    @double_precision
    def logdet(self) -> float:
        """log det Theta = n2 log det A1 + n1 log det B1 + sum_ij log(1 + mu_i l_j)."""
        parts = self._diagonalisation
        functions, points = self.shape
        mixed = jnp.sum(jnp.log1p(jnp.outer(parts.function_values, parts.point_values)))
        return float(points * parts.log_determinants[0] + functions * parts.log_determinants[1] + mixed)

    def eigenvalue_max(self, tolerance: float = 1e-8) -> float:
        """The largest eigenvalue, by Lanczos, to a relative residual of `tolerance`."""
        return self.eigenpair_max(tolerance).value

    def eigenvalue_min(self, tolerance: float = 1e-8) -> float:
        """The smallest eigenvalue, by Lanczos on the exact inverse."""
        return self.eigenpair_min(tolerance).value

    def eigenpair_max(self, tolerance: float = 1e-8) -> EigenPair:
        """The largest eigenvalue with its eigenvector [functions, points] and residual |Theta v - l v|."""
        return largest_eigenvalue(self.apply, self.shape, jax.random.key(0), tolerance=tolerance)

    def eigenpair_min(self, tolerance: float = 1e-8) -> EigenPair:
        """The smallest eigenvalue with its eigenvector and residual |Theta v - l v|."""
        inverse = largest_eigenvalue(self.solve, self.shape, jax.random.key(0), tolerance=tolerance)
        value = 1.0 / inverse.value
        residual = float(np.linalg.norm(self.apply(inverse.vector) - value * inverse.vector))
        return EigenPair(value, inverse.vector, residual, inverse.converged, inverse.steps)

    @double_precision
    def term_eigenvalues_min(self) -> tuple[float, float]:
        """Least eigenvalue of either term, lmin(A) lmin(B): what the convergence theorem calls l0 and l~0.

        Their sum is a lower bound of Theta's least eigenvalue. Values below rounding are given as 0.
        """
        lowest = []
        for term in self.terms:
            product = 1.0
            for matrix in term:
                values = jnp.linalg.eigvalsh(jnp.asarray(matrix))
                rounding = float(values[-1]) * len(values) * np.finfo(np.float64).eps
                product *= float(values[0]) if float(values[0]) > rounding else 0.0
            lowest.append(product)
        return lowest[0], lowest[1]

    @double_precision
    def explained_variance(self, cross: tuple[Term, Term]) -> Float[Array, "new_functions new_points"]:
        """k*^T Theta^{-1} k* for new functions and points, k* given by its two Kronecker products.

        In the diagonalising basis k* is a (x) b + c (x) d, so the quadratic form is three small matrix products.
        """
        parts = self._diagonalisation
        (a, b), (c, d) = (
            (jnp.asarray(term.functions) @ parts.functions, jnp.asarray(term.points) @ parts.points) for term in cross
        )
        weight = 1 / (1 + jnp.outer(parts.function_values, parts.point_values))
        quadratic = (a**2) @ weight @ (b**2).T + 2 * (a * c) @ weight @ (b * d).T + (c**2) @ weight @ (d**2).T
        return np.asarray(quadratic)

    @functools.cached_property
    def _arrays(self) -> tuple[jax.Array, ...]:
        with jax.enable_x64(True):
            return tuple(jnp.asarray(matrix, jnp.float64) for term in self.terms for matrix in term)

    @functools.cached_property
    def _diagonalisation(self) -> _Diagonalisation:
        first_functions, first_points, second_functions, second_points = self._arrays
        functions, function_values, function_logdet, function_jitter = _pencil(second_functions, first_functions, "A1")
        points, point_values, point_logdet, point_jitter = _pencil(second_points, first_points, "B1")
        return _Diagonalisation(
            functions,
            points,
            function_values,
            point_values,
            (function_logdet, point_logdet),
            (function_jitter, point_jitter),
        )


@jax.jit
def _apply(arrays: tuple[jax.Array, ...], residual: jax.Array) -> jax.Array:
    first_functions, first_points, second_functions, second_points = arrays
    return first_functions @ (residual @ first_points) + second_functions @ (residual @ second_points)


@jax.jit
def _solve(parts: _Diagonalisation, residual: jax.Array) -> jax.Array:
    mixed = parts.functions.T @ residual @ parts.points
    mixed = mixed / (1 + jnp.outer(parts.function_values, parts.point_values))
    return parts.functions @ mixed @ parts.points.T


def _pencil(matrix: jax.Array, metric: jax.Array, name: str) -> tuple[jax.Array, jax.Array, float, float]:
    """V and mu with V^T metric V = I and V^T matrix V = diag(mu); also log det metric and the jitter it needed."""
    factor = cholesky(metric, name)
    values, vectors = _reduce(matrix, factor.lower)
    logdet = 2 * float(jnp.sum(jnp.log(jnp.diagonal(factor.lower))))
    return vectors, values, logdet, factor.jitter


@jax.jit
def _reduce(matrix: jax.Array, lower: jax.Array) -> tuple[jax.Array, jax.Array]:
    half = jax.scipy.linalg.solve_triangular(lower, matrix, lower=True)
    reduced = jax.scipy.linalg.solve_triangular(lower, half.T, lower=True)
    values, vectors = jnp.linalg.eigh((reduced + reduced.T) / 2)
    # Negative rounding would make 1 + mu l vanish for some pair.
    return jnp.maximum(values, 0), jax.scipy.linalg.solve_triangular(lower, vectors, lower=True, trans=1)
