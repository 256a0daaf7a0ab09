"""The tangent kernel of a wide shallow Fourier operator, from the input functions alone."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from foretrain._foundation import Progress, double_precision, ignore_progress, require_memory
from foretrain.tangent._activations import Activation, activation
from foretrain.tangent._circulant import CirculantKernel, frequency_multiplicity

Array = np.ndarray
TILE_ENTRIES = 4_000_000


@dataclass(frozen=True)
class FourierSettings:
    """What decides how a translation-equivariant operator generalises.

    Attributes:
        activation: by name; those of the Matern family stand for cosine features with Student-t filters.
        input_norm: root mean square of the filtered, scaled input (the pre-activation's standard deviation).
        mode_scale, decay: filter prior, the Fourier coefficient at wave number k has variance
            proportional to (1 + (|k| / mode_scale)^2)^(-decay).
        bias: standard deviation of the neurons' biases.
        train_filters: whether filters are trained beside the readout; else the readout alone.
        reflection: s = +-1 if the operator commutes with u(x) -> s u(-x), 0 if not.
        ridge: isotropic ridge, relative to the kernel's mean diagonal.
    """

    activation: str = "matern72"
    input_norm: float = 0.5
    mode_scale: float = 1.0
    decay: float = 1.0
    bias: float = 0.0
    train_filters: bool = False
    reflection: int = 0
    ridge: float = 1e-9

    def __str__(self) -> str:
        parts = [f"{self.activation}", f"input norm {self.input_norm:g}"]
        parts.append(f"filters ~ (1 + (k/{self.mode_scale:g})^2)^-{self.decay:g}")
        parts += [f"bias {self.bias:g}"] if self.bias else []
        parts += ["filters trained"] if self.train_filters else []
        parts += ["odd reflection" if self.reflection < 0 else "even reflection"] if self.reflection else []
        parts.append(f"ridge {self.ridge:g}")
        return ", ".join(parts)


@dataclass(frozen=True)
class FilteredFunctions:
    """Input functions as Fourier coefficients weighted by the square root of the filter prior.

    Attributes:
        spectrum: weighted coefficients over the half spectrum, [functions, *half].
        variances: kappa's argument at equal points, sum_k rho_k |u_k|^2 + bias^2, [functions].
        grid_shape: points along each axis.
    """

    spectrum: Complex[Array, "functions ..."]
    variances: Float[Array, " functions"]
    grid_shape: tuple[int, ...]

    def reflected(self, sign: int) -> "FilteredFunctions":
        """The functions u(x) -> sign u(-x): conjugate coefficients."""
        return FilteredFunctions(sign * np.conj(self.spectrum), self.variances, self.grid_shape)


@dataclass(frozen=True)
class FourierKernel:
    """kappa for a given filter prior: turns two sets of input functions into kernel blocks.

        kappa_ij(s) = K(v_i, v_j, C_ij(s)) [+ C_ij(s) K'(v_i, v_j, C_ij(s)) if filters and biases are trained],
        C_ij(s) = sum_k rho_k u_ik conj(u_jk) e^{2 pi i k s} + bias^2

    **Assumption:** all functions are sampled on one periodic grid. Source: the kernel of an infinitely wide Fourier
    layer followed by a pointwise readout.
    """

    settings: FourierSettings
    grid_shape: tuple[int, ...]
    factor: float

    @classmethod
    def for_inputs(
        cls, settings: FourierSettings, inputs: Float[Array, "functions points"], grid_shape: tuple[int, ...]
    ) -> "FourierKernel":
        """The kernel whose scale gives these inputs the root-mean-square norm of the settings."""
        raw = cls(settings, grid_shape, 1.0)
        typical = float(np.mean(raw.filter(inputs).variances - settings.bias**2)) or 1.0
        return cls(settings, grid_shape, settings.input_norm / typical**0.5)

    def filter(self, inputs: Float[Array, "functions points"]) -> FilteredFunctions:
        """The inputs' Fourier coefficients, weighted by the square root of the prior."""
        points = int(np.prod(self.grid_shape))
        functions = np.asarray(inputs, np.float64).reshape(len(inputs), *self.grid_shape)
        axes = tuple(range(1, functions.ndim))
        spectrum = np.fft.rfftn(functions, axes=axes) / points
        wave_numbers = [np.fft.fftfreq(size, 1 / size) for size in self.grid_shape[:-1]]
        wave_numbers.append(np.arange(self.grid_shape[-1] // 2 + 1, dtype=float))
        squared = sum(axis**2 for axis in np.meshgrid(*wave_numbers, indexing="ij"))
        prior = (1 + squared / self.settings.mode_scale**2) ** -self.settings.decay
        spectrum = self.factor * spectrum * np.sqrt(prior)
        filtered = np.fft.irfftn(spectrum, s=self.grid_shape, axes=axes) * points
        # Parseval: the mean square of the filtered function is the sum over all its modes.
        variances = np.mean(filtered.reshape(len(inputs), -1) ** 2, axis=1) + self.settings.bias**2
        return FilteredFunctions(spectrum, variances, self.grid_shape)

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
        points = int(np.prod(self.grid_shape))
        largest = max(1, int((TILE_ENTRIES / points) ** 0.5))
        tile, width = _even_tile(len(left.variances), largest), _even_tile(len(right.variances), largest)
        starts_left = range(0, len(left.variances), tile)
        starts_right = range(0, len(right.variances), width)
        pairs = [(i, j) for i in starts_left for j in starts_right if not symmetric or j <= i]
        for done, (i, j) in enumerate(pairs):
            progress("building the kernel", done, len(pairs))
            rows, columns = slice(i, min(i + tile, len(left.variances))), slice(j, min(j + width, len(right.variances)))
            block = _tile(
                activation(self.settings.activation),
                self.settings.train_filters,
                self.grid_shape,
                _padded(left.spectrum[rows], tile),
                _padded(left.variances[rows], tile),
                _padded(right.spectrum[columns], width),
                _padded(right.variances[columns], width),
                self.settings.bias**2,
            )
            consume(rows, columns, np.asarray(block)[:, : rows.stop - i, : columns.stop - j])
        progress("building the kernel", len(pairs), len(pairs))

    def blocks(
        self, left: FilteredFunctions, right: FilteredFunctions, progress: Progress = ignore_progress
    ) -> Complex[Array, "frequencies rows columns"]:
        """All transforms at once, [frequencies, left functions, right functions]."""
        return self._collect(left, right, None, progress)

    def gram(self, functions: FilteredFunctions, progress: Progress = ignore_progress) -> CirculantKernel:
        """The kernel of the training functions, averaged over the reflection if there is one."""
        blocks = self._collect(functions, functions, np.conj, progress)
        diagonal = np.einsum("wii->w", blocks).real @ frequency_multiplicity(self.grid_shape)
        size = float(diagonal) / (len(functions.variances) * int(np.prod(self.grid_shape)))
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


def _even_tile(functions: int, largest: int) -> int:
    """A tile size, at most `largest`, that leaves little padding in the last tile."""
    return -(-functions // -(-functions // largest))


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
    bias_variance: jax.Array,
) -> jax.Array:
    axes = tuple(range(2, 2 + len(grid_shape)))
    points = int(np.prod(grid_shape))
    products = left[:, None] * jnp.conj(right[None, :])
    covariance = jnp.fft.irfftn(products, s=grid_shape, axes=axes) * points + bias_variance
    expand = (...,) + (None,) * len(grid_shape)
    v, w = left_variances[:, None][expand], right_variances[None, :][expand]
    if train_filters:
        dual, derivative = sigma.duals(v, w, covariance)
        kernel = dual + covariance * derivative
    else:
        kernel = sigma.dual(v, w, covariance)
    spectrum = jnp.fft.rfftn(kernel, axes=axes)
    return jnp.moveaxis(spectrum.reshape(*spectrum.shape[:2], -1), -1, 0)
