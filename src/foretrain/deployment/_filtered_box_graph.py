"""The operator with filters on both sides on a box as an ONNX graph: matrices from the left and from the right."""

import math
from typing import Any

import numpy as np

from foretrain.deployment._activation_nodes import activation_nodes
from foretrain.deployment._builder import GraphBuilder
from foretrain.deployment._fourier_table import half_wave_table
from foretrain.deployment._query_points import QueryGrid, box_waves
from foretrain.models import FilteredBoxNetwork

Array = np.ndarray


def filtered_box_graph(builder: GraphBuilder, network: FilteredBoxNetwork, grid: QueryGrid | None = None) -> Any:
    """The network as an ONNX model, "inputs" [batch, points] to "outputs" [batch, points].

    With a grid, query points are its second input.

    Tables of waves are computed by the runtime; their norms and the quadrature's weights are part of filters and
    readout, but for the halves at both ends.
    """
    axes = [_Axis(builder, network, which) for which in range(2)]
    shape = network.shape
    centred = builder.node("Sub", "inputs", builder.constant("centre", network.centre))
    field = builder.node("Reshape", centred, builder.constant("grid", [-1, *shape], np.int64))
    series = _between(builder, axes[0].turned("inputs_of"), field, axes[1].straight("inputs_of"))
    series = builder.node("Unsqueeze", series, builder.constant("neuron_axis", [1], np.int64))
    filtered = builder.node("Mul", series, builder.weight("filters", _filters(network), "inner"))
    values = _between(builder, axes[0].straight("inner"), filtered, axes[1].turned("inner"))
    biases = builder.constant("biases", _bias_series(network))
    fields = _between(builder, axes[0].straight("biases_of"), biases, axes[1].turned("biases_of"))
    neurons = activation_nodes(network.activation)(builder, builder.node("Add", values, fields))
    features = _between(builder, axes[0].turned("outputs_of"), neurons, axes[1].straight("outputs_of"))
    readout, constant = _readout(network)
    features = builder.node("Mul", features, builder.weight("readout", readout, "outer"))
    features = builder.node("ReduceSum", features, "neuron_axis", keepdims=0)
    # [batch, parities, modes, parities, modes]
    sizes = [size for axis in axes for size in (axis.parities, axis.output_modes)]
    features = builder.node("Reshape", features, builder.constant("parities", [-1, *sizes], np.int64))
    coefficients = builder.node("ReduceSum", features, builder.constant("parity_axes", [1, 3], np.int64), keepdims=0)
    coefficients = builder.node("Add", coefficients, builder.constant("constant", constant))
    if grid is None:
        field = _between(builder, axes[0].straight("outer"), coefficients, axes[1].turned("outer"))
        outputs = builder.node("Reshape", field, builder.constant("points_shape", [-1, network.samples], np.int64))
    else:
        outputs = _at_points(builder, network, grid, coefficients)
    if network.scale.offset:
        outputs = builder.node("Add", outputs, builder.constant("offset", float(network.scale.offset)))
    return builder.finish(outputs, network.samples, network.samples, 0 if grid is None else len(grid.shape))


def _at_points(builder: GraphBuilder, network: FilteredBoxNetwork, grid: QueryGrid, coefficients: str) -> str:
    """The output series at the input "points", [batch, points]."""
    modes = tuple(table.shape[1] for table in network.synthesis[: len(grid.shape)])
    flat = builder.constant("series_shape", [-1, math.prod(modes)], np.int64)
    table = box_waves(builder, grid, modes, network.sine[: len(modes)])
    return builder.node("MatMul", builder.node("Reshape", coefficients, flat), builder.node("Transpose", table))


def _between(builder: GraphBuilder, left: str, middle: str, right: str) -> str:
    """left @ middle @ right; a side without a matrix is that of an axis with one point."""
    found = builder.node("MatMul", left, middle) if left else middle
    return builder.node("MatMul", found, right) if right else found


