"""An operator of layers, each a shallow operator of local random neurons and global filters."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale, RawValues, common_grid_shape
from foretrain.models._activations import activation_function

Ends = Literal["zero", "free", "periodic"]
BORDER = 0.03
"""Of the outputs' root mean square: a grid's outermost nodes with less than this lie on a boundary of zeros."""
VALUES_AT_ONCE = 2**21
"""Values of neurons computed at once, all images counted."""
SHARE_OF_GATES_ALONE = 0.2
"""Of the neurons, that do not see the answer so far."""


@dataclass(frozen=True)
class LayeredOperator:
    """A stack of shallow operators on a box, before it is drawn.

        u_0 = mean output,   u_l = u_(l-1) + sum_{r<=m} F_lr [ h_lr ]
        h_lr(x) = sum_g sigma( (g w_lr) * a + (g z_lr) * u_(l-1) + b_lr )(x) ( (g v_lr) * u_(l-1) + c_lr )(x)

    Each layer looks at the input a through small random windows w and lets these gates multiply what small random
    windows v see of the answer so far (c = 0), or nothing (v = 0, c = 1). Gates see the input alone (z = 0: the answer
    obeys a linear law, whose coefficients the input is) or the answer as well. F are filters between sines, cosines or
    waves, functions of the wave number |k| alone, piecewise linear in log(1 + |k|): all that is trained, and linear, so
    that a layer is a least-squares problem. g runs over the symmetries of the box, which the operator has exactly then.

    Arguments:
        width: m, neurons of a layer, each of which counts once, whatever the number of symmetries.
        layers: how many.
        ends: what outputs do beyond the grid: vanish on the boundary ("zero"; outermost nodes on which all training
            outputs are nearly zero are the boundary, otherwise it is one spacing further), go on evenly ("free"), or
            start again ("periodic").
        symmetric: whether to sum over the symmetries of the box; otherwise g is the identity.
        reach, answer_reach: of the windows w and v, z, in nodes to either side.
        answers_gate: whether gates see the answer so far.
        knots: of the filters.
        activation: sigma, by name.

    Raises:
        ForetrainError: sizes out of range, unknown ends or an unknown activation.

    **Assumption:** inputs and outputs live on one regular grid of one or two axes, from end to end of the box.

    Source: docs/decisions/0010.
    """

    width: int = 32
    layers: int = 6
    ends: Ends = "zero"
    symmetric: bool = True
    reach: int = 2
    answer_reach: int = 1
    knots: int = 6
    activation: str = "tanh"
    answers_gate: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.layers) < 1 or self.knots < 2 or min(self.reach, self.answer_reach) < 0:
            raise ForetrainError(f"expected a width and layers of at least 1, knots of at least 2, came {self}")
        if self.ends not in get_args(Ends):
            raise ForetrainError(f"ends: expected one of {', '.join(get_args(Ends))}, came {self.ends!r}")
        activation_function(self.activation)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> "LayeredNetwork":
        """Draws the windows; the filters start at zero, so that every output is the mean of the training outputs.

        Raises:
            DataError: if inputs and outputs are not on one regular grid of one or two axes, of at least five points
                each, or inputs or outputs have nothing to learn from.
        """
        shape = common_grid_shape(data)
        if shape is None or len(shape) > 2 or min(shape) < 5:
            raise DataError(
                "a layered operator: expected inputs and outputs on one regular grid of one or two axes with at least "
                "5 points each, came other points"
            )
        spread = float(np.std(data.inputs))
        scale = float(np.sqrt(np.mean(data.outputs**2)))
        if not min(spread, scale) > 0:
            raise DataError(
                "a layered operator: expected inputs that differ and outputs other than zero, came one value of "
                "either; nothing can be learnt"
            )
        mean = data.outputs.mean(axis=0).reshape(shape) / scale
        vanishing = boundary_nodes(data.outputs.reshape(-1, *shape))
        if self.ends != "zero":
            vanishing = [(False, False)] * len(shape)
        inside = [(int(first), size - int(last)) for size, (first, last) in zip(shape, vanishing, strict=True)]
        lengths = np.ptp(data.query_points, axis=0) / (np.array(shape) - 1) * [stop - start for start, stop in inside]
        axes = [
            _Axis(size, start, stop, length / lengths.min(), self)
            for size, (start, stop), length in zip(shape, inside, lengths, strict=True)
        ]
        axes += [_Axis(1, 0, 1, 1.0, self)] * (2 - len(axes))
        gate_window, answer_window = (_window(axes, reach) for reach in (self.reach, self.answer_reach))
        alone = np.arange(self.width) < round(SHARE_OF_GATES_ALONE * self.width)
        sizes = [gate_window.size, answer_window.size]
        # One draw, as every other shape would be compiled anew.
        draw = np.asarray(jax.random.normal(key, (self.layers, self.width, sum(sizes) + 1)))
        gates, windows, thresholds = np.split(draw, np.cumsum(sizes), axis=2)
        answer_gates = np.zeros_like(windows)
        if self.answers_gate:
            further = jax.random.normal(jax.random.fold_in(key, 1), answer_gates.shape)
            answer_gates = np.asarray(further) * answer_window.ravel()
        waves = np.hypot(axes[0].waves[:, None], axes[1].waves).ravel()
        return LayeredNetwork(
            gates=_single(gates * gate_window.ravel()),
            thresholds=_single(thresholds[..., 0]),
            answer_gates=_single(answer_gates),
            windows=_single(np.where(alone[:, None], 0.0, windows * answer_window.ravel())),
            offsets=_single(np.tile(alone, (self.layers, 1))),
            filters=jnp.zeros((self.layers, self.knots, self.width)),
            start=_single(mean),
            hats=_single(_hats(np.log1p(waves), self.knots)),
            tables=tuple(_single(axis.table) for axis in axes),
            input_places=tuple(axis.input_places for axis in axes),
            answer_places=tuple(axis.answer_places for axis in axes),
            answer_signs=tuple(_single(axis.answer_signs) for axis in axes),
            gate_window=gate_window.shape,
            answer_window=answer_window.shape,
            inside=tuple((axis.start, axis.stop) for axis in axes),
            symmetric=self.symmetric,
            square=len(shape) == 2 and bool(np.ptp(np.diff(inside)) == 0 and np.ptp(lengths) < 1e-3 * lengths.max()),
            activation=self.activation,
            centre=float(np.mean(data.inputs)),
            spread=spread,
            scale=OutputScale(0.0, scale),
        )


class LayeredNetwork(eqx.Module):
    """A drawn operator of this form: `network(inputs, points)` on its own grid, physical units.

    A line is a rectangle with one point across.

    Attributes:
        gates, thresholds: w [layers, width, window] and b [layers, width], drawn.
        answer_gates: z [layers, width, window], drawn, or zero.
        windows, offsets: v [layers, width, window] and c [layers, width], drawn.
        filters: F at the knots, [layers, knots, width]: what is trained.
        start: the mean of the normalised training outputs on the grid; it stays on the boundary.
        hats: piecewise linear functions of the wave number, [knots, modes].
        tables: orthonormal sines, cosines or waves along each axis, [nodes inside, modes].
        input_places, answer_places, answer_signs: how inputs and answers go on beyond the nodes inside.
        square: whether the axes may be exchanged.
    """

    gates: Float[Array, "layers width gate_window"]
    thresholds: Float[Array, "layers width"]
    answer_gates: Float[Array, "layers width answer_window"]
    windows: Float[Array, "layers width answer_window"]
    offsets: Float[Array, "layers width"]
    filters: Float[Array, "layers knots width"]
    start: Float[Array, "..."]
    hats: Float[Array, "knots modes"]
    tables: tuple[Float[Array, "nodes modes"], ...]
    input_places: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    answer_places: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    answer_signs: tuple[Float[Array, " nodes"], ...]
    gate_window: tuple[int, ...] = eqx.field(static=True)
    answer_window: tuple[int, ...] = eqx.field(static=True)
    inside: tuple[tuple[int, int], ...] = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    square: bool = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    centre: float = eqx.field(static=True)
    spread: float = eqx.field(static=True)
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
        medium = self.medium(inputs)
        parts = [self._answers(medium[start : start + self.chunk]) for start in range(0, len(medium), self.chunk)]
        (start, stop), (left, right) = self.inside
        grid = jnp.broadcast_to(self.start.reshape(self.shape), (len(medium), *self.shape))
        grid = grid.at[:, start:stop, left:right].set(jnp.concatenate([self.first_answers(0), *parts]))
        return grid.reshape(len(medium), -1)

    @property
    def embedding(self) -> RawValues:
        """None: the scaling is part of the features."""
        return RawValues()

    def trained(self) -> "LayeredNetwork":
        """The same tree with True at the weights that training moves."""
        return eqx.tree_at(lambda network: network.filters, jax.tree.map(lambda _: False, self), True)

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes along the axes, the second one 1 on a line."""
        return len(self.start), self.start.size // len(self.start)

    @property
    def symmetries(self) -> int:
        """How many symmetries every neuron is summed over."""
        axes = sum(size > 1 for size in self.shape)
        return 2**axes * (2 if self.square else 1) if self.symmetric else 1

    @property
    def chunk(self) -> int:
        """Functions that are looked at together."""
        values = math.prod(stop - start for start, stop in self.inside) * self.symmetries * self.gates.shape[1]
        return max(1, VALUES_AT_ONCE // values)

    def medium(self, inputs: Float[ArrayLike, "functions points"]) -> Float[Array, "functions nodes nodes_across"]:
        """Normalised inputs on the nodes inside and as far beyond as windows reach."""
        values = (jnp.asarray(inputs, self.filters.dtype).reshape(-1, *self.shape) - self.centre) / self.spread
        return values[:, np.array(self.input_places[0])][:, :, np.array(self.input_places[1])]

    def first_answers(self, functions: int) -> Float[Array, "functions nodes nodes_across"]:
        """u_0 on the nodes inside."""
        (start, stop), (left, right) = self.inside
        mean = self.start.reshape(self.shape)[start:stop, left:right]
        return jnp.broadcast_to(mean, (functions, *mean.shape))

    def inner(self, outputs: Float[ArrayLike, "functions points"]) -> Float[Array, "functions nodes nodes_across"]:
        """Outputs in physical units, normalised, on the nodes inside."""
        (start, stop), (left, right) = self.inside
        values = self.scale.normalise(np.asarray(outputs, np.float64)).reshape(-1, *self.shape)
        return jnp.asarray(values[:, start:stop, left:right], self.filters.dtype)

    def spectrum(
        self, fields: Float[Array, "functions nodes nodes_across *rest"]
    ) -> Float[Array, "functions modes *rest"]:
        """Coefficients of fields on the nodes inside; their squares add up to the fields'."""
        along, across = self.tables
        series = jnp.tensordot(jnp.tensordot(fields, along, (1, 0)), across, (1, 0))
        series = jnp.moveaxis(series, (-2, -1), (1, 2))
        return series.reshape(len(fields), -1, *fields.shape[3:])

    def neurons(
        self,
        layer: int | Array,
        medium: Float[Array, "functions nodes nodes_across"],
        answers: Float[Array, "functions nodes nodes_across"],
    ) -> Float[Array, "functions modes width"]:
        """Spectra of what a layer's filters act on."""
        rows, columns = (np.array(places) for places in self.answer_places)
        signs = self.answer_signs[0][:, None] * self.answer_signs[1]
        beyond = answers[:, rows][:, :, columns] * signs
        gates = self._images(self.gates[layer], self.gate_window)
        windows = self._images(self.windows[layer], self.answer_window)
        shift, offset = self.thresholds[layer], self.offsets[layer]
        seen, felt = _views(medium, self.gate_window), _views(beyond, self.answer_window)
        sigma = activation_function(self.activation)
        back = self._images(self.answer_gates[layer], self.answer_window)
        gated = sigma(seen @ gates.T + felt @ back.T + jnp.tile(shift, self.symmetries))
        gated = gated * (felt @ windows.T + jnp.tile(offset, self.symmetries))
        fields = jnp.sum(gated.reshape(*answers.shape, self.symmetries, -1), axis=-2)
        return self.spectrum(fields)

    def corrected(
        self,
        answers: Float[Array, "functions nodes nodes_across"],
        neurons: Float[Array, "functions modes width"],
        filters: Float[Array, "knots width"],
    ) -> Float[Array, "functions nodes nodes_across"]:
        """The next answers: filters act on the neurons' spectra."""
        along, across = self.tables
        series = jnp.einsum("nkr,kr->nk", neurons, self.hats.T @ filters)
        series = series.reshape(-1, along.shape[1], across.shape[1])
        return answers + along @ series @ across.T

    @eqx.filter_jit
    def _answers(self, medium: Array) -> Array:
        answers = self.first_answers(len(medium))
        for layer in range(len(self.filters)):
            answers = self.corrected(answers, self.neurons(layer, medium, answers), self.filters[layer])
        return answers

    def _images(self, weights: Float[Array, "width window"], window: tuple[int, ...]) -> Any:
        """Windows under the symmetries of the box, one symmetry after the other, [symmetries width, window]."""
        grid = weights.reshape(-1, *window)
        images = [grid]
        if self.symmetric:
            axes = [axis for axis, size in enumerate(self.shape, start=1) if size > 1]
            turned = [grid, jnp.swapaxes(grid, 1, 2)] if self.square else [grid]
            flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]
            images = [jnp.flip(image, flip) for image in turned for flip in flips]
        return jnp.concatenate([image.reshape(len(weights), -1) for image in images])


