"""A shallow operator with filters on both sides of the nonlinearity, on a box whose ends do not meet."""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale, RawValues, common_grid_shape
from foretrain.models._activations import activation_function

AT_THE_ENDS = 1e-6
"""Of the outputs' root mean square: values at the ends of an axis below this are zero."""
BIAS_SHARE = 1.0
"""Standard deviation of what biases vary by over the box, in units of the pre-activations'."""


@dataclass(frozen=True)
class FilteredBoxOperator:
    """A shallow operator between the cosine series of its inputs and the series of its outputs, before it is drawn.

        h_r(y) = sigma( sum_k w_rk u_k c_k(y) + b_r(y) ),      b_r(y) = sum_k b_rk c_k(y)
        G(u)(x) = sum_k s_k(x) ( q_k + sum_r sum_p q_rpk <t_pk, h_r> )

    on a line or a rectangle: u_k are the inputs' cosine coefficients, c_k cosines. For every p, t_pk is along each axis
    one of sin(pi (k + 1) x), cos(pi k x) and cos(pi (k + 2) x), k from 0 on: the mode's own wave and its neighbours, as
    a box has no translations that would keep them apart. s_k are sines along the axes at whose ends all training
    outputs vanish (Dirichlet), cosines along others. Biases may vary over the box, as the equation's source does. The
    outer layer stays linear, and its least-squares problem falls apart into one for each output mode.

    Arguments:
        width: m, the number of neurons.
        modes, output_modes: cosines of the inputs and modes of the outputs along each axis.
        bias_modes: cosines of the biases along each axis; 1 for constants.
        activation: sigma, by name.
        input_norm: standard deviation of the pre-activations at the start, and of the biases.
        decay: filter prior, the coefficient at wave number k has variance proportional to (9 + |k|^2)^-decay.

    Raises:
        ForetrainError: sizes below one, an input_norm that is not positive, or an unknown activation.

    **Assumption:** inputs and outputs live on one regular grid of one or two axes, from end to end of the box.

    Source: docs/decisions/0008.
    """

    width: int
    modes: int = 10
    output_modes: int = 12
    bias_modes: int = 4
    activation: str = "tanh"
    input_norm: float = 0.5
    decay: float = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.modes, self.output_modes, self.bias_modes) < 1:
            raise ForetrainError(f"expected a width and modes of at least 1, came {self}")
        if not self.input_norm > 0:
            raise ForetrainError(f"expected a positive input_norm, came {self.input_norm:g}")
        activation_function(self.activation)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "FilteredBoxNetwork":
        """Draws filters and biases; the outer layer starts at zero.

        Raises:
            DataError: if inputs and outputs are not on one regular grid of one or two axes, of at least three points
                each, or the inputs have none of the modes.
        """
        shape = common_grid_shape(data)
        if shape is None or len(shape) > 2 or min(shape) < 3:
            raise DataError(
                "a filtered box operator: expected inputs and outputs on one regular grid of one or two axes with at "
                "least 3 points each, came other points"
            )
        sine = _vanishing_axes(data.outputs, shape)
        axes = [_Axis(size, self, dirichlet) for size, dirichlet in zip(shape, sine, strict=True)]
        axes += [_Axis(1, self, False)] * (2 - len(axes))
        centre = float(np.mean(data.inputs))
        grid = (len(data), axes[0].size, axes[1].size)
        coefficients = _contracted((data.inputs - centre).reshape(grid), *(axis.input_analysis for axis in axes))
        power = np.mean(coefficients**2, axis=0)
        if not np.sum(power) > 1e-12 * np.mean((data.inputs - centre) ** 2):
            raise DataError(
                f"a filtered box operator: expected inputs with some of the first {self.modes} cosines, came none; "
                "raise modes"
            )
        prior = (9.0 + _squared_waves(*power.shape)) ** (-self.decay / 2)
        prior *= self.input_norm / math.sqrt(float(np.sum(power * prior**2)))
        bias_shape = tuple(axis.bias_table.shape[1] for axis in axes)
        bias_prior = (1.0 + _squared_waves(*bias_shape)) ** -0.5
        bias_prior[0, 0] = 0.0
        bias_prior *= BIAS_SHARE * self.input_norm / max(math.sqrt(float(np.sum(bias_prior**2))), 1e-12)
        # The constant is learnt by `biases`; its place among the filters is taken by nothing.
        filter_key, bias_key = jax.random.split(key)
        features = power.size + bias_prior.size - 1
        waves = math.prod(axis.output_analysis[0].shape[1] for axis in axes)
        columns = self.width * math.prod(len(axis.output_analysis) for axis in axes) + 1
        return FilteredBoxNetwork(
            filters=jax.random.normal(filter_key, (features, self.width)),
            biases=self.input_norm * jax.random.normal(bias_key, (self.width,)),
            readout=jnp.zeros((waves, columns)),
            prior=_single(prior),
            bias_prior=_single(bias_prior.ravel()[1:]),
            input_analysis=tuple(_single(axis.input_analysis) for axis in axes),
            input_table=tuple(_single(axis.input_table) for axis in axes),
            bias_table=tuple(_single(axis.bias_table) for axis in axes),
            output_analysis=tuple(tuple(_single(table) for table in axis.output_analysis) for axis in axes),
            synthesis=tuple(_single(axis.synthesis) for axis in axes),
            sine=tuple(sine),
            activation=self.activation,
            centre=centre,
            scale=OutputScale.of(data.outputs) if not any(sine) else OutputScale(0.0, _root_mean_square(data.outputs)),
        )


