"""The shallow Fourier operator with a filter on both sides of the nonlinearity."""

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale, RawValues, common_grid_shape
from foretrain.models._activations import activation_function
from foretrain.models._shallow_fourier import fourier_table, half_space_modes

FEWEST_SAMPLES = 32
SPARE_SAMPLES = 8


@dataclass(frozen=True)
class FilteredFourierOperator:
    """A shallow Fourier operator whose readout is a filter too, before its weights are drawn.

        G(u) = sum_{r<=m} q_r * sigma( w_r * u + b_r )

    on a periodic grid; the filters w_r keep `modes` wave numbers, the outer filters q_r keep `output_modes`. The outer
    layer stays linear, and its least-squares problem falls apart into one for each output wave number. One neuron
    is used at every distance from the point it contributes to: what a pointwise readout needs many neurons for.

    Arguments:
        width: m, the number of filter pairs.
        modes, output_modes: largest wave number along each axis, inside and outside.
        activation: sigma, by name.
        input_norm: standard deviation of the pre-activations at the start, and of the biases.
        decay: filter prior, the Fourier coefficient at wave number k has variance proportional to (1 + |k|^2)^-decay.
        freedom: degrees of freedom of the Student-t the filters are drawn from; `math.inf` for a Gaussian.
        reflection: s = +-1 if the operator is to commute with u(x) -> s u(-x) as well, 0 if not.
        samples: points along each axis at which the neurons are evaluated; the grid's own number at most.
            None for 32, or for eight more than twice the output modes if that is more.

    Raises:
        ForetrainError: sizes below one, an unknown activation or reflection.

    **Assumption:** inputs and outputs live on one regular periodic grid, and the outputs have nothing beyond
    `output_modes`. With fewer samples than grid points, shifts between the samples are kept only up to aliasing.
    """

    width: int
    modes: int = 24
    output_modes: int = 12
    activation: str = "tanh"
    input_norm: float = 1.5
    decay: float = 2.0
    freedom: float = 7.0
    reflection: int = 0
    samples: int | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.modes, self.output_modes) < 1:
            raise ForetrainError(
                "expected width, modes and output_modes of at least 1, "
                f"came {self.width}, {self.modes} and {self.output_modes}"
            )
        if self.samples is not None and self.samples <= 2 * self.output_modes:
            raise ForetrainError(
                f"samples: expected more than twice the {self.output_modes} output modes, came {self.samples}"
            )
        if not (self.input_norm > 0 and self.freedom > 0):
            raise ForetrainError(
                f"expected a positive input_norm and freedom, came {self.input_norm:g} and {self.freedom:g}"
            )
        if self.reflection not in (-1, 0, 1):
            raise ForetrainError(f"expected a reflection of -1, 0 or 1, came {self.reflection}")
        activation_function(self.activation)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "FilteredFourierNetwork":
        """Draws filters and biases; the outer filters start at zero.

        Raises:
            DataError: if inputs and outputs are not on one regular grid, or the inputs have none of the modes.
        """
        shape = common_grid_shape(data)
        if shape is None:
            raise DataError("a Fourier operator: expected inputs and outputs on one regular grid, came other points")
        wanted = self.samples or max(FEWEST_SAMPLES, 2 * self.output_modes + SPARE_SAMPLES)
        sampled = tuple(min(size, wanted) for size in shape)
        waves = half_space_modes(len(shape), [min(self.modes, (size - 1) // 2) for size in shape])
        output_waves = half_space_modes(len(shape), [min(self.output_modes, (size - 1) // 2) for size in sampled])
        table = fourier_table(waves, _grid(shape))
        count = len(waves)
        coefficients = data.inputs @ table / len(table)
        power = np.mean(coefficients[:, :count] ** 2 + coefficients[:, count:] ** 2, axis=0)
        feature_scale = (1.0 + np.sum(waves**2, axis=1)) ** (-self.decay / 2)
        variance = float(np.sum(power * feature_scale**2))
        if not np.sum(power) > 1e-12 * np.mean(data.inputs**2):
            raise DataError(
                f"a Fourier operator: expected inputs with wave numbers up to {self.modes}, came none; raise modes"
            )
        feature_scale *= self.input_norm / math.sqrt(variance)
        filter_key, tail_key, bias_key = jax.random.split(key, 3)
        filters = jax.random.normal(filter_key, (2 * count, self.width))
        if math.isfinite(self.freedom):
            filters /= jnp.sqrt(jax.random.chisquare(tail_key, self.freedom, shape=(self.width,)) / self.freedom)
        scale = OutputScale.of(data.outputs)
        if self.reflection == -1:
            scale = OutputScale(0.0, scale.scale)  # a constant is not odd
        return FilteredFourierNetwork(
            filters=filters,
            biases=self.input_norm * jax.random.normal(bias_key, (self.width,)),
            readout=jnp.zeros((len(output_waves), 2 * self.width)),
            table=jnp.asarray(table, jnp.float32),
            feature_scale=jnp.asarray(np.tile(feature_scale, 2), jnp.float32),
            sample_table=jnp.asarray(fourier_table(waves, _grid(sampled)), jnp.float32),
            analysis=jnp.asarray(fourier_table(output_waves, _grid(sampled)) / math.prod(sampled), jnp.float32),
            synthesis=jnp.asarray(fourier_table(output_waves, _grid(shape)), jnp.float32),
            activation=self.activation,
            reflection=self.reflection,
            scale=scale,
        )


class FilteredFourierNetwork(eqx.Module):
    """A drawn operator of this form: `network(inputs, points)` on its own grid, physical units.

    With h_r = sigma(w_r * u + b_r), g_r the same for the reflected input s u(-x), reflected back, and Q = A + i B the
    coefficients of the outer filters, the normalised output has the Fourier coefficients

        G_k = sum_r A_kr (h_r + s g_r)_k + i B_kr (h_r - s g_r)_k        (without reflection: Q_kr (h_r)_k).

    Attributes:
        filters: [2 modes, width], in units of the prior; biases: [width].
        readout: (A, B), [output modes, 2 width].
        table, sample_table: waves of the input on the grid and on the samples; analysis, synthesis: waves of the
            output on the samples and on the grid; feature_scale: the prior, [2 modes]. None of them is trained.
    """

    filters: Float[Array, "features width"]
    biases: Float[Array, " width"]
    readout: Float[Array, "output_modes twice_width"]
    table: Float[Array, "points features"]
    feature_scale: Float[Array, " features"]
    sample_table: Float[Array, "samples features"]
    analysis: Float[Array, "samples twice_output_modes"]
    synthesis: Float[Array, "points twice_output_modes"]
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
        coefficients = jnp.einsum("kcnr,kr->nck", self.hidden(self.coefficients(inputs)), self.readout)
        real, imaginary = coefficients[:, 0] * self.multiplicity, coefficients[:, 1] * self.multiplicity
        return jnp.concatenate([real, -imaginary], axis=-1) @ self.synthesis.T

    @property
    def embedding(self) -> RawValues:
        """None: the scaling is part of the features."""
        return RawValues()

    def trained(self) -> "FilteredFourierNetwork":
        """The same tree with True at the weights that training moves."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda network: (network.filters, network.biases, network.readout), nothing, (True,) * 3)

    @property
    def multiplicity(self) -> Float[Array, " output_modes"]:
        """How often a coefficient of the half spectrum counts: the constant, which comes first, once, others twice."""
        return jnp.full(len(self.readout), 2.0, self.table.dtype).at[0].set(1.0)

    @property
    def samples(self) -> int:
        """Points at which neurons are evaluated."""
        return len(self.sample_table)

    def output_spectrum(
        self, targets: Float[np.ndarray, "functions points"]
    ) -> Float[np.ndarray, "output_modes 2 functions"]:
        """Real and imaginary parts of the coefficients of normalised outputs, in double precision."""
        synthesis, count = np.asarray(self.synthesis, np.float64), len(self.readout)
        analysed = targets @ synthesis / len(synthesis)
        return np.stack([analysed[:, :count].T, -analysed[:, count:].T], axis=1)

    def coefficients(self, inputs: Float[ArrayLike, "functions points"]) -> Float[Array, "functions features"]:
        """Fourier coefficients of the inputs, (Re u_k, -Im u_k), times the prior's scale."""
        return jnp.asarray(inputs, self.table.dtype) @ self.table * (self.feature_scale / self.table.shape[0])

    def hidden(
        self, coefficients: Float[Array, "functions features"]
    ) -> Float[Array, "output_modes 2 functions twice_width"]:
        """What the outer layer combines: for each output wave number, real and imaginary parts of its features."""
        count = self.table.shape[1] // 2
        real, imaginary = coefficients[:, None, :count], -coefficients[:, None, count:]
        cosine, sine = self.sample_table[:, :count], self.sample_table[:, count:]
        turned = jnp.concatenate([real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-1)
        sigma = activation_function(self.activation)
        neurons = sigma(turned @ self.filters + self.biases)
        if not self.reflection:
            spectrum = self._spectrum(neurons)
            return _complex_features(spectrum, spectrum)
        flip = self.reflection * jnp.where(jnp.arange(2 * count) < count, 1, -1).astype(turned.dtype)
        mirrored = self.reflection * sigma(turned @ (flip[:, None] * self.filters) + self.biases)
        return _complex_features(self._spectrum(neurons + mirrored), self._spectrum(neurons - mirrored))

    def _spectrum(
        self, neurons: Float[Array, "functions samples width"]
    ) -> Float[Array, "2 output_modes functions width"]:
        coefficients = jnp.einsum("xk,nxr->knr", self.analysis, neurons)
        count = self.analysis.shape[1] // 2
        return jnp.stack([coefficients[:count], -coefficients[count:]])


def _complex_features(first: Array, second: Array) -> Array:
    """Columns of A, times first, and of B, times i second, in real and imaginary parts."""
    real = jnp.concatenate([first[0], -second[1]], axis=-1)
    imaginary = jnp.concatenate([first[1], second[0]], axis=-1)
    return jnp.stack([real, imaginary], axis=1)


def _grid(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij")
    return np.stack(axes, -1).reshape(-1, len(shape))
