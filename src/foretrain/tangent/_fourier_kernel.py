"""The tangent kernel of a wide Fourier operator, from the input functions alone."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from foretrain._foundation import (
    Progress,
    double_precision,
    even_size,
    everywhere,
    gather,
    ignore_progress,
    require_memory,
    spread,
)
from foretrain.tangent._activations import Activation, activation
from foretrain.tangent._circulant import CirculantKernel, frequency_multiplicity
from foretrain.tangent._fourier_layers import Deeper, convolve, stationary_kernel
from foretrain.tangent._fourier_settings import FourierSettings

Array = np.ndarray
TILE_ENTRIES = 4_000_000
LARGEST_TILE = 128


@dataclass(frozen=True)
class FilteredFunctions:
    """Input functions as Fourier coefficients weighted by the square root of the filter prior.

    Attributes:
        spectrum: weighted coefficients over the half spectrum, [functions, *half].
        variances: kappa's argument at equal points, sum_k rho_k |u_k|^2 + bias^2, [functions].
        grid_shape: points along each axis.
        deeper_variances: the same of the layers above the first, [functions] each.
    """

    spectrum: Complex[Array, "functions ..."]
    variances: Float[Array, " functions"]
    grid_shape: tuple[int, ...]
    deeper_variances: tuple[Float[Array, " functions"], ...] = ()

    def reflected(self, sign: int) -> "FilteredFunctions":
        """The functions u(x) -> sign u(-x): conjugate coefficients."""
        return replace(self, spectrum=sign * np.conj(self.spectrum))

    def take(self, chosen: slice) -> "FilteredFunctions":
        """Some of the functions."""
        return self._each(lambda values: values[chosen])

    def padded(self, size: int) -> "FilteredFunctions":
        """As many functions as `size`, those added being zero."""
        return self._each(lambda values: _padded(values, size))

    def _each(self, change: Callable[[Array], Array]) -> "FilteredFunctions":
        deeper = tuple(map(change, self.deeper_variances))
        return FilteredFunctions(change(self.spectrum), change(self.variances), self.grid_shape, deeper)


@dataclass(frozen=True)
class FourierKernel:
    """kappa for a given filter prior: turns two sets of input functions into kernel blocks.

        kappa_ij(s) = K(v_i, v_j, C_ij(s)) [+ C_ij(s) K'(v_i, v_j, C_ij(s)) if filters and biases are trained],
        C_ij(s) = sum_k rho_k u_ik conj(u_jk) e^{2 pi i k s} + E[b(y) b(y - s)]

    and so on for further layers, as `stationary_kernel` says. The prior of each layer is scaled so that the mean square
    of the pre-activation, biases aside, is `input_norm`^2 over the inputs in every layer.

    **Assumption:** all functions are sampled on one periodic grid. Source: the kernel of infinitely wide Fourier
    layers followed by a pointwise readout.

    Attributes:
        factor: on the first layer's filters.
        deeper_scales: on the variances of the further layers' filters.
    """

    settings: FourierSettings
    grid_shape: tuple[int, ...]
    factor: float
    deeper_scales: tuple[float, ...] = ()

    @classmethod
    def for_inputs(
        cls, settings: FourierSettings, inputs: Float[Array, "functions points"], grid_shape: tuple[int, ...]
    ) -> "FourierKernel":
        """The kernel whose scale gives these inputs the root-mean-square norm of the settings."""
        raw = cls(settings, grid_shape, 1.0)
        typical = float(np.mean(raw.filter(inputs).variances - settings.bias_variance)) or 1.0
        kernel = cls(settings, grid_shape, settings.input_norm / typical**0.5)
        for _ in range(settings.depth - 1):
            raw = replace(kernel, deeper_scales=(*kernel.deeper_scales, 1.0))
            typical = float(np.mean(raw.filter(inputs).deeper_variances[-1] - settings.bias_variance)) or 1.0
            kernel = replace(raw, deeper_scales=(*kernel.deeper_scales, settings.input_norm**2 / typical))
        return kernel

    @property
    def points(self) -> int:
        """Number of grid points."""
        return math.prod(self.grid_shape)

    def filter(self, inputs: Float[Array, "functions points"]) -> FilteredFunctions:
        """The inputs' Fourier coefficients, weighted by the square root of the prior."""
        points = self.points
        functions = np.asarray(inputs, np.float64).reshape(len(inputs), *self.grid_shape)
        axes = tuple(range(1, functions.ndim))
        spectrum = np.fft.rfftn(functions, axes=axes) / points
        spectrum = self.factor * spectrum * np.sqrt(self.settings.prior(self.grid_shape))
        filtered = np.fft.irfftn(spectrum, s=self.grid_shape, axes=axes) * points
        # Parseval: the mean square of the filtered function is the sum over all its modes.
        variances = np.mean(filtered.reshape(len(inputs), -1) ** 2, axis=1) + self.settings.bias_variance
        return self._with_deeper_variances(FilteredFunctions(spectrum, variances, self.grid_shape))

    @double_precision
    def _with_deeper_variances(self, functions: FilteredFunctions) -> FilteredFunctions:
        if not self.deeper_scales:
            return functions
        sigma, biases = activation(self.settings.activation), self._biases
        axes, points = tuple(range(1, functions.spectrum.ndim)), self.points
        covariance = np.fft.irfftn(np.abs(functions.spectrum) ** 2, s=self.grid_shape, axes=axes) * points
        covariance, own, deeper = covariance + biases, functions.variances, []
        for prior in self._deeper_priors():
            covariance = np.asarray(_next_covariance(sigma, covariance, own, prior, biases))
            own = covariance.reshape(len(own), -1)[:, 0]
            deeper.append(own)
        return replace(functions, deeper_variances=tuple(deeper))

    @property
    def _biases(self) -> Array:
        return self.settings.bias_covariance(self.grid_shape)

    def _deeper_priors(self) -> list[Array]:
        return [scale * self.settings.prior(self.grid_shape) for scale in self.deeper_scales]

    @double_precision
    def pairwise(self, left: FilteredFunctions, right: FilteredFunctions) -> Float[Array, "functions points"]:
        """kappa_ii(s), the i-th function on the left with the i-th on the right, at all shifts."""
        kernel = _pairwise(
            activation(self.settings.activation),
            self.settings.train_filters,
            self.grid_shape,
            left.spectrum * np.conj(right.spectrum),
            left.variances,
            right.variances,
            self._biases,
            tuple(map(Deeper, self._deeper_priors(), left.deeper_variances, right.deeper_variances)),
        )
        return np.asarray(kernel).reshape(len(left.variances), -1)

    @double_precision
    def between(
        self,
        left: FilteredFunctions,
        right: FilteredFunctions,
        consume: Callable[[slice, slice, Complex[Array, "frequencies rows columns"]], None],
        *,
        symmetric: bool = False,
        progress: Progress = ignore_progress,
    ) -> None:
        """Computes the transforms of kappa in tiles, each handed to `consume(rows, columns, tile)`.

        With `symmetric` (left and right the same functions) only tiles on and below the diagonal are computed.
        """
        points = self.points
        largest = max(1, min(LARGEST_TILE, int((TILE_ENTRIES / points) ** 0.5)))
        tile, width = _tile_size(len(left.variances), largest), _tile_size(len(right.variances), largest)
        starts_left = range(0, len(left.variances), tile)
        starts_right = range(0, len(right.variances), width)
        pairs = [(i, j) for i in starts_left for j in starts_right if not symmetric or j <= i]
        for done, (i, j) in enumerate(pairs):
            progress("building the kernel", done, len(pairs))
            rows, columns = slice(i, min(i + tile, len(left.variances))), slice(j, min(j + width, len(right.variances)))
            # Several devices take an equal share of the rows each.
            block = self._tile_of(left.take(rows).padded(even_size(tile)), right.take(columns).padded(width))
            consume(rows, columns, block[:, : rows.stop - i, : columns.stop - j])
        progress("building the kernel", len(pairs), len(pairs))

    def _tile_of(self, left: FilteredFunctions, right: FilteredFunctions) -> Complex[Array, "frequencies rows columns"]:
        triples = zip(self._deeper_priors(), left.deeper_variances, right.deeper_variances, strict=True)
        block = _tile(
            activation(self.settings.activation),
            self.settings.train_filters,
            self.grid_shape,
            spread(left.spectrum),
            spread(left.variances),
            *everywhere((right.spectrum, right.variances)),
            self._biases,
            tuple(Deeper(everywhere(prior), spread(v), everywhere(w)) for prior, v, w in triples),
        )
        return gather(block)

    def blocks(
        self, left: FilteredFunctions, right: FilteredFunctions, progress: Progress = ignore_progress
    ) -> Complex[Array, "frequencies rows columns"]:
        """All transforms at once, [frequencies, left functions, right functions]."""
        return self._collect(left, right, None, progress)

    def gram(self, functions: FilteredFunctions, progress: Progress = ignore_progress) -> CirculantKernel:
        """The kernel of the training functions, averaged over the reflection if there is one."""
        blocks = self._collect(functions, functions, np.conj, progress)
        diagonal = np.einsum("wii->w", blocks).real @ frequency_multiplicity(self.grid_shape)
        size = float(diagonal) / (len(functions.variances) * self.points)
        sign = self.settings.reflection
        # kappa_{i,Rj} is symmetric in i and j, its transform therefore too (not Hermitian).
        reflected = self._collect(functions, functions.reflected(sign), np.array, progress) if sign else None
        return CirculantKernel(blocks, self.grid_shape, reflected, sign or 1, self.settings.ridge * size)

    def _collect(
        self,
        left: FilteredFunctions,
        right: FilteredFunctions,
        mirror: Callable[[Array], Array] | None,
        progress: Progress,
    ) -> Array:
        half = int(np.prod(left.spectrum.shape[1:]))
        require_memory(
            16 * half * len(left.variances) * len(right.variances),
            "the Fourier form's kernel",
            "use fewer training functions, a coarser grid, or form='branch-trunk'",
        )
        blocks = np.empty((half, len(left.variances), len(right.variances)), dtype=complex)

        def consume(rows: slice, columns: slice, tile: Array) -> None:
            blocks[:, rows, columns] = tile
            if mirror is not None and rows.start != columns.start:
                blocks[:, columns, rows] = mirror(tile.transpose(0, 2, 1))

        self.between(left, right, consume, symmetric=mirror is not None, progress=progress)
        return blocks


def _tile_size(functions: int, largest: int) -> int:
    """`largest`, or a half, a quarter, ... of it that still holds all functions: few sizes, so few compilations."""
    size = largest
    while size >= 2 * functions:
        size //= 2
    return size


def _padded(values: Array, size: int) -> Array:
    """Every tile in one shape, so that it is compiled once; the padding functions are zero and cut off again."""
    return np.concatenate([values, np.zeros((size - len(values), *values.shape[1:]), values.dtype)])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _tile(
    sigma: Activation,
    train_filters: bool,
    grid_shape: tuple[int, ...],
    left: jax.Array,
    left_variances: jax.Array,
    right: jax.Array,
    right_variances: jax.Array,
    biases: jax.Array,
    deeper: tuple[Deeper, ...] = (),
) -> jax.Array:
    products = left[:, None] * jnp.conj(right[None, :])
    v, w = left_variances[:, None], right_variances[None, :]
    deeper = tuple(Deeper(layer.prior, layer.left[:, None], layer.right[None, :]) for layer in deeper)
    kernel = _at_all_shifts(sigma, train_filters, grid_shape, products, v, w, biases, deeper)
    spectrum = jnp.fft.rfftn(kernel, axes=tuple(range(2, kernel.ndim)))
    return jnp.moveaxis(spectrum.reshape(*spectrum.shape[:2], -1), -1, 0)


def _at_all_shifts(
    sigma: Activation,
    train_filters: bool,
    grid_shape: tuple[int, ...],
    products: jax.Array,
    left: jax.Array,
    right: jax.Array,
    biases: jax.Array,
    deeper: tuple[Deeper, ...],
) -> jax.Array:
    """kappa from the products of the functions' coefficients; what belongs to a function has no axes of the grid."""
    axes = tuple(range(products.ndim - len(grid_shape), products.ndim))
    points = int(np.prod(grid_shape))
    covariance = jnp.fft.irfftn(products, s=grid_shape, axes=axes) * points + biases
    expand = (...,) + (None,) * len(grid_shape)
    deeper = tuple(Deeper(layer.prior, layer.left[expand], layer.right[expand]) for layer in deeper)
    return stationary_kernel(sigma, train_filters, covariance, left[expand], right[expand], biases, deeper)


_pairwise = jax.jit(_at_all_shifts, static_argnums=(0, 1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _next_covariance(
    sigma: Activation, covariance: jax.Array, own: jax.Array, prior: jax.Array, biases: jax.Array
) -> jax.Array:
    """C_{l+1} of each function with itself at all shifts, from C_l and its value at none."""
    own = own[(...,) + (None,) * prior.ndim]
    return convolve(prior, sigma.dual(own, own, covariance)) + biases
