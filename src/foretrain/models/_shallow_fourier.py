"""The translation-equivariant shallow operator: global filters, a pointwise nonlinearity, a readout."""

from dataclasses import dataclass
from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale, RawValues, common_grid_shape
from foretrain.models._activations import activation_function


@dataclass(frozen=True)
class ShallowFourierOperator:
    """A shallow Fourier operator, before its weights are drawn.

        G(u)(y) = sum_{r<=m} readout_r sigma( (w_r * u)(y) + b_r ) + (w_0 * u)(y)

    on a periodic grid, with filters w_r of finitely many Fourier modes. It commutes with translations; with
    `reflection` s = +-1 it is averaged so that it also commutes with u(x) -> s u(-x).

    Arguments:
        width: m, the number of filters.
        modes: largest wave number kept along each axis.
        activation: sigma, by name.
        input_norm: standard deviation of the pre-activations at the start.
        whitening: filter prior between the data's own spectrum (1) and white pre-activations (0).
        reflection: s, or 0 for none.

    Raises:
        ForetrainError: sizes below one, an unknown activation or reflection.

    **Assumption:** inputs and outputs live on one regular periodic grid.
    """

    width: int
    modes: int = 20
    activation: str = "tanh"
    input_norm: float = 1.0
    whitening: float = 0.5
    reflection: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.modes < 1:
            raise ForetrainError(f"expected width and modes of at least 1, came {self.width} and {self.modes}")
        if self.reflection not in (-1, 0, 1):
            raise ForetrainError(f"expected a reflection of -1, 0 or 1, came {self.reflection}")
        activation_function(self.activation)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "ShallowFourierNetwork":
        """Draws the filters; readout and linear part start at zero.

        Raises:
            DataError: if inputs and outputs are not on one regular grid.
        """
        shape = common_grid_shape(data)
        if shape is None:
            raise DataError("a Fourier operator: expected inputs and outputs on one regular grid, came other points")
        wave_numbers = half_space_modes(len(shape), [min(self.modes, (size - 1) // 2) for size in shape])
        positions = np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
        table = fourier_table(wave_numbers, positions)
        coefficients = data.inputs @ table / len(positions)
        count = len(wave_numbers)
        # A mode's real and imaginary parts turn into each other under translation: they share one scale.
        power = np.mean(coefficients[:, :count] ** 2 + coefficients[:, count:] ** 2, axis=0) / 2
        # Modes the inputs do not have must not be amplified into rounding noise.
        power = np.maximum(power, power.max() * 1e-8)
        feature_scale = power ** ((self.whitening - 1) / 2)
        feature_scale *= self.input_norm / np.sqrt(2 * np.sum(power * feature_scale**2))
        filter_key, bias_key = jax.random.split(key)
        scale = OutputScale.of(data.outputs)
        if self.reflection == -1:
            scale = OutputScale(0.0, scale.scale)  # a constant is not odd
        return ShallowFourierNetwork(
            filters=jax.random.normal(filter_key, (2 * count, self.width)),
            biases=self.input_norm * jax.random.normal(bias_key, (self.width,)),
            readout=jnp.zeros(self.width),
            linear=jnp.zeros(2 * count),
            table=jnp.asarray(table, jnp.float32),
            feature_scale=jnp.asarray(np.concatenate([feature_scale, feature_scale]), jnp.float32),
            activation=self.activation,
            reflection=self.reflection,
            scale=scale,
        )


class ShallowFourierNetwork(eqx.Module):
    """A shallow Fourier operator with drawn weights: `network(inputs, points)` on its own grid, physical units.

    The features at a grid point y are the Fourier coefficients of the input translated to y,

        x(u, y) = feature_scale (Re(u_k e^{2 pi i k y}), Im(u_k e^{2 pi i k y})),   u_k = mean_x u(x) e^{-2 pi i k x},

    and the normalised output is readout . sigma(x . filters + biases) + x . linear; with a reflection s the same is
    added, times s, at the features of the reflected input, (s Re, -s Im).

    Attributes:
        table: (cos 2 pi k x, sin 2 pi k x) on the grid, [points, 2 modes]; not trained.
        feature_scale: [2 modes]; not trained.
    """

    filters: Float[Array, "features width"]
    biases: Float[Array, " width"]
    readout: Float[Array, " width"]
    linear: Float[Array, " features"]
    table: Float[Array, "points features"]
    feature_scale: Float[Array, " features"]
    activation: str = eqx.field(static=True)
    reflection: int = eqx.field(static=True)
    scale: OutputScale = eqx.field(static=True)

    def __call__(
        self, inputs: Float[ArrayLike, "functions points"], points: Float[ArrayLike, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The operator's values on its grid, in physical units; `points` is there for the common signature."""
        return self.normalised(inputs) * self.scale.scale + self.scale.offset

    def normalised(
        self, inputs: Float[ArrayLike, "functions points"], points: Float[ArrayLike, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The operator of the equation: inputs as they are to normalised outputs."""
        return self.hidden(self.features(inputs)) @ self.outer

    @property
    def embedding(self) -> RawValues:
        """None: the scaling is part of the features."""
        return RawValues()

    def trained(self) -> "ShallowFourierNetwork":
        """The same tree with True at the weights that training moves."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(
            lambda network: (network.filters, network.biases, network.readout, network.linear), nothing, (True,) * 4
        )

    @property
    def outer(self) -> Float[Array, " width+features"]:
        """The linear outer layer: readout and linear part."""
        return jnp.concatenate([self.readout, self.linear])

    def features(self, inputs: Float[ArrayLike, "functions points"]) -> Float[Array, "functions points features"]:
        """x(u, y) for every function and every grid point."""
        inputs = jnp.asarray(inputs, self.table.dtype)
        count = self.table.shape[1] // 2
        coefficients = inputs @ self.table / self.table.shape[0]
        real, imaginary = coefficients[:, None, :count], -coefficients[:, None, count:]
        cosine, sine = self.table[:, :count], self.table[:, count:]
        turned = jnp.concatenate([real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-1)
        return turned * self.feature_scale

    def hidden(self, features: Float[Array, "*rows features"]) -> Float[Array, "*rows width+features"]:
        """The inner layer: neurons (averaged over the reflection) and, for the linear part, the features."""
        sigma = activation_function(self.activation)
        neurons = sigma(features @ self.filters + self.biases)
        if not self.reflection:
            return jnp.concatenate([neurons, features], axis=-1)
        count = self.table.shape[1] // 2
        flip = self.reflection * jnp.concatenate([jnp.ones(count), -jnp.ones(count)]).astype(features.dtype)
        mirrored = features * flip
        neurons = neurons + self.reflection * sigma(mirrored @ self.filters + self.biases)
        return jnp.concatenate([neurons, features + self.reflection * mirrored], axis=-1)


def half_space_modes(dimension: int, largest: list[int]) -> np.ndarray:
    """Integer wave vectors, one of each pair +-k, zero included: [modes, dimension]."""
    ranges = [range(-limit, limit + 1) for limit in largest[:-1]] + [range(largest[-1] + 1)]
    kept = [k for k in product(*ranges) if k[-1] > 0 or next((x for x in k if x), 0) > 0 or not any(k)]
    return np.asarray(sorted(kept, key=lambda k: (sum(x * x for x in k), k)), dtype=int).reshape(-1, dimension)


def fourier_table(wave_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(cos 2 pi k x, sin 2 pi k x) at positions in [0, 1)^d, [positions, 2 modes]."""
    angle = 2 * np.pi * positions @ wave_numbers.T
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