class _Axis:
    """One axis: its nodes inside, how functions go on beyond them, and its waves."""

    def __init__(self, size: int, start: int, stop: int, length: float, operator: LayeredOperator) -> None:
        self.start, self.stop = start, stop
        count, ends = stop - start, operator.ends
        reach, answer_reach = (0, 0) if size == 1 else (operator.reach, operator.answer_reach)
        seen, felt = np.arange(start - reach, stop + reach), np.arange(-answer_reach, count + answer_reach)
        self.input_places = _as_tuple(seen % size if ends == "periodic" else np.clip(seen, 0, size - 1))
        self.answer_signs = np.ones(len(felt))
        modes, nodes = np.arange(count), np.arange(count)
        if size == 1:
            self.table, self.waves = np.ones((1, 1)), np.zeros(1)
        elif ends == "zero":
            folded = (felt + 1) % (2 * count + 2)
            self.answer_signs = np.sign(np.sin(np.pi * folded / (count + 1)).round(9))
            felt = np.clip(np.minimum(folded, 2 * count + 2 - folded) - 1, 0, count - 1)
            self.table = np.sin(np.pi * np.outer(nodes + 1, modes + 1) / (count + 1))
            self.waves = (modes + 1) / length
        elif ends == "free":
            felt = np.minimum(felt % (2 * count), 2 * count - 1 - felt % (2 * count))
            self.table = np.cos(np.pi * np.outer(nodes + 0.5, modes) / count)
            self.waves = modes / length
        else:
            felt = felt % count
            numbers = (modes + 1) // 2
            angles = 2 * np.pi * np.outer(nodes, numbers) / count
            self.table = np.where(modes % 2 == 1, np.cos(angles), np.where(modes == 0, 1.0, np.sin(angles)))
            if count % 2 == 0:
                self.table[:, -1] = np.cos(np.pi * nodes)
            self.waves = 2 * numbers / length
        self.answer_places = _as_tuple(felt)
        self.table = self.table / np.linalg.norm(self.table, axis=0)


