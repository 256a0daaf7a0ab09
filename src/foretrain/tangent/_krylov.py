"""Krylov quantities of a kernel that is only ever applied: Lanczos bases, quadrature bounds, the largest eigenvalue."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import ForetrainError, Progress, ignore_progress

Apply = Callable[[np.ndarray], ArrayLike]
Integrand = Callable[[np.ndarray], ArrayLike]

EPSILON = float(np.finfo(np.float64).eps)
COLUMNS_AT_ONCE = 2**16
RANDOM_PART = 0.1


@dataclass(frozen=True)
class KrylovBasis:
    """Orthonormal basis of span(r, A r, ..., A^{n-1} r) in which the operator A is tridiagonal:

        A Q = Q T + off_diagonal[n-1] next_vector e_n^T,    Q e_1 = r / norm.

    T has `diagonal` [n] and the first n-1 entries of `off_diagonal` [n]; the last entry is the norm of what the basis
    leaves over. `vectors` [n, *shape] are the columns of Q. `exhausted` says that nothing is left over: the basis
    spans an invariant subspace and every quantity computed from it is exact.
    """

    vectors: Float[np.ndarray, "steps ..."]
    diagonal: Float[np.ndarray, " steps"]
    off_diagonal: Float[np.ndarray, " steps"]
    next_vector: Float[np.ndarray, "..."]
    norm: float
    exhausted: bool

    @property
    def steps(self) -> int:
        """Number of basis vectors, which is the number of times the operator was applied."""
        return self.diagonal.size


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights of a rule for the spectral measure of r / |r|: the weights sum to one."""

    nodes: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]

    def integrate(self, function: Integrand) -> Float[np.ndarray, "..."]:
        """sum_j weights_j function(nodes_j); a function that returns [k, nodes] gives [k]."""
        return np.asarray(np.asarray(function(self.nodes), dtype=np.float64) @ self.weights)


@dataclass(frozen=True)
class EigenPair:
    """An eigenvalue, its unit eigenvector [*shape], and |A v - value v|; some eigenvalue lies within that distance."""

    value: float
    vector: Float[np.ndarray, "..."]
    residual: float
    converged: bool
    steps: int


def lanczos(apply: Apply, start: ArrayLike, steps: int) -> KrylovBasis:
    """Tridiagonalises an operator on the Krylov space of `start` by Lanczos with full reorthogonalisation.

    `apply` maps an array of the shape of `start` to another, NumPy float64 in, anything array-like out; it is called
    once per step, outside any JAX trace. Holds steps + 1 arrays of that shape in float64. **The operator is real and
    symmetric.** Stops early, marked `exhausted`, when the Krylov space is invariant to rounding.

    Raises `ForetrainError` when `start` is zero or not finite, or when `apply` returns another shape or values that
    are not finite. Source: Lanczos (1950); reorthogonalised twice, Parlett (1998), section 6.9.
    """
    return extend(_empty_basis(start), apply, steps)


def _empty_basis(start: ArrayLike) -> KrylovBasis:
    first = np.asarray(start, dtype=np.float64)
    norm = float(np.linalg.norm(first))
    if not math.isfinite(norm) or norm == 0:
        raise ForetrainError(f"a Krylov space needs a finite start that is not zero, got one of norm {norm}")
    empty = np.empty(0)
    return KrylovBasis(np.empty((0, *first.shape)), empty, empty, first / norm, norm, False)


def extend(basis: KrylovBasis, apply: Apply, more_steps: int) -> KrylovBasis:
    """The basis with up to `more_steps` further vectors, the same to the bit as if it had been computed in one go.

    Both bases exist in memory until the shorter one is let go. Raises as `lanczos` does.
    """
    if more_steps < 1:
        raise ForetrainError(f"expected at least one Lanczos step, got {more_steps}")
    if basis.exhausted:
        return basis
    size, done = basis.next_vector.size, basis.steps
    vectors = np.empty((min(done + more_steps, size), size))
    vectors[:done] = basis.vectors.reshape(done, size)
    return _extended(basis, apply, vectors)


def _extended(basis: KrylovBasis, apply: Apply, vectors: np.ndarray) -> KrylovBasis:
    """Fills the rows of `vectors` [total, size], of which the first hold the basis already."""
    shape, done, total = basis.next_vector.shape, basis.steps, len(vectors)
    diagonal, off_diagonal = np.zeros(total), np.zeros(total)
    diagonal[:done], off_diagonal[:done] = basis.diagonal, basis.off_diagonal
    following, exhausted, step = basis.next_vector.ravel(), False, done
    while step < total and not exhausted:
        vectors[step] = following
        remainder, components = _orthogonalise(_applied(apply, following.reshape(shape)), vectors[: step + 1])
        diagonal[step] = components[-1]
        size = float(np.linalg.norm(remainder))
        step += 1
        scale = _scale(diagonal[:step], off_diagonal[:step])
        exhausted = step == remainder.size or size <= 10 * EPSILON * scale
        off_diagonal[step - 1] = 0.0 if exhausted else size
        following = np.zeros_like(remainder) if exhausted else remainder / size
    arrays = (vectors[:step].reshape(step, *shape), diagonal[:step], off_diagonal[:step], following.reshape(shape))
    for array in arrays:
        array.flags.writeable = False
    return KrylovBasis(*arrays, basis.norm, exhausted)


