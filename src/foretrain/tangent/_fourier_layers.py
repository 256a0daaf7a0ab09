"""The kernel of Fourier layers at all shifts of the periodic grid at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from foretrain.tangent._activations import Activation

Array = jax.Array | np.ndarray


class Deeper(NamedTuple):
    """A layer above the first, as a pair of functions sees it.

    Attributes:
        prior: variances of its filters' Fourier coefficients, over the half spectrum.
        left, right: C(0) of each function with itself in this layer, broadcasting against the shifts.
    """

    prior: Array
    left: Array
    right: Array


def stationary_kernel(
    sigma: Activation,
    train_filters: bool,
    covariance: jax.Array,
    left: jax.Array,
    right: jax.Array,
    biases: jax.Array | float,
    deeper: tuple[Deeper, ...] = (),
) -> jax.Array:
    """kappa of a stack of Fourier layers and a pointwise readout, from C_1 at all shifts (the last axes).

        h_{l+1}(y) = m^{-1/2} sum_r (w_r * sigma(h_l^r))(y) + b b_r,      w_rk ~ N(0, rho_k)
        C_{l+1} = rho * K_l + b^2,       K_l = E[sigma sigma](C_l),       D_1 = C_1 E[sigma' sigma'](C_1),
        D_{l+1} = (C_{l+1} + rho * D_l) E[sigma' sigma'](C_{l+1}),        (rho * f)^_k = rho_k f^_k

    The readout trains K, all filters and biases D; the result is K, or K + D with `train_filters`. A stack of layers
    commutes with translations as one layer does, so that kappa stays a function of the shift alone.

    Arguments:
        left, right: C_1(0) of each function with itself.
        biases: b^2, or its covariance at all shifts if biases vary with the place.
        deeper: the layers above the first.
    """
    if not train_filters:
        kernel = sigma.dual(left, right, covariance)
        for layer in deeper:
            kernel = sigma.dual(layer.left, layer.right, convolve(layer.prior, kernel) + biases)
        return kernel
    dual, derivative = sigma.duals(left, right, covariance)
    slope = covariance * derivative
    for layer in deeper:
        covariance = convolve(layer.prior, dual) + biases
        dual, derivative = sigma.duals(layer.left, layer.right, covariance)
        slope = (covariance + convolve(layer.prior, slope)) * derivative
    return dual + slope


def convolve(prior: Array, values: jax.Array) -> jax.Array:
    """rho * f: the transform over the last axes, as many as the prior has, multiplied by the prior."""
    axes = tuple(range(values.ndim - prior.ndim, values.ndim))
    return jnp.fft.irfftn(prior * jnp.fft.rfftn(values, axes=axes), s=values.shape[axes[0] :], axes=axes)
