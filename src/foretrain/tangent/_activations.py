"""Activations and their dual kernels: what a wide layer computes, averaged over its random weights."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import ForetrainError, double_precision
from foretrain.models import ACTIVATION_FUNCTIONS

Rule = Callable[[Array, Array, Array], tuple[Array, Array | None]]

HERMITE_ORDER = 96


@dataclass(frozen=True)
class Activation:
    """An elementwise function together with its two dual kernels.

    For a neuron `function(scale * (z . x) + phase)` with z ~ N(0, I) the duals depend on the inputs only through
    v = x.x, w = x'.x' and c = x.x':

        dual(v, w, c)            = E[sigma(s) sigma(t)],
        derivative_dual(v, w, c) = d dual / d c = E[scale^2 sigma'(s) sigma'(t)],

    so that `c * derivative_dual` is the kernel of training z. `scale` is 1 and `phase` 0 except for the random Fourier
    features: "cosine" draws the phase uniformly (`random_phase`), and the Matern activations draw one scale per neuron
    as well, which makes scale * z a multivariate Student-t with `degrees_of_freedom`. **The scale is frozen in
    training**; were scale * z trained as one weight, its kernel would be `c * dual` instead.

    Duals broadcast, keep the dtype of their arguments, and have finite gradients everywhere. An angle or distance
    that the dtype cannot tell from zero is taken as zero, so rounding in c does not reach kernels with a kink there.

    Sources: Cho and Saul (2009), Williams (1998), Rahimi and Recht (2007); the duals of GELU follow from Stein's lemma.
    """

    name: str
    function: Callable[[Array], Array]
    rule: Rule
    random_phase: bool = False
    degrees_of_freedom: int | None = None

    def duals(self, v: ArrayLike, w: ArrayLike, c: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Both duals at once, for little more than the price of one.

        Raises `ForetrainError` where the derivative dual is not finite ("matern12").
        """
        dual, derivative = _both(self.rule, *_floating(v, w, c))
        if derivative is None:
            raise ForetrainError(
                f"the activation {self.name!r} has no finite kernel of its inner weights: "
                "train its outer weights only, or choose a smoother one such as 'matern32'"
            )
        return dual, derivative

    def dual(self, v: ArrayLike, w: ArrayLike, c: ArrayLike) -> Float[Array, "..."]:
        """E[sigma(s) sigma(t)] for (s, t) ~ N(0, [[v, c], [c, w]]); the arguments broadcast."""
        return _dual(self.rule, *_floating(v, w, c))

    def derivative_dual(self, v: ArrayLike, w: ArrayLike, c: ArrayLike) -> Float[Array, "..."]:
        """The derivative of `dual` with respect to c; the arguments broadcast. Raises as `duals` does."""
        return self.duals(v, w, c)[1]

    def diagonal_dual(self, v: ArrayLike) -> Float[Array, "..."]:
        """E[sigma(s)^2] for s ~ N(0, v), free of cancellation."""
        return self.dual(v, v, v)

    def draw_scales(self, key: PRNGKeyArray, neurons: int) -> Float[Array, " neurons"]:
        """The frozen scale of each neuron: ones, or sqrt(k / chi^2_k) for Student-t weights with k degrees."""
        if self.degrees_of_freedom is None:
            return jnp.ones(neurons)
        degrees = float(self.degrees_of_freedom)
        return jnp.sqrt(degrees / jax.random.chisquare(key, degrees, (neurons,)))

    def draw_phases(self, key: PRNGKeyArray, neurons: int) -> Float[Array, " neurons"]:
        """The phase of each neuron: zeros, or uniform on [0, 2 pi) for the random Fourier features."""
        if not self.random_phase:
            return jnp.zeros(neurons)
        return jax.random.uniform(key, (neurons,), maxval=2 * math.pi)

    @functools.cached_property
    def quadrature_error(self) -> float:
        """Estimated largest absolute error of the duals in double precision; 0.0 where they are closed forms."""
        return quadrature_accuracy(self)


@functools.partial(jax.jit, static_argnums=0)
def _both(rule: Rule, v: Array, w: Array, c: Array) -> tuple[Array, Array | None]:
    return rule(v, w, c)


