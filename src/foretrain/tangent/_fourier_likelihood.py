"""Marginal likelihood of the Gaussian process with the Fourier kernel, and its gradient."""

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from foretrain._foundation import DataError, double_precision, require_memory
from foretrain.tangent._activations import activation
from foretrain.tangent._circulant import CirculantKernel, frequency_multiplicity, self_conjugate_frequencies, transform
from foretrain.tangent._factor import cholesky
from foretrain.tangent._fourier_kernel import FourierKernel, _next_covariance, _tile
from foretrain.tangent._fourier_layers import Deeper
from foretrain.tangent._fourier_settings import FourierSettings
from foretrain.tangent._likelihood import Likelihood, checked_targets, profiled_likelihood

Array = np.ndarray

FOURIER_COORDINATES = ("log_input_norm", "log_mode_scale", "decay", "bias", "log_ridge")
TILE_ENTRIES = 500_000
"""Kernel entries differentiated at once."""
CHUNK_BYTES = 32 * 2**20
"""Matrices factorised at once."""


class _Gradient(NamedTuple):
    """d log p / d T_w and d S_w for T_w, S_w the blocks as they stand: Re sum conj(gradient) * change."""

    blocks: Complex[Array, "frequencies functions functions"]
    reflected: Complex[Array, "frequencies functions functions"] | None
    ridge: float


class _Fixed(NamedTuple):
    """What compilation depends on: settings with the continuous hyper-parameters taken out, and the grid."""

    settings: FourierSettings
    grid_shape: tuple[int, ...]


@double_precision
def fourier_likelihood(
    settings: FourierSettings,
    inputs: Float[Array, "functions points"],
    targets: Float[Array, "functions points"],
    grid_shape: tuple[int, ...],
) -> Likelihood:
    """The log marginal likelihood of the Fourier kernel, amplitude profiled out, and its gradient.

        log p = -1/2 [ N log(q / N) + sum_w m_w log det T_w + N log(2 pi) + N ],  q = sum_w m_w z_w* T_w^{-1} z_w / n

    over the frequencies w of the half spectrum, m_w being how often each stands in the full one; with a reflection T_w
    is the real matrix of twice the size that couples w and -w. The gradient in the blocks is closed,
    m_w (alpha_w alpha_w* N / (q n) - T_w^{-1}) / 2, and is contracted with the kernel's forward derivatives tile by
    tile. Coordinates: log_input_norm, log_mode_scale, decay, bias, log_ridge.

    Memory is twice the kernel's, 2 x 16 bytes x frequencies x functions^2 (twice that with a reflection): **meant for a
    subset of some hundred functions.**

    **Assumption:** the targets are a draw of mean zero.

    Raises:
        DataError: inputs or targets that do not fit the grid, targets not finite or all zero.
        ForetrainError: a kernel that rounding has made indefinite beyond repair.
        MemoryBudgetError: too many functions for the memory there is.
    """
    functions, points = len(inputs), math.prod(grid_shape)
    if np.shape(inputs) != (functions, points):
        raise DataError(f"inputs: expected {points} values on the grid {grid_shape}, came shape {np.shape(inputs)}")
    right = checked_targets(targets, (functions, points))
    frequencies = len(frequency_multiplicity(grid_shape))
    require_memory(
        (4 if settings.reflection else 2) * 16 * frequencies * functions**2,
        "the Fourier form's likelihood",
        "use fewer functions",
    )
    inputs = np.asarray(inputs, np.float64)
    kernel = FourierKernel.for_inputs(settings, inputs, grid_shape)
    gram = kernel.gram(kernel.filter(inputs))
    solution = gram.solve_with_report(right)
    amplitude = float(np.sum(solution.value * right)) / right.size
    gradient = _block_gradient(gram, transform(solution.value, grid_shape), amplitude)
    # The ridge is relative to the kernel's mean diagonal, so the blocks change it too.
    diagonal = np.arange(functions)
    gradient.blocks[:, diagonal, diagonal] += _ridge_share(settings, gradient, grid_shape, functions)
    slopes = _contract(settings, inputs, grid_shape, gradient)
    slopes["log_ridge"] = gradient.ridge * gram.ridge
    value = profiled_likelihood(amplitude, gram.logdet(), right.size)
    return Likelihood(value, amplitude, slopes, solution.jitter, right.size)


def _ridge_share(settings: FourierSettings, gradient: _Gradient, grid_shape: tuple[int, ...], functions: int) -> Array:
    """What the diagonals of the blocks do by way of the ridge, ridge * sum_w m_w T_w,ii / (functions x points)."""
    share = settings.ridge * gradient.ridge / (functions * math.prod(grid_shape))
    return share * frequency_multiplicity(grid_shape)[:, None]