def boundary_nodes(outputs: Float[np.ndarray, "functions *nodes"]) -> list[tuple[bool, bool]]:
    """For each axis, whether the outputs nearly vanish at its first and at its last nodes."""
    limit, found = BORDER * np.sqrt(np.mean(outputs**2)), []
    for axis in range(1, outputs.ndim):
        outermost = np.moveaxis(outputs, axis, 0)[[0, -1]].reshape(2, -1)
        first, last = np.sqrt(np.mean(outermost**2, axis=1)) < limit
        found.append((bool(first), bool(last)))
    return found


def _window(axes: list[_Axis], reach: int) -> Float[np.ndarray, "nodes nodes_across"]:
    """Standard deviations of random weights, a bell of unit norm."""
    distances = [np.arange(-reach, reach + 1) if len(axis.table) > 1 else np.zeros(1) for axis in axes]
    bell = np.exp(-0.5 * np.add.outer(distances[0] ** 2, distances[1] ** 2))
    return bell / np.linalg.norm(bell)


def _views(fields: Float[Array, "functions nodes nodes_across"], window: tuple[int, ...]) -> Any:
    """What a window sees at every node, [functions, nodes, nodes_across, window]."""
    (along, across), (height, breadth) = window, fields.shape[1:]
    first, second = np.arange(height - along + 1), np.arange(breadth - across + 1)
    corners = np.add.outer(first * breadth, second)
    places = corners[:, :, None] + np.add.outer(np.arange(along) * breadth, np.arange(across)).ravel()
    return fields.reshape(len(fields), -1)[:, places]


def _hats(positions: Float[np.ndarray, " modes"], knots: int) -> Float[np.ndarray, "knots modes"]:
    """Piecewise linear functions, one at its knot and zero at the others."""
    places = np.linspace(positions.min(), positions.max(), knots)
    return np.stack([np.interp(positions, places, row) for row in np.eye(knots)])


def _as_tuple(places: np.ndarray) -> tuple[int, ...]:
    return tuple(int(place) for place in places)


def _single(values: np.ndarray) -> Array:
    return jnp.asarray(values, jnp.float32)