@functools.partial(jax.jit, static_argnums=0)
def _dual(rule: Rule, v: Array, w: Array, c: Array) -> Array:
    return rule(v, w, c)[0]


def _floating(*arrays: ArrayLike) -> list[Array]:
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    rank = max(jnp.ndim(array) for array in arrays)
    return [jnp.asarray(array, dtype).reshape((1,) * (rank - jnp.ndim(array)) + jnp.shape(array)) for array in arrays]


def _shift(value: Array, target: Array) -> Array:
    """`target` as a value, `value` to differentiation: clipping must not cut the gradient at coincident points."""
    return value + jax.lax.stop_gradient(target - value)


def _root(v: Array) -> Array:
    positive = v > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1)), 0)


def _correlation(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    scale = _root(v) * _root(w)
    ratio = c / jnp.where(scale > 0, scale, 1)
    resolved = jnp.abs(ratio) < 1 - 8 * jnp.finfo(c.dtype).eps
    return scale, _shift(ratio, jnp.where(resolved, ratio, jnp.sign(ratio)))


def _squared_distance(v: Array, w: Array, c: Array) -> Array:
    raw = (v - c) + (w - c)
    resolved = raw > 4 * jnp.finfo(c.dtype).eps * (v + w)
    return _shift(raw, jnp.where(resolved, raw, 0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _arc_cosine(order: int, correlation: Array) -> Array:
    """E[relu(s)^k relu(t)^k] for unit variances; calls of two orders share their sine and angle once compiled."""
    cosine = correlation
    sine = jnp.sqrt((1 - cosine) * (1 + cosine))
    opening = math.pi - jnp.arctan2(sine, cosine)
    square = cosine * cosine
    value = {
        0: lambda: opening,
        1: lambda: sine + opening * cosine,
        2: lambda: 3 * sine * cosine + opening * (1 + 2 * square),
        3: lambda: sine * (4 + 11 * square) + opening * cosine * (9 + 6 * square),
    }[order]()
    return value / (2 * math.pi)


@_arc_cosine.defjvp
def _arc_cosine_tangent(order: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (correlation,), (tangent,) = primals, tangents
    slope = order**2 * _arc_cosine(order - 1, correlation) if order else _step_slope(correlation)
    return _arc_cosine(order, correlation), slope * tangent


def _step_slope(correlation: Array) -> Array:
    # The limit at parallel inputs is infinite, but along the diagonal of a Gram matrix the angle stays zero.
    square = (1 - correlation) * (1 + correlation)
    return jnp.where(square > 0, 1 / (2 * math.pi * jnp.sqrt(jnp.where(square > 0, square, 1))), 0)


def _relu_power(order: int, v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    scale, correlation = _correlation(v, w, c)
    derivative = order**2 * _arc_cosine(order - 1, correlation)
    return scale**order * _arc_cosine(order, correlation), scale ** (order - 1) * derivative


def _linear(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    c = jnp.broadcast_to(c, jnp.broadcast_shapes(v.shape, w.shape, c.shape))
    return c, jnp.ones_like(c)


def _erf(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    # Expanded so that nothing cancels for large variances; at least 1 for every true covariance.
    root = jnp.sqrt(jnp.maximum(1 + 2 * (v + w) + 4 * (v * w - c * c), 1))
    return 2 / math.pi * jnp.arctan2(2 * c, root), 4 / math.pi / root


def _gelu(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    determinant = jnp.maximum(1 + (v + w) + (v * w - c * c), 1)
    root = jnp.sqrt(determinant)
    both_normal = 1 / (2 * math.pi * root)  # E[phi(s) phi(t)], phi the standard normal density
    both_below = 0.25 + jnp.arctan2(c, root) / (2 * math.pi)  # E[Phi(s) Phi(t)]
    mixed = 1 / (1 + v) + 1 / (1 + w)
    dual = c * both_below + both_normal * ((v * w - c * c) + c * c * mixed)
    return dual, both_below + c * both_normal * (mixed + 1 / determinant)


def _waves(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    difference, total = jnp.exp(-((v - c) + (w - c)) / 2), jnp.exp(-((v + c) + (w + c)) / 2)
    return (difference - total) / 2, (difference + total) / 2


def _sin(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    return _waves(v, w, c)


def _cos(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    sines, cosines = _waves(v, w, c)
    return cosines, sines


def _gaussian(v: Array, w: Array, c: Array) -> tuple[Array, Array]:
    kernel = jnp.exp(-_squared_distance(v, w, c) / 2)
    return kernel, kernel


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _matern(order: int, squared: Array) -> Array:
    """Matern kernel of smoothness order + 1/2 as a function of x^2, x = sqrt(2 order + 1) * distance."""
    x = _root(squared)
    polynomial = (1, 1 + x, 1 + x * (1 + x / 3), 1 + x * (1 + x * (2 / 5 + x / 15)))[order]
    return polynomial * jnp.exp(-x)


@_matern.defjvp
def _matern_tangent(order: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (squared,), (tangent,) = primals, tangents
    slope = -_matern(order - 1, squared) / (4 * order - 2) if order else _exponential_slope(squared)
    return _matern(order, squared), slope * tangent


def _exponential_slope(squared: Array) -> Array:
    # Infinite at distance zero, where a Gram matrix keeps its points coincident: see `_step_slope`.
    x = _root(squared)
    return jnp.where(x > 0, -jnp.exp(-x) / (2 * jnp.where(x > 0, x, 1)), 0)


def _student(order: int, v: Array, w: Array, c: Array) -> tuple[Array, Array | None]:
    squared = (2 * order + 1) * _squared_distance(v, w, c)
    if order == 0:
        return _matern(0, squared), None
    return _matern(order, squared), (2 * order + 1) / (2 * order - 1) * _matern(order - 1, squared)


def _slope(function: Callable[[Array], Array], x: Array) -> Array:
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


@functools.lru_cache(maxsize=8)
def _hermite_table(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [n] and the table weight_j h_k(node_j) [n, order], h_k the orthonormal Hermite polynomials.

    Equidistant nodes: for the high polynomials of a function with poles near the real line they lose far less to
    aliasing than Gauss-Hermite nodes. None lies at zero, where activations have their kinks.
    """
    spacing = 9.6 / order
    nodes = spacing * (np.arange(-round(14 / spacing), round(14 / spacing)) + 0.5)
    weights = np.exp(-(nodes**2) / 2)
    table = np.ones((nodes.size, order))
    table[:, 1] = nodes
    for k in range(1, order - 1):
        table[:, k + 1] = (nodes * table[:, k] - math.sqrt(k) * table[:, k - 1]) / math.sqrt(k + 1)
    return nodes, (weights / weights.sum())[:, None] * table


def _hermite_coefficients(function: Callable[[Array], Array], order: int, v: Array) -> Array:
    nodes, table = _hermite_table(order)
    values = function(jnp.multiply.outer(_root(v), jnp.asarray(nodes, v.dtype)))
    return jnp.moveaxis(jnp.matmul(values, jnp.asarray(table, v.dtype), precision="highest"), -1, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _expectation(
    first: Callable[[Array], Array], second: Callable[[Array], Array], order: int, v: Array, w: Array, c: Array
) -> Array:
    """E[first(s) second(t)] = sum_k first_k(v) second_k(w) correlation^k (Mehler), summed by Horner's scheme.

    The two-dimensional integral costs one-dimensional quadratures per variance and a polynomial per entry, and the
    truncated sum is positive semi-definite as it stands. Tangents (Price's theorem) assume both functions are smooth.
    """
    _, correlation = _correlation(v, w, c)

    def add(total: Array, terms: tuple[Array, Array]) -> tuple[Array, None]:
        return total * correlation + terms[0] * terms[1], None

    shape = jnp.broadcast_shapes(v.shape, w.shape, c.shape)
    terms = (_hermite_coefficients(first, order, v), _hermite_coefficients(second, order, w))
    return jax.lax.scan(add, jnp.zeros(shape, c.dtype), terms, reverse=True, unroll=8)[0]


@_expectation.defjvp
def _expectation_tangent(
    first: Callable[[Array], Array], second: Callable[[Array], Array], order: int, primals: Any, tangents: Any
) -> tuple[Array, Array]:
    slope_first, slope_second = functools.partial(_slope, first), functools.partial(_slope, second)
    v_tangent, w_tangent, c_tangent = tangents
    # Price's theorem: the Gaussian density solves a heat equation in its own covariance.
    tangent = (
        _expectation(slope_first, slope_second, order, *primals) * c_tangent
        + _expectation(functools.partial(_slope, slope_first), second, order, *primals) * v_tangent / 2
        + _expectation(first, functools.partial(_slope, slope_second), order, *primals) * w_tangent / 2
    )
    return _expectation(first, second, order, *primals), tangent


@dataclass(frozen=True)
class _HermiteExpansion:
    function: Callable[[Array], Array]
    order: int = HERMITE_ORDER

    def __call__(self, v: Array, w: Array, c: Array) -> tuple[Array, Array]:
        slope = functools.partial(_slope, self.function)
        return (
            _expectation(self.function, self.function, self.order, v, w, c),
            _expectation(slope, slope, self.order, v, w, c),
        )


@double_precision
def quadrature_accuracy(activation: Activation) -> float:
    """Twice the largest change of either dual as the order of its Hermite expansion doubles, variances 0.1 to 4.

    0.0 for closed forms. An estimate: **the activation is smooth**; kinks and variances far above 4 cost digits.
    """
    rule = activation.rule
    if not isinstance(rule, _HermiteExpansion):
        return 0.0
    variances, correlations = np.array([0.1, 0.5, 1.0, 2.0, 4.0]), np.array([-1.0, -0.5, 0.0, 0.5, 0.9, 0.99, 1.0])
    v, w, correlation = np.meshgrid(variances, variances, correlations, indexing="ij")
    arguments = _floating(v, w, correlation * np.sqrt(v * w))
    coarse, fine = _both(rule, *arguments), _both(_HermiteExpansion(rule.function, 2 * rule.order), *arguments)
    return 2 * max(float(jnp.max(jnp.abs(low - high))) for low, high in zip(coarse, fine, strict=True))


def _known() -> dict[str, Activation]:
    closed: dict[str, Rule] = {
        "relu": functools.partial(_relu_power, 1),
        "relu2": functools.partial(_relu_power, 2),
        "relu3": functools.partial(_relu_power, 3),
        "erf": _erf,
        "sin": _sin,
        "cos": _cos,
        "gelu": _gelu,
        "linear": _linear,
    }
    functions = ACTIVATION_FUNCTIONS
    known = [Activation(name, functions[name], rule) for name, rule in closed.items()]
    known.append(Activation("cosine", functions["cosine"], _gaussian, random_phase=True))
    known += [
        Activation(
            f"matern{2 * order + 1}2", functions["cosine"], functools.partial(_student, order), True, 2 * order + 1
        )
        for order in range(4)
    ]
    known += [
        Activation(name, functions[name], _HermiteExpansion(functions[name]))
        for name in ("tanh", "silu", "sigmoid", "softplus")
    ]
    return {entry.name: entry for entry in known}


_KNOWN = _known()
KNOWN_ACTIVATIONS: tuple[str, ...] = tuple(_KNOWN)


def activation(name_or_callable: str | Callable[[Array], Array] | Activation) -> Activation:
    """The activation of a name, or of any elementwise JAX function.

    A function without a closed form gets its duals by Hermite expansion, accurate to `.quadrature_error`.
    **Such a function is smooth** (twice differentiable), and its duals hold `HERMITE_ORDER` numbers per variance.
    Raises `ForetrainError` for an unknown name, listing the known ones.
    """
    if isinstance(name_or_callable, Activation):
        return name_or_callable
    if isinstance(name_or_callable, str) and name_or_callable in _KNOWN:
        return _KNOWN[name_or_callable]
    if isinstance(name_or_callable, str) or not callable(name_or_callable):
        raise ForetrainError(
            f"unknown activation {name_or_callable!r}: choose one of {', '.join(KNOWN_ACTIVATIONS)}, "
            "or pass an elementwise JAX function"
        )
    for known in _KNOWN.values():
        if known.function is name_or_callable:
            return known
    name = getattr(name_or_callable, "__name__", type(name_or_callable).__name__)
    return Activation(name, name_or_callable, _HermiteExpansion(name_or_callable))