def _block_gradient(
    gram: CirculantKernel, solved: Complex[Array, "frequencies functions"], amplitude: float
) -> _Gradient:
    functions, points = gram.shape
    alone = self_conjugate_frequencies(gram.grid_shape)
    solved = solved / math.sqrt(amplitude * points)
    blocks, ridge = np.empty_like(gram.blocks), 0.0
    reflected = None if gram.reflected is None else np.empty_like(gram.reflected)
    at_once = max(1, CHUNK_BYTES // (64 * functions**2))
    for group in (np.flatnonzero(alone), np.flatnonzero(~alone)):
        for start in range(0, len(group), at_once):
            chosen = group[start : start + at_once]
            weight = (frequency_multiplicity(gram.grid_shape)[chosen] / 2)[:, None, None]
            direct, right = gram.blocks[chosen], solved[chosen]
            if gram.reflected is None or reflected is None:
                slopes = weight * _slope(direct, gram.ridge, right, 1.0)
                blocks[chosen] = slopes
            else:
                mirrored = gram.sign * gram.reflected[chosen]
                single = bool(alone[chosen[0]])
                slopes = weight * _paired_slope(direct, mirrored, gram.ridge, right, single)
                blocks[chosen], mirrored_slopes = _unpaired(slopes, functions)
                reflected[chosen] = gram.sign * mirrored_slopes
            ridge += float(np.einsum("wii->", slopes).real)
    return _Gradient(blocks, reflected, ridge)


def _paired_slope(direct: Array, mirrored: Array, ridge: float, solved: Array, single: bool) -> Array:
    """`_slope` of the real matrices that a reflection makes of the blocks, as in `CirculantKernel`."""
    upper = (direct.real + mirrored.real) / 2
    if single:
        return _slope(upper, ridge, solved.real, 1.0)
    lower, mixed = (direct.real - mirrored.real) / 2, (direct.imag + mirrored.imag) / 2
    paired = np.block([[upper, mixed.transpose(0, 2, 1)], [mixed, lower]])
    # A packed matrix of twice the size already counts the frequency and its negative.
    return _slope(paired, ridge, np.concatenate([solved.real, solved.imag], axis=1), 0.5)


def _unpaired(slopes: Array, functions: int) -> tuple[Array, Array]:
    """From slopes in the real matrices to those in the blocks, direct (Hermitian) and mirrored (symmetric)."""
    first, last = slice(functions), slice(functions, None)
    upper, lower, mixed = slopes[:, first, first], slopes[:, last, last], slopes[:, last, first]
    if slopes.shape[-1] == functions:
        return upper / 2, upper / 2
    turned = mixed.transpose(0, 2, 1)
    return (upper + lower) / 2 + 0.5j * (mixed - turned), (upper - lower) / 2 + 0.5j * (mixed + turned)


def _slope(matrices: Array, ridge: float, solved: Array, share: float) -> Array:
    """a a* - share T^{-1} for each frequency."""
    loaded = jnp.asarray(matrices) + ridge * jnp.eye(matrices.shape[-1])
    return np.asarray(_outer_minus_inverse(cholesky(loaded, "the kernel").lower, jnp.asarray(solved), share))


@jax.jit
def _outer_minus_inverse(lower: jax.Array, solved: jax.Array, share: float) -> jax.Array:
    unit = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    inverse = jax.scipy.linalg.cho_solve((lower, True), unit)
    return solved[:, :, None] * jnp.conj(solved[:, None, :]) - share * inverse


def _contract(
    settings: FourierSettings,
    inputs: Float[Array, "functions points"],
    grid_shape: tuple[int, ...],
    gradient: _Gradient,
) -> dict[str, float]:
    """The slopes of all hyper-parameters but the ridge."""
    fixed = _Fixed(replace(settings, input_norm=1.0, mode_scale=1.0, decay=1.0, bias=0.0, ridge=0.0), grid_shape)
    values = tuple(getattr(settings, name.removeprefix("log_")) for name in FOURIER_COORDINATES[:-1])
    logarithmic = [name.startswith("log_") for name in FOURIER_COORDINATES[:-1]]
    directions = jnp.diag(jnp.where(jnp.asarray(logarithmic), jnp.asarray(values), 1.0))
    weighted = _weighted(fixed, tuple(map(jnp.asarray, values)), directions, jnp.asarray(inputs))
    functions, points = inputs.shape
    tiles = max(1, math.ceil(functions / max(1, math.isqrt(TILE_ENTRIES // points))))
    # Tiles of one size, so that they are compiled once; what the last ones count again is set to zero.
    size = math.ceil(functions / tiles)
    total = np.zeros(len(values))
    for i in range(tiles):
        for j in range(i + 1):
            rows, fresh_rows = _tile_range(i, size, functions)
            columns, fresh_columns = _tile_range(j, size, functions)
            # The other half of the gradient is the adjoint of this one.
            share = np.outer(fresh_rows, fresh_columns) * (1.0 if i == j else 2.0)
            for mirror, slopes in enumerate((gradient.blocks, gradient.reflected)):
                if slopes is not None:
                    part = jnp.asarray(slopes[:, rows, columns] * share)
                    total += np.asarray(_tile_slopes(fixed, bool(mirror), weighted, rows.start, columns.start, part))
    return dict(zip(FOURIER_COORDINATES, total.tolist(), strict=False))


def _tile_range(index: int, size: int, functions: int) -> tuple[slice, Array]:
    start = min(index * size, functions - size)
    return slice(start, start + size), np.arange(start, start + size) >= index * size


class _Functions(NamedTuple):
    """`FilteredFunctions` with all that depends on the continuous hyper-parameters."""

    spectrum: jax.Array
    variances: jax.Array
    biases: jax.Array
    deeper: tuple[tuple[jax.Array, jax.Array], ...]  # prior and variances of each further layer


class _Weighted(NamedTuple):
    """Filtered functions and their derivatives along each hyper-parameter, stacked first."""

    value: _Functions
    tangents: _Functions


@functools.partial(jax.jit, static_argnums=0)
def _weighted(fixed: _Fixed, values: tuple[jax.Array, ...], directions: jax.Array, inputs: jax.Array) -> _Weighted:
    filtered = functools.partial(_filtered, fixed, inputs)
    pushed = [jax.jvp(filtered, values, tuple(direction)) for direction in directions]
    return _Weighted(pushed[0][0], jax.tree.map(lambda *rows: jnp.stack(rows), *[tangent for _, tangent in pushed]))


def _filtered(
    fixed: _Fixed,
    inputs: jax.Array,
    input_norm: jax.Array,
    mode_scale: jax.Array,
    decay: jax.Array,
    bias: jax.Array,
) -> _Functions:
    """`FourierKernel.for_inputs(...).filter(inputs)` as a differentiable function."""
    settings, grid_shape = fixed
    points, axes = math.prod(grid_shape), tuple(range(1, 1 + len(grid_shape)))
    shape: dict[str, Any] = {"mode_scale": mode_scale, "decay": decay}
    prior = jnp.asarray(replace(settings, **shape).prior(grid_shape))
    # Where a prior leaves a wave number out, its root has no derivative and needs none.
    root = jnp.where(prior > 0, jnp.sqrt(jnp.where(prior > 0, prior, 1.0)), 0.0)
    spectrum = jnp.fft.rfftn(inputs.reshape(-1, *grid_shape), axes=axes) / points * root
    filtered = jnp.fft.irfftn(spectrum, s=grid_shape, axes=axes) * points
    powers = jnp.mean(filtered.reshape(len(inputs), -1) ** 2, axis=1)
    factor = input_norm / jnp.sqrt(jnp.mean(powers))
    spectrum, own = factor * spectrum, factor**2 * powers + bias**2 + settings.place**2
    # The settings' own bias was taken out for compilation.
    biases = bias**2 + settings.bias_covariance(grid_shape)
    covariance = jnp.fft.irfftn(jnp.abs(spectrum) ** 2, s=grid_shape, axes=axes) * points + biases
    variances, deeper = own, []
    for _ in range(settings.depth - 1):
        raw = _next_covariance(activation(settings.activation), covariance, own, prior, jnp.zeros(()))
        scale = input_norm**2 / jnp.mean(raw.reshape(len(inputs), -1)[:, 0])
        covariance = scale * raw + biases
        own = covariance.reshape(len(inputs), -1)[:, 0]
        deeper.append((scale * prior, own))
    return _Functions(spectrum, variances, biases, tuple(deeper))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tile_slopes(
    fixed: _Fixed, mirror: bool, weighted: _Weighted, row: int, column: int, gradient: jax.Array
) -> jax.Array:
    """Re sum conj(gradient) * d tile along each hyper-parameter."""
    settings, grid_shape = fixed
    _, height, width = gradient.shape

    def tile(functions: _Functions) -> jax.Array:
        def part(values: jax.Array, start: int, size: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(values, start, size)

        spectrum, variances, biases, layers = functions
        other = settings.reflection * jnp.conj(spectrum) if mirror else spectrum
        left = part(spectrum, row, height), part(variances, row, height)
        right = part(other, column, width), part(variances, column, width)
        deeper = tuple(Deeper(prior, part(own, row, height), part(own, column, width)) for prior, own in layers)
        sigma = activation(settings.activation)
        return _tile(sigma, settings.train_filters, grid_shape, *left, *right, biases, deeper)

    _, push = jax.linearize(tile, weighted.value)
    changes = jax.vmap(push)(weighted.tangents)
    return jnp.sum(jnp.real(jnp.conj(gradient) * changes), axis=(1, 2, 3))
