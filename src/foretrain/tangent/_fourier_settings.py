"""What decides how a translation-equivariant operator generalises."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError

Array = np.ndarray


@dataclass(frozen=True)
class FourierSettings:
    """What decides how a translation-equivariant operator generalises.

    Attributes:
        activation: by name; those of the Matern family stand for cosine features with Student-t filters.
        input_norm: root mean square of the filtered, scaled input (the pre-activation's standard deviation).
        mode_scale, decay: filter prior, the Fourier coefficient at wave number k has variance
            proportional to (1 + (|k| / mode_scale)^2)^(-decay).
        bias: standard deviation of the neurons' biases.
        place: standard deviation of what varies with the place in them, one wave along each axis, random in phase;
            0 for an operator that commutes with translations.
        train_filters: whether filters are trained beside the readout; else the readout alone.
        reflection: s = +-1 if the operator commutes with u(x) -> s u(-x), 0 if not.
        ridge: isotropic ridge, relative to the kernel's mean diagonal.
        depth: Fourier layers, all with this activation, prior, bias and root mean square of the pre-activation.
        octave_factors: factors on the prior's variances at |k| = 0, 1 <= |k| < 2, 2 <= |k| < 4, 4 <= |k| < 8, ...,
            the last one for all octaves that follow; empty for the prior as it stands.
        resolution: points along each axis of the grid on which the closed form is solved, functions being brought to
            it and back by trigonometric interpolation; empty for the data's own.
    """

    activation: str = "matern72"
    input_norm: float = 0.5
    mode_scale: float = 1.0
    decay: float = 1.0
    bias: float = 0.0
    train_filters: bool = False
    reflection: int = 0
    ridge: float = 1e-9
    depth: int = 1
    octave_factors: tuple[float, ...] = ()
    resolution: tuple[int, ...] = ()
    place: float = 0.0

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ForetrainError(f"depth: expected at least one Fourier layer, came {self.depth}")
        if not all(0 <= factor < np.inf for factor in self.octave_factors):
            raise ForetrainError(
                f"octave_factors: expected variances, numbers of at least 0, came {self.octave_factors}"
            )

    def __str__(self) -> str:
        parts = [f"{self.activation}", f"input norm {self.input_norm:g}"]
        parts += [f"{self.depth} layers"] if self.depth > 1 else []
        parts.append(f"filters ~ (1 + (k/{self.mode_scale:g})^2)^-{self.decay:g}")
        factors = ", ".join(f"{factor:.2g}" for factor in self.octave_factors)
        parts += [f"octaves times {factors}"] if factors else []
        parts += [f"bias {self.bias:g}"] if self.bias else []
        parts += [f"place {self.place:g}"] if self.place else []
        parts += ["filters trained"] if self.train_filters else []
        parts += ["odd reflection" if self.reflection < 0 else "even reflection"] if self.reflection else []
        parts.append(f"ridge {self.ridge:g}")
        parts += ["solved on " + " x ".join(map(str, self.resolution)) + " points"] if self.resolution else []
        return ", ".join(parts)

    @property
    def bias_variance(self) -> float:
        """E[b(y)^2]."""
        return self.bias**2 + self.place**2

    def bias_covariance(self, grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
        """E[b(y) b(y')] = bias^2 + place^2 mean_a cos(2 pi (y_a - y'_a)) at all shifts, one number without a place."""
        return np.asarray(self.bias**2) if not self.place else self.bias**2 + self.place**2 * one_wave(grid_shape)

    def prior(self, grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Variances of the filters' Fourier coefficients over the half spectrum, up to the factor of `input_norm`."""
        squared = squared_wave_numbers(grid_shape)
        variances = (1 + squared / self.mode_scale**2) ** -self.decay
        if not self.octave_factors:
            return variances
        octaves = np.minimum(octave_of(grid_shape), len(self.octave_factors) - 1)
        return variances * np.asarray(self.octave_factors)[octaves]


def one_wave(grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
    """The mean over the axes of cos(2 pi s_a), at all shifts."""
    axes = [np.cos(2 * np.pi * np.arange(size) / size) for size in grid_shape]
    return np.mean(np.meshgrid(*axes, indexing="ij"), axis=0)


def squared_wave_numbers(grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
    """|k|^2 over the half spectrum of the grid."""
    wave_numbers = [np.fft.fftfreq(size, 1 / size) for size in grid_shape[:-1]]
    wave_numbers.append(np.arange(grid_shape[-1] // 2 + 1, dtype=float))
    return np.asarray(sum(axis**2 for axis in np.meshgrid(*wave_numbers, indexing="ij")))


def octave_of(grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Number of each wave number's octave over the half spectrum: 0 for |k| = 0, 1 + floor(log2 |k|) for others."""
    squared = squared_wave_numbers(grid_shape).astype(int)
    # The exponent of a binary fraction: exact, where a logarithm may fall on either side of a power of two.
    return np.where(squared == 0, 0, (np.frexp(squared)[1] + 1) // 2)