def _applied(apply: Apply, vector: np.ndarray) -> np.ndarray:
    image = np.asarray(apply(vector), dtype=np.float64)
    if image.shape != vector.shape:
        raise ForetrainError(f"expected the operator to return the shape {vector.shape}, got {image.shape}")
    if not np.all(np.isfinite(image)):
        raise ForetrainError("the operator returned values that are not finite: check the data and the kernel for them")
    return image.ravel()


def _orthogonalise(image: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of `image` orthogonal to the rows of `vectors`, and its components along them."""
    first = vectors @ image
    remainder = image - first @ vectors
    second = vectors @ remainder
    remainder -= second @ vectors
    return remainder, first + second


def _scale(diagonal: np.ndarray, off_diagonal: np.ndarray) -> float:
    """Largest row sum of T: at least its largest eigenvalue, at most three times the operator's."""
    before = np.concatenate([[0.0], off_diagonal[:-1]])
    return float(np.max(np.abs(diagonal) + np.abs(before) + np.abs(off_diagonal)))


def lanczos_until(
    apply: Apply,
    start: ArrayLike,
    gap: Callable[[KrylovBasis], float],
    tolerance: float,
    max_steps: int = 500,
    chunk: int = 10,
    progress: Progress = ignore_progress,
) -> KrylovBasis:
    """Extends a Krylov basis by `chunk` vectors at a time until `gap(basis) <= tolerance`.

    Stops without reaching the tolerance at `max_steps` vectors or when the basis is exhausted: evaluate the gap of
    the result to know. Raises as `lanczos` does.
    """
    basis = _empty_basis(start)
    room = _room(max_steps, basis.next_vector.size)
    while True:
        total = min(basis.steps + chunk, max_steps, basis.next_vector.size)
        basis = extend(basis, apply, total - basis.steps) if room is None else _extended(basis, apply, room[:total])
        width = float(gap(basis))
        progress("krylov", basis.steps, max_steps, {"gap": width})
        if width <= tolerance or basis.exhausted or basis.steps >= max_steps:
            return basis


def _room(rows: int, size: int) -> np.ndarray | None:
    """Address space for so many vectors, if there is so much: systems give memory for what is written only.

    So a basis grows where it is, and is never held twice.
    """
    try:
        return np.empty((min(rows, size), size))
    except MemoryError:
        return None


def gauss_rule(basis: KrylovBasis) -> Quadrature:
    """Gauss rule of the spectral measure of the start vector r of the basis.

        r^T f(A) r = |r|^2 sum_j weights_j f(nodes_j)      for every polynomial f of degree up to 2n - 1.

    **A is positive semi-definite**: nodes that rounding puts below zero are set to zero.
    Source: Golub and Meurant (2010), chapter 6.
    """
    nodes, weights = _eigenvalue_rule(basis.diagonal, basis.off_diagonal[:-1])
    return Quadrature(np.maximum(nodes, 0), weights)


def _eigenvalue_rule(diagonal: np.ndarray, off_diagonal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # QL iteration rather than the default: it keeps small eigenvector components accurate to machine precision.
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, lapack_driver="stev")
    return nodes, vectors[0] ** 2


def gauss_radau_rule(basis: KrylovBasis, node: float = 0.0) -> Quadrature:
    """Gauss-Radau rule with one prescribed node, exact for polynomials of degree up to 2n (n + 1 nodes).

    T is bordered by off_diagonal[n-1] and a diagonal entry chosen so that `node` is an eigenvalue. Of an exhausted
    basis it is the Gauss rule with a node of weight zero. **The node is at or below the least eigenvalue of A, and A
    is positive semi-definite**, so zero always serves.

    Raises `ForetrainError` when a positive node is above the least Ritz value. Source: Golub (1973).
    """
    gauss = gauss_rule(basis)
    if node > gauss.nodes[0] + 1e-10 * _scale(basis.diagonal, basis.off_diagonal):
        raise ForetrainError(
            f"the prescribed node must lie at or below the least eigenvalue, got {node:.6g} "
            f"above the Ritz value {gauss.nodes[0]:.6g}: use 0 for a positive semi-definite operator"
        )
    if basis.exhausted:
        return Quadrature(np.concatenate([[node], gauss.nodes]), np.concatenate([[0.0], gauss.weights]))
    corner = node + _bordering_shift(basis, node)
    nodes, weights = _eigenvalue_rule(np.append(basis.diagonal, corner), basis.off_diagonal)
    return Quadrature(np.concatenate([[node], np.maximum(nodes[1:], node)]), weights)


def _bordering_shift(basis: KrylovBasis, node: float) -> float:
    """off_diagonal[n-1]^2 [(T - node)^{-1}]_nn by the pivots of T - node.

    Exact pivots are positive, and each off_diagonal^2 / pivot is at most the largest eigenvalue, as A - node is
    positive semi-definite. Where rounding leaves a smaller pivot than its own size, that size takes its place: a
    backward-stable change of T, and one that can only move the node down, where the upper bound stays one.
    """
    floor = 10 * EPSILON * _scale(basis.diagonal, basis.off_diagonal)
    shift = 0.0
    for entry, off_diagonal in zip(basis.diagonal - node, basis.off_diagonal, strict=True):
        shift = off_diagonal**2 / max(entry - shift, floor)
    return shift


def integrate_bounds(
    basis: KrylovBasis, function: Integrand, lower_node: float = 0.0
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Lower and upper bound of r^T f(A) r, r the start vector of the basis, by the Gauss and Gauss-Radau rules.

    `function` maps nodes [nodes] to [nodes], or to [k, nodes] for k integrals at once. **f is completely monotone**
    (derivatives of alternating sign: exp(-t x), 1 / (x + s), (1 - h x)^{2k} for h at most 1 / the largest eigenvalue)
    **between `lower_node` and the largest eigenvalue, and `lower_node` is at or below the least one**; both bounds hold
    up to rounding. They meet as the basis grows and coincide once it is exhausted.
    Source: Golub and Meurant (2010), theorems 6.4 and 6.6.
    """
    squared = basis.norm**2
    lower = squared * gauss_rule(basis).integrate(function)
    if basis.exhausted:
        return lower, lower
    upper = squared * gauss_radau_rule(basis, lower_node).integrate(function)
    return lower, upper


def largest_eigenvalue(
    apply: Apply,
    shape: tuple[int, ...],
    key: PRNGKeyArray | Array,
    tolerance: float = 1e-6,
    steps: int = 300,
    basis: int = 40,
    start: ArrayLike | None = None,
) -> EigenPair:
    """Largest eigenvalue of a symmetric operator on arrays of `shape`, by thick-restart Lanczos.

    Holds `basis` vectors in float64, however many steps are taken: when they are full, the upper half of the Ritz
    vectors stays and the Krylov space grows on from them. Stops when |A v - value v| <= tolerance |value|, or after
    `steps` applications with `converged` false. The value is a lower bound of the largest eigenvalue, and its error is
    of the order of the residual squared over the gap to the next one.

    Starts from a random array, or from `start`, a guess of the eigenvector, with a tenth of a random one added. **The
    random part is not orthogonal to the eigenvector**, which holds with probability one, and **the guess is not another
    eigenvector whose eigenvalue is within a thousandth of the largest**: Lanczos may then stop at that one.
    The smallest eigenvalue is one over the largest of the inverse.

    Raises `ForetrainError` when `basis` is below 3, and as `lanczos` does. Source: Wu and Simon (2000).
    """
    if basis < 3:
        raise ForetrainError(f"expected room for at least 3 Lanczos vectors, got basis={basis}")
    following = _mixed_start(shape, key, start)
    room = min(basis, following.size)
    vectors, projected = np.empty((room, following.size)), np.zeros((room, room))
    filled = taken = 0
    while True:
        if filled == room:
            filled = _compress(vectors, projected)
        vectors[filled] = following
        remainder, components = _orthogonalise(_applied(apply, following.reshape(shape)), vectors[: filled + 1])
        projected[filled, : filled + 1] = projected[: filled + 1, filled] = components
        filled, taken = filled + 1, taken + 1
        values, ritz = np.linalg.eigh(projected[:filled, :filled])
        norm = float(np.linalg.norm(remainder))
        exhausted = filled == following.size or norm <= 10 * EPSILON * float(np.max(np.abs(values)))
        value, residual = float(values[-1]), 0.0 if exhausted else norm * abs(float(ritz[-1, -1]))
        converged = residual <= tolerance * abs(value)
        if converged or exhausted or taken >= steps:
            break
        following = remainder / norm
    return EigenPair(value, (ritz[:, -1] @ vectors[:filled]).reshape(shape), residual, converged, taken)


def _mixed_start(shape: tuple[int, ...], key: PRNGKeyArray | Array, start: ArrayLike | None) -> np.ndarray:
    drawn = np.asarray(jax.random.normal(key, shape), dtype=np.float64).ravel()
    drawn = drawn / np.linalg.norm(drawn)
    if start is None:
        return drawn
    guess = np.asarray(start, dtype=np.float64)
    norm = float(np.linalg.norm(guess))
    if guess.shape != shape or not math.isfinite(norm) or norm == 0:
        raise ForetrainError(f"expected a finite start of shape {shape} that is not zero, got one of {guess.shape}")
    mixed = guess.ravel() / norm + RANDOM_PART * drawn
    return mixed / np.linalg.norm(mixed)


def _compress(vectors: np.ndarray, projected: np.ndarray) -> int:
    """Replaces the basis by its upper Ritz vectors, in place, and returns how many."""
    values, ritz = np.linalg.eigh(projected)
    kept = len(values) // 2
    upper = ritz[:, -kept:].T
    for first in range(0, vectors.shape[1], COLUMNS_AT_ONCE):
        columns = slice(first, first + COLUMNS_AT_ONCE)
        vectors[:kept, columns] = upper @ vectors[:, columns]
    projected[:] = 0
    projected[range(kept), range(kept)] = values[-kept:]
    return kept
