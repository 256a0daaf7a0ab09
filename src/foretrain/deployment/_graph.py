"""Networks as ONNX graphs: raw physical units in, raw physical units out, any batch size."""

from typing import Any

import equinox as eqx
import numpy as np

from foretrain._foundation import ForetrainError
from foretrain.deployment._activation_nodes import activation_nodes
from foretrain.deployment._builder import GraphBuilder
from foretrain.deployment._filtered_box_graph import filtered_box_graph
from foretrain.deployment._filtered_fourier_graph import filtered_fourier_graph
from foretrain.deployment._fourier_table import fourier_table, turned_coefficients
from foretrain.deployment._query_points import QueryGrid
from foretrain.models import ComponentNetwork, FilteredBoxNetwork, FilteredFourierNetwork, ShallowFourierNetwork

Array = np.ndarray

# How far, in units of the features' own spread, subtracting the mean after the projection may cancel digits.
LARGEST_OFFSET = 10.0


def network_graph(
    builder: GraphBuilder, network: eqx.Module, balance: Array | None = None, grid: QueryGrid | None = None
) -> Any:
    """The network as an ONNX model, "inputs" [batch, sensors] to "outputs" [batch, points].

    Arguments:
        builder: an empty builder, of the number format wanted.
        network: a `FilteredFourierNetwork`, a `FilteredBoxNetwork`, a `ShallowFourierNetwork` or a `ComponentNetwork`.
        balance: factors on the inner layer's features, undone in its weights, [modes] or [features]; they even out the
            ranges that int8 has to cover.
        grid: where the network answers, if query points are to be an input of the graph, see `QueryGrid.of`.

    Raises:
        ForetrainError: for another network, or an activation without an ONNX graph.
    """
    if isinstance(network, FilteredFourierNetwork):
        return filtered_fourier_graph(builder, network, balance, grid)
    if isinstance(network, FilteredBoxNetwork):
        return filtered_box_graph(builder, network, grid)
    if isinstance(network, ShallowFourierNetwork):
        return _fourier_graph(builder, network, balance)
    if isinstance(network, ComponentNetwork):
        return _component_graph(builder, network, balance)
    raise ForetrainError(
        "export: expected a filtered Fourier or box network, a ShallowFourierNetwork or a ComponentNetwork, "
        f"came a {type(network).__name__}; distil it into one of these first"
    )


def _fourier_graph(builder: GraphBuilder, network: ShallowFourierNetwork, balance: Array | None) -> Any:
    points, count = network.table.shape[0], network.table.shape[1] // 2
    # The mean over the grid and the features' scale act on the filters' side, where they cost nothing.
    feature_scale = _double(network.feature_scale) / points
    factor = np.ones(count) if balance is None else balance
    filters = _double(network.filters) * (feature_scale / np.tile(factor, 2))[:, None]
    linear = _double(network.linear) * feature_scale / np.tile(factor, 2) * float(network.scale.scale)
    table = fourier_table(builder, _double(network.table))
    real, imaginary = turned_coefficients(builder, table, table, balance)
    sigma, bias = activation_nodes(network.activation), builder.constant("biases", _double(network.biases))
    if network.reflection:
        first = builder.product(real, "filters_real", filters[:count], "inner")
        second = builder.product(imaginary, "filters_imaginary", filters[count:], "inner")
        # The mirrored features are s (real, -imaginary): both pre-activations share the two products.
        kept, turned = (first, second) if network.reflection > 0 else (second, first)
        kept = builder.node("Add", kept, bias)
        neurons = builder.node(
            "Add" if network.reflection > 0 else "Sub",
            sigma(builder, builder.node("Add", kept, turned)),
            sigma(builder, builder.node("Sub", kept, turned)),
        )
        features, linear = real, 2 * linear[:count]
    else:
        features = builder.node("Concat", real, imaginary, axis=2)
        product = builder.product(features, "filters", filters, "inner")
        neurons = sigma(builder, builder.node("Add", product, bias))
    readout = _double(network.readout) * float(network.scale.scale)
    outputs = builder.node(
        "Add",
        builder.node("MatMul", neurons, builder.constant("readout", readout[:, None])),
        builder.node("MatMul", features, builder.constant("linear", linear[:, None])),
    )
    outputs = builder.node("Squeeze", outputs, builder.constant("last_axis", [2], np.int64))
    outputs = builder.node("Add", outputs, builder.constant("offset", float(network.scale.offset)))
    return builder.finish(outputs, points, points)


def _component_graph(builder: GraphBuilder, network: ComponentNetwork, balance: Array | None) -> Any:
    basis, output_basis = _double(network.input_basis), _double(network.output_basis)
    factor = np.ones(basis.shape[1]) if balance is None else balance
    weights = _double(network.weights) / factor[:, None]
    outer, width = _double(network.outer), len(network.biases)
    features = _centred_features(builder, _double(network.input_mean), basis * factor)
    product = builder.product(features, "weights", weights, "inner")
    product = builder.node("Add", product, builder.constant("biases", _double(network.biases)))
    neurons = activation_nodes(network.activation)(builder, product)
    # The linear part carries most of the output: apart from the neurons, it keeps its digits in the int8 formats.
    coefficients = builder.node(
        "Add",
        builder.product(neurons, "outer", outer[:width], "outer"),
        builder.product(features, "linear", outer[width:-1] / factor[:, None]),
    )
    outputs = builder.product(coefficients, "output_basis", output_basis.T)
    mean = _double(network.output_mean) + output_basis @ outer[-1]
    outputs = builder.node("Add", outputs, builder.constant("output_mean", mean))
    return builder.finish(outputs, len(network.input_mean), len(mean))


def _centred_features(builder: GraphBuilder, mean: Array, basis: Array) -> str:
    """(inputs - mean) basis, the mean taken off after the projection where that keeps the digits."""
    centre = float(mean.mean())
    offset = (mean - centre) @ builder.as_stored(basis)
    if np.max(np.abs(offset)) > LARGEST_OFFSET:
        centred = builder.node("Sub", "inputs", builder.constant("input_mean", mean))
        return builder.product(centred, "input_basis", basis)
    centred = builder.node("Sub", "inputs", builder.constant("input_centre", centre))
    features = builder.product(centred, "input_basis", basis)
    return builder.node("Sub", features, builder.constant("feature_offset", offset))


def _double(array: Any) -> Array:
    return np.array(array, np.float64)
