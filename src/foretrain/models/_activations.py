"""Activations a network can name."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from foretrain._foundation import ForetrainError

ActivationFunction = Callable[[Array], Array]


def _relu_squared(x: Array) -> Array:
    return jax.nn.relu(x) ** 2


def _relu_cubed(x: Array) -> Array:
    return jax.nn.relu(x) ** 3


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _identity(x: Array) -> Array:
    return x


def _fourier_feature(x: Array) -> Array:
    return math.sqrt(2) * jnp.cos(x)


ACTIVATION_FUNCTIONS: dict[str, ActivationFunction] = {
    "relu": jax.nn.relu,
    "relu2": _relu_squared,
    "relu3": _relu_cubed,
    "erf": jax.scipy.special.erf,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "gelu": _gelu,
    "linear": _identity,
    "cosine": _fourier_feature,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
}


def activation_function(name: str) -> ActivationFunction:
    """The elementwise function of that name.

    Raises:
        ForetrainError: for an unknown name, listing the known ones.
    """
    if name not in ACTIVATION_FUNCTIONS:
        raise ForetrainError(f"unknown activation {name!r}: expected one of {', '.join(ACTIVATION_FUNCTIONS)}")
    return ACTIVATION_FUNCTIONS[name]
