"""Double precision, where kernels are factorised, without touching the process-wide setting."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")


def double_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Runs `function` with 64-bit JAX types; the caller's setting is restored when it returns.

    Arrays that leave the scope should be handed out as NumPy arrays: JAX operations outside the scope would
    quietly round a 64-bit JAX array to 32 bits.
    """

    @functools.wraps(function)
    def scoped(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return scoped