class FilteredBoxNetwork(eqx.Module):
    """A drawn operator of this form: `network(inputs, points)` on its own grid, physical units.

    A line is a rectangle with one point across. All tables are of single axes.

    Attributes:
        filters: w in units of the prior, [modes, width], below them b, [bias modes - 1, width].
        biases: constant part of b, [width].
        readout: q_rpk, p outermost, and last q_k, [output modes, parities width + 1].
        prior, bias_prior: scales, [modes, modes], [bias modes - 1].
        input_analysis, input_table, bias_table, output_analysis, synthesis: tables, [points, modes] for each axis; of
            the output's analysis cosines and sines. None of them is trained.
        sine: for each axis of the grid, whether outputs are sine series.
        centre: subtracted from all inputs.
    """

    filters: Float[Array, "features width"]
    biases: Float[Array, " width"]
    readout: Float[Array, "output_modes columns"]
    prior: Float[Array, "modes modes_across"]
    bias_prior: Float[Array, " bias_modes"]
    input_analysis: tuple[Float[Array, "points modes"], ...]
    input_table: tuple[Float[Array, "points modes"], ...]
    bias_table: tuple[Float[Array, "points bias_modes"], ...]
    output_analysis: tuple[tuple[Float[Array, "points modes"], ...], ...]
    synthesis: tuple[Float[Array, "points modes"], ...]
    sine: tuple[bool, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    centre: float = eqx.field(static=True)
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
        coefficients = jnp.einsum("kcnr,kr->nk", self.hidden(self.coefficients(inputs)), self.readout)
        series = coefficients.reshape(-1, *(table.shape[1] for table in self.synthesis))
        return _contracted(series, *(table.T for table in self.synthesis)).reshape(len(coefficients), -1)

    @property
    def embedding(self) -> RawValues:
        """None: the scaling is part of the features."""
        return RawValues()

    def trained(self) -> "FilteredBoxNetwork":
        """The same tree with True at the weights that training moves."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda network: (network.filters, network.biases, network.readout), nothing, (True,) * 3)

    @property
    def shape(self) -> tuple[int, int]:
        """Points along the axes, the second one 1 on a line."""
        first, second = (len(table) for table in self.synthesis)
        return first, second

    @property
    def samples(self) -> int:
        """Points at which neurons are evaluated."""
        return math.prod(self.shape)

    @property
    def multiplicity(self) -> Float[Array, " output_modes"]:
        """What a squared coefficient adds to the mean square over the points: exact for sine series."""
        share = math.prod((len(table) - 1) / len(table) for table in self.synthesis if len(table) > 1)
        return jnp.full(len(self.readout), share, self.filters.dtype)

    def output_spectrum(
        self, targets: Float[np.ndarray, "functions points"]
    ) -> Float[np.ndarray, "output_modes 1 functions"]:
        """Coefficients of normalised outputs, in double precision."""
        tables = [np.asarray(table, np.float64) for table in self.synthesis]
        weighted = [table * trapezoid(len(table))[:, None] for table in tables]
        series = _contracted(np.asarray(targets).reshape(-1, *self.shape), *weighted)
        return series.reshape(len(targets), 1, -1).T

    def coefficients(self, inputs: Float[ArrayLike, "functions points"]) -> Float[Array, "functions modes"]:
        """Cosine coefficients of the inputs times the prior's scale."""
        values = jnp.asarray(inputs, self.filters.dtype).reshape(-1, *self.shape) - self.centre
        return (_contracted(values, *self.input_analysis) * self.prior).reshape(len(values), -1)

    def hidden(self, coefficients: Float[Array, "functions modes"]) -> Float[Array, "output_modes 1 functions columns"]:
        """What the outer layer combines: for each output mode, every neuron's part in it, and a one."""
        count, functions = coefficients.shape[1], len(coefficients)
        filtered = coefficients[:, :, None] * self.filters[:count]
        filtered = jnp.moveaxis(filtered, 2, 1).reshape(functions, -1, *self.prior.shape)
        values = _contracted(filtered, *(table.T for table in self.input_table)) + self.bias_fields()
        neurons = activation_function(self.activation)(values)
        first, second = self.output_analysis
        parts = [_contracted(neurons, along, across) for along in first for across in second]
        features = jnp.concatenate(parts, axis=1).reshape(functions, -1, len(self.readout))
        features = jnp.concatenate([features, jnp.ones((functions, 1, len(self.readout)), features.dtype)], axis=1)
        return jnp.moveaxis(features, 2, 0)[:, None]

    def bias_fields(self) -> Float[Array, "width points points_across"]:
        """b_r on the grid."""
        varying = self.filters[self.prior.size :] * self.bias_prior[:, None]
        series = jnp.concatenate([self.biases[None], varying]).T
        series = series.reshape(-1, *(table.shape[1] for table in self.bias_table))
        return _contracted(series, *(table.T for table in self.bias_table))


class _Axis:
    """Tables of one axis of so many points, from 0 to 1 with both ends on the grid."""

    def __init__(self, size: int, operator: FilteredBoxOperator, dirichlet: bool) -> None:
        self.size = size
        if size == 1:
            one = np.ones((1, 1))
            self.input_analysis = self.input_table = self.bias_table = self.synthesis = one
            self.output_analysis: tuple[np.ndarray, ...] = (one,)
            return
        most, weights = size - 2, trapezoid(size)[:, None]
        # Between n points n - 2 sines fit.
        waves = np.arange(min(operator.output_modes, most))
        self.input_table = cosines(size, np.arange(min(operator.modes, most)))
        self.input_analysis = self.input_table * weights
        self.bias_table = cosines(size, np.arange(min(operator.bias_modes, most)))
        self.synthesis = sines(size, waves + 1) if dirichlet else cosines(size, waves)
        # What an output mode is made of: the same half wave and its neighbours on either side, cosines for odd steps.
        self.output_analysis = tuple(
            table * weights for table in (sines(size, waves + 1), cosines(size, waves), cosines(size, waves + 2))
        )


def cosines(size: int, waves: np.ndarray) -> Float[np.ndarray, "points modes"]:
    """sqrt(2) cos(pi k x), 1 for k = 0: mean square one over [0, 1]."""
    table = np.cos(np.pi * np.outer(np.arange(size) / (size - 1), waves))
    return table * np.where(waves == 0, 1.0, math.sqrt(2))


def sines(size: int, waves: np.ndarray) -> Float[np.ndarray, "points modes"]:
    """sqrt(2) sin(pi k x)."""
    return math.sqrt(2) * np.sin(np.pi * np.outer(np.arange(size) / (size - 1), waves))


def trapezoid(size: int) -> Float[np.ndarray, " points"]:
    """Weights of the trapezoidal rule on [0, 1], under which these cosines and these sines are orthonormal."""
    if size == 1:
        return np.ones(1)
    weights = np.full(size, 1.0)
    weights[[0, -1]] = 0.5
    return weights / (size - 1)


def _contracted(values: Any, along: Any, across: Any) -> Any:
    """sum_xy values_xy along_xk across_yl, over the last two axes; in NumPy or JAX, as the values are."""
    return along.T @ (values @ across)


def _squared_waves(first: int, second: int) -> Float[np.ndarray, "first second"]:
    return np.add.outer(np.arange(first) ** 2, np.arange(second) ** 2).astype(float)


def _vanishing_axes(outputs: np.ndarray, shape: tuple[int, ...]) -> list[bool]:
    """For each axis, whether all outputs are zero at both of its ends."""
    functions, limit = outputs.reshape(len(outputs), *shape), AT_THE_ENDS * _root_mean_square(outputs)
    ends = [np.take(functions, [0, -1], axis=axis) for axis in range(1, functions.ndim)]
    return [bool(np.max(np.abs(values)) <= limit) for values in ends]


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _single(values: np.ndarray) -> Array:
    return jnp.asarray(values, jnp.float32)
