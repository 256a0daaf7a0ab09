"""Cholesky factors of kernel matrices, with a stated rule for what rounding has made indefinite."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from foretrain._foundation import ForetrainError

RELATIVE_JITTERS = (0.0, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8)


class CholeskyFactor(NamedTuple):
    """A lower triangular L with L L* = A + jitter I."""

    lower: Float[Array, "*batch n n"]
    jitter: float


@jax.jit
def _try(matrix: Array, jitter: Array) -> tuple[Array, Array]:
    size = matrix.shape[-1]
    shifted = matrix + jitter * jnp.eye(size, dtype=matrix.dtype)
    lower = jnp.linalg.cholesky(shifted, symmetrize_input=False)
    # The rounding of a singular matrix's pivots is as often positive as negative, and then no factor fails.
    rounding = jnp.sqrt(size) * jnp.finfo(lower.dtype).eps * jnp.mean(_diagonal(shifted), axis=-1, keepdims=True)
    return lower, jnp.all(_diagonal(lower) ** 2 > rounding)


def _diagonal(matrix: Array) -> Array:
    return jnp.real(jnp.diagonal(matrix, axis1=-2, axis2=-1))


def cholesky(matrix: Float[Array, "*batch n n"], name: str) -> CholeskyFactor:
    """The Cholesky factor after adding the least multiple of the identity that makes one exist.

    A factor counts if its squared pivots exceed sqrt(n) times the rounding of the diagonal; the multiples tried are 0,
    1e-15, 1e-14, ..., 1e-8 times the mean diagonal entry. The one that was needed is part of the result, and callers
    report it.

    Raises:
        ForetrainError: if even the last is not enough, as for no semi-definite matrix in double precision.
    """
    size = float(jnp.mean(_diagonal(matrix)))
    for relative in RELATIVE_JITTERS:
        lower, resolved = _try(matrix, jnp.asarray(relative * size))
        if bool(resolved):
            return CholeskyFactor(lower, relative * size)
    raise ForetrainError(
        f"{name}: expected a positive semi-definite kernel matrix, came one that is not even after adding "
        f"{RELATIVE_JITTERS[-1]:g} of its diagonal; look for repeated or parallel functions or points"
    )
