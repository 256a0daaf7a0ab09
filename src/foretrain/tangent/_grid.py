"""The two-term grid kernel: a tangent kernel with functions x points rows at the price of functions and points."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike, Float

from foretrain._foundation import device_count, double_precision, everywhere, gather, padded, shared, spread
from foretrain.tangent._factor import cholesky
from foretrain.tangent._krylov import EigenPair, largest_eigenvalue

Array = np.ndarray
PRODUCT_GUESS = 16
INVERSE_ITERATIONS = 2


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


class _Basis(NamedTuple):
    functions: jax.Array
    points: jax.Array
    function_values: jax.Array
    point_values: jax.Array


class _Diagonalisation(NamedTuple):
    functions: jax.Array  # V with V^T A1 V = I, V^T A2 V = diag(function_values)
    points: jax.Array  # W with W^T B2 W = diag(point_values), W^T B1 W = I
    function_values: jax.Array
    point_values: jax.Array
    log_determinants: tuple[float, float]
    jitter: tuple[float, float]

    @property
    def basis(self) -> _Basis:
        return _Basis(*self[:4])


@dataclass(frozen=True)
class GridKernel:
    """Theta = A1 (x) B1 + A2 (x) B2 on residuals R [functions, points], Theta vec(R) = A1 R B1 + A2 R B2.

    The tangent kernel of a wide shallow operator on aligned data has exactly this form, whatever the step sizes of its
    weight groups. No array with (functions x points)^2 entries is ever made: apply costs O(n1^2 n2 + n1 n2^2), all else
    O(n1^3 + n2^3) once, in double precision. On several devices each holds and multiplies an equal share of the rows of
    A1, A2 and of the eigenvectors; the decompositions themselves, of one matrix each, are done by one device.

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
        """What `solve`, `logdet`, `eigenpair_min` and `explained_variance` add to the diagonals of A1 and of B1."""
        return self._diagonalisation.jitter

    @property
    def mean_diagonal(self) -> float:
        """Of A1, what a jitter is relative to."""
        return float(np.mean(np.diagonal(np.asarray(self.terms[0].functions))))

    def with_jitter(self, relative: float) -> "GridKernel":
        """The kernel with so much of its mean diagonal added to the diagonal of A1."""
        (functions, points), second = self.terms
        firm = np.asarray(functions, np.float64) + relative * self.mean_diagonal * np.eye(len(functions))
        return GridKernel((Term(firm, points), second))

    @double_precision
    def apply(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Theta applied to a residual."""
        return gather(_apply(self._arrays, _spread_rows(residual)))[: len(residual)]

    def solve(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """alpha with Theta alpha = residual; `solve_with_report` also says how well it holds."""
        return self.solve_with_report(residual).value

    @double_precision
    def solve_with_report(self, residual: Float[Array, "functions points"]) -> Solution:
        """Solves Theta alpha = R exactly, through the pencils (A2, A1) and (B2, B1).

        Theta^{-1} R = V [ (V^T R W) / (1 + mu_i l_j) ] W^T
        """
        right = _spread_rows(residual)
        value = _solve(self._basis, right)
        mismatch = jnp.linalg.norm(_apply(self._arrays, value) - right) / (jnp.linalg.norm(right) or 1.0)
        return Solution(gather(value)[: len(residual)], float(mismatch), self._diagonalisation.jitter)

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
        """The smallest eigenvalue, by Lanczos on the exact inverse; `eigenpair_min` also says how well it holds."""
        return self.eigenpair_min(tolerance).value

    def eigenpair_max(self, tolerance: float = 1e-8) -> EigenPair:
        """The largest eigenvalue with its eigenvector [functions, points] and residual |Theta v - l v|.

        Lanczos from the largest Ritz vector of a product space, see `eigenpair_min`.
        """
        start = _product_guess(self.terms, largest=True)
        return largest_eigenvalue(self.apply, self.shape, jax.random.key(0), tolerance, start=start)

    @double_precision
    def eigenpair_min(self, tolerance: float = 1e-8, steps: int = 1000) -> EigenPair:
        """The smallest eigenvalue with its eigenvector [functions, points] and residual |Theta v - l v|.

        Lanczos on the exact inverse, from the least Ritz vector of products of the factors' lowest eigenvectors with a
        tenth of a random one, to half the `tolerance` as relative residual of the inverse. Then twice

            v <- v - Theta^{-1} (Theta v - l v),    l = v^T Theta v,    |v| = 1,

        inverse iteration with the solve's rounding corrected: it brings the relative residual of Theta itself, which
        may be larger by the condition number, down to that of the inverse. `converged` says that |Theta v - l v| is at
        most tolerance l. **Rounding sets a floor** to the residual, about 4e-8 l at condition 5e11, while l, quadratic
        in it, holds to many more digits. Value and residual are those of the kernel before any jitter: some eigenvalue
        lies within the residual of l, none below the sum of `term_eigenvalues_min`, and for a kernel singular to
        rounding l may have either sign. Holds about 50 arrays of the residual's shape.
        """
        start = _product_guess(self.terms, largest=False)
        inverse = largest_eigenvalue(self._inverse, self.shape, jax.random.key(0), tolerance / 2, steps, start=start)
        vector = inverse.vector
        for _ in range(INVERSE_ITERATIONS):
            image = self.apply(vector)
            vector = vector - self._inverse(image - np.sum(vector * image) * vector)
            vector /= np.linalg.norm(vector)
        image = self.apply(vector)
        value = float(np.sum(vector * image))
        residual = float(np.linalg.norm(image - value * vector))
        return EigenPair(value, vector, residual, residual <= tolerance * value, inverse.steps)

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
    def explained_variance(self, cross: tuple[Term, ...]) -> Float[Array, "new_functions new_points"]:
        """k*^T Theta^{-1} k* for new functions and points, k* given as a sum of Kronecker products.

        In the diagonalising basis k* is a sum of products a_t (x) b_t, so the quadratic form is
        sum_st (a_s a_t) [1 / (1 + mu_i l_j)] (b_s b_t)^T.
        """
        basis = everywhere(self._diagonalisation.basis)
        factors = [
            (_spread_rows(term.functions) @ basis.functions, jnp.asarray(everywhere(term.points)) @ basis.points)
            for term in cross
        ]
        weight = 1 / (1 + jnp.outer(basis.function_values, basis.point_values))
        quadratic = sum(((a * c) @ weight @ (b * d).T for a, b in factors for c, d in factors), jnp.zeros(()))
        return gather(quadratic)[: len(cross[0].functions)]

    def _inverse(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        return gather(_solve(self._basis, _spread_rows(residual)))[: len(residual)]

    @functools.cached_property
    def _arrays(self) -> tuple[jax.Array, ...]:
        """A1, B1, A2, B2 where they are applied, the rows of A1 and A2 shared among the devices."""
        arrays: list[jax.Array] = []
        for term in self.terms:
            functions, points = (np.asarray(matrix, np.float64) for matrix in term)
            arrays += [spread(padded(functions, 0, 1)), jnp.asarray(everywhere(points))]
        return tuple(arrays)

    @functools.cached_property
    def _basis(self) -> _Basis:
        """The diagonalising basis where it is applied, the rows of V shared among the devices."""
        functions, *others = self._diagonalisation.basis
        return _Basis(_spread_rows(functions), *everywhere(others))

    @functools.cached_property
    def _diagonalisation(self) -> _Diagonalisation:
        matrices: Sequence[jax.Array] = self._arrays
        if device_count() > 1:
            matrices = [jnp.asarray(matrix, jnp.float64) for term in self.terms for matrix in term]
        first_functions, first_points, second_functions, second_points = matrices
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
def _solve(basis: _Basis, residual: jax.Array) -> jax.Array:
    mixed = shared(basis.functions.T @ residual) @ basis.points
    mixed = mixed / (1 + jnp.outer(basis.function_values, basis.point_values))
    return basis.functions @ mixed @ basis.points.T


def _spread_rows(matrix: ArrayLike) -> jax.Array:
    return spread(padded(matrix if isinstance(matrix, jax.Array) else np.asarray(matrix, np.float64), 0))


def _product_guess(terms: tuple[Term, Term], *, largest: bool) -> Array:
    """The extreme Ritz vector of Theta among products of the factors' extreme eigenvectors [functions, points].

    The factors' eigenvectors are those that the leading term's own extreme pair sees: with y fixed, Theta acts on
    functions as (y^T B1 y) A1 + (y^T B2 y) A2, and likewise on points.
    """
    first, second = terms
    leading = max(
        terms, key=lambda term: _extreme(term.functions, 1, largest)[0] * _extreme(term.points, 1, largest)[0]
    )
    function, point = (_extreme(matrix, 1, largest)[1][:, 0] for matrix in leading)
    seen = (
        (point @ first.points @ point) * first.functions + (point @ second.points @ point) * second.functions,
        (function @ first.functions @ function) * first.points
        + (function @ second.functions @ function) * second.points,
    )
    functions, points = (_extreme(matrix, PRODUCT_GUESS, largest)[1] for matrix in seen)
    small = [(functions.T @ term.functions @ functions, points.T @ term.points @ points) for term in terms]
    _, coefficients = _extreme(np.kron(*small[0]) + np.kron(*small[1]), 1, largest)
    return functions @ coefficients.reshape(functions.shape[1], points.shape[1]) @ points.T


def _extreme(matrix: Array, count: int, largest: bool) -> tuple[Array, Array]:
    """The `count` largest or smallest eigenvalues, with their eigenvectors in columns."""
    size = len(matrix)
    count = min(count, size)
    wanted = (size - count, size - 1) if largest else (0, count - 1)
    return scipy.linalg.eigh(np.asarray(matrix, np.float64), subset_by_index=wanted)


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