class _Axis:
    """Tables of one axis in the graph, by what they are for; none for an axis of one point."""

    def __init__(self, builder: GraphBuilder, network: FilteredBoxNetwork, which: int) -> None:
        self._builder, size = builder, network.shape[which]
        self.parities = len(network.output_analysis[which])
        self.output_modes = network.synthesis[which].shape[1]
        self._tables: dict[str, str] = {}
        if size == 1:
            return
        inner, biases = network.input_table[which].shape[1], network.bias_table[which].shape[1]
        name = f"axis_{which}_"
        self._name, self._bounds = name, 0
        waves = max(inner, biases, self.output_modes + 2)
        cosine, sine = half_wave_table(builder, size, waves, name)
        weights = np.ones((size, 1))
        weights[[0, -1]] = 0.5
        halved = builder.node("Mul", cosine, builder.constant(f"{name}halves", weights))
        sines = self._columns(sine, 1, self.output_modes + 1)
        self._tables = {
            "inputs_of": self._columns(halved, 0, inner),
            "inner": self._columns(cosine, 0, inner),
            "biases_of": self._columns(cosine, 0, biases),
            "outputs_of": builder.node(
                "Concat",
                sines,
                self._columns(halved, 0, self.output_modes),
                self._columns(halved, 2, self.output_modes + 2),
                axis=1,
            ),
            "outer": sines if network.sine[which] else self._columns(cosine, 0, self.output_modes),
        }

    def straight(self, use: str) -> str:
        """[points, modes]."""
        return self._tables.get(use, "")

    def turned(self, use: str) -> str:
        """[modes, points]."""
        return self._builder.node("Transpose", self._tables[use]) if use in self._tables else ""

    def _columns(self, table: str, first: int, last: int) -> str:
        self._bounds += 1
        start, end, axis = (
            self._builder.constant(f"{self._name}{word}_{self._bounds}", [value], np.int64)
            for word, value in (("from", first), ("to", last), ("of", 1))
        )
        return self._builder.node("Slice", table, start, end, axis)


def _filters(network: FilteredBoxNetwork) -> Array:
    """[width, modes, modes], the prior's scale, both tables' norms and the quadrature's weights included."""
    first, second = (_norms(table.shape[1]) ** 2 for table in network.input_table)
    scale = np.asarray(network.prior, np.float64) * np.outer(first, second) / _intervals(network)
    filters = np.asarray(network.filters, np.float64)[: scale.size].T
    return filters.reshape(-1, *scale.shape) * scale


def _bias_series(network: FilteredBoxNetwork) -> Array:
    """[width, bias modes, bias modes] of plain cosines."""
    varying = np.asarray(network.filters, np.float64)[network.prior.size :]
    varying = varying * np.asarray(network.bias_prior, np.float64)[:, None]
    series = np.concatenate([np.asarray(network.biases, np.float64)[None], varying]).T
    first, second = (_norms(table.shape[1]) for table in network.bias_table)
    return series.reshape(-1, len(first), len(second)) * np.outer(first, second)


def _readout(network: FilteredBoxNetwork) -> tuple[Array, Array]:
    """[width, parities modes, parities modes] and the constant part, [modes, modes], of plain waves, physical units."""
    sizes = [(len(tables), table.shape[1]) for tables, table in zip(_analysis(network), network.synthesis, strict=True)]
    (along, modes), (across, modes_across) = sizes
    width = len(network.biases)
    readout = np.asarray(network.readout, np.float64) * float(network.scale.scale)
    outer = [
        np.full(count, math.sqrt(2)) if sine else _norms(count) if size > 1 else np.ones(1)
        for (_, count), size, sine in zip(sizes, network.shape, (*network.sine, False), strict=False)
    ]
    synthesis = np.outer(*outer)
    constant = readout[:, -1].reshape(modes, modes_across) * synthesis
    weights = readout[:, :-1].T.reshape(along, across, width, modes, modes_across) * synthesis
    weights = weights * _analysis_norms(along, modes)[:, None, None, :, None]
    weights = weights * _analysis_norms(across, modes_across)[None, :, None, None, :] / _intervals(network)
    # [width, parity along, mode along, parity across, mode across]
    return weights.transpose(2, 0, 3, 1, 4).reshape(width, along * modes, across * modes_across), constant


def _analysis(network: FilteredBoxNetwork) -> tuple[tuple[Any, ...], ...]:
    return network.output_analysis


def _analysis_norms(parities: int, modes: int) -> Array:
    """Of sines, cosines, and cosines two waves on, [parities, modes]."""
    if parities == 1:
        return np.ones((1, modes))
    return np.stack([np.full(modes, math.sqrt(2)), _norms(modes), np.full(modes, math.sqrt(2))])


def _norms(count: int) -> Array:
    """sqrt(2) for every wave but none, which has 1."""
    return np.where(np.arange(count) == 0, 1.0, math.sqrt(2))


def _intervals(network: FilteredBoxNetwork) -> int:
    return math.prod(size - 1 for size in network.shape if size > 1)
