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
def _try(matrix: Array, jitter: Array) -> Array:
    shifted = matrix + jitter * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return jnp.linalg.cholesky(shifted, symmetrize_input=False)


def cholesky(matrix: Float[Array, "*batch n n"], name: str) -> CholeskyFactor:
    """The Cholesky factor after adding the least multiple of the identity that makes one exist.

    The multiples tried are 0, 1e-15, 1e-14, ..., 1e-8 times the mean diagonal entry. The one that was needed is part of
    the result, and callers report it.

    Raises:
        ForetrainError: if even the last is not enough, as for no semi-definite matrix in double precision.
    """
    size = float(jnp.mean(jnp.real(jnp.diagonal(matrix, axis1=-2, axis2=-1))))
    for relative in RELATIVE_JITTERS:
        lower = _try(matrix, jnp.asarray(relative * size))
        if bool(jnp.all(jnp.isfinite(lower))):
            return CholeskyFactor(lower, relative * size)
    raise ForetrainError(
        f"{name}: expected a positive semi-definite kernel matrix, came one that is not even after adding "
        f"{RELATIVE_JITTERS[-1]:g} of its diagonal; look for repeated or parallel functions or points"
    )
