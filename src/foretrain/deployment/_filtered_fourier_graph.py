"""The Fourier operator with filters on both sides as an ONNX graph, real arithmetic throughout."""

from typing import Any

import numpy as np

from foretrain.deployment._activation_nodes import activation_nodes
from foretrain.deployment._builder import GraphBuilder
from foretrain.deployment._fourier_table import fourier_table, turned_coefficients, wave_numbers
from foretrain.deployment._query_points import QueryGrid, periodic_waves
from foretrain.models import FilteredFourierNetwork

Array = np.ndarray


def filtered_fourier_graph(
    builder: GraphBuilder, network: FilteredFourierNetwork, balance: Array | None, grid: QueryGrid | None = None
) -> Any:
    """The network as an ONNX model, "inputs" [batch, points] to "outputs" [batch, points].

    With a grid, query points are its second input.

    With sums C_k = sum_y cos(2 pi k y) (h + s g)(y) / samples over the samples, S_k with the sine, C'_k and S'_k of
    h - s g, the normalised output is

        sum_k m_k (cos(2 pi k x) sum_r [A_kr C_kr + B_kr S'_kr] + sin(2 pi k x) sum_r [A_kr S_kr - B_kr C'_kr]),

    m_k = 1 for the constant, which comes first and needs no B, and 2 for the others.
    """
    first, second = _neurons(builder, network, balance)
    analysis = np.asarray(network.analysis, np.float64) * len(network.sample_table)
    cosine, sine = (builder.node("Transpose", part) for part in fourier_table(builder, analysis, "analysis_"))
    scale = np.asarray(network.multiplicity, np.float64) * float(network.scale.scale) / len(network.sample_table)
    readout, width = np.asarray(network.readout, np.float64) * scale[:, None], len(network.biases)
    along = builder.node("MatMul", builder.node("Concat", cosine, sine, axis=0), first)
    across = builder.node("MatMul", builder.node("Concat", sine, builder.node("Neg", cosine), axis=0), second)
    features = builder.node(
        "Add",
        builder.node("Mul", along, _twice(builder, "along", readout[:, :width])),
        builder.node("Mul", across, _twice(builder, "across", readout[:, width:], without_constant=True)),
    )
    coefficients = builder.node("ReduceSum", features, builder.constant("neuron_axis", [2], np.int64), keepdims=0)
    table = np.asarray(network.synthesis, np.float64)
    if grid is None:
        waves = fourier_table(builder, table, "synthesis_")
    else:
        waves = periodic_waves(builder, grid, wave_numbers(table, grid.shape).T)
    synthesis = builder.node("Transpose", builder.node("Concat", *waves, axis=1))
    outputs = builder.node("MatMul", coefficients, synthesis)
    if network.scale.offset:
        outputs = builder.node("Add", outputs, builder.constant("offset", float(network.scale.offset)))
    return builder.finish(outputs, len(network.table), len(table), 0 if grid is None else len(grid.shape))


def _neurons(builder: GraphBuilder, network: FilteredFourierNetwork, balance: Array | None) -> tuple[str, str]:
    """h + s g and h - s g at the samples, [batch, samples, width]; both are h without a reflection."""
    points, count = network.table.shape[0], network.table.shape[1] // 2
    feature_scale = np.asarray(network.feature_scale, np.float64) / points
    filters = np.asarray(network.filters, np.float64) * feature_scale[:, None]
    if balance is not None:
        filters = filters / np.tile(balance, 2)[:, None]
    grid = fourier_table(builder, np.asarray(network.table, np.float64))
    samples = fourier_table(builder, np.asarray(network.sample_table, np.float64), "sample_")
    real, imaginary = turned_coefficients(builder, grid, samples, balance)
    real = builder.product(real, "filters_real", filters[:count], "inner")
    # The constant, which comes first, has no imaginary part.
    starts, ends, axes = (
        builder.constant(f"waves_{word}", [value], np.int64)
        for word, value in (("from", 1), ("to", count), ("axis", 2))
    )
    imaginary = builder.node("Slice", imaginary, starts, ends, axes)
    imaginary = builder.product(imaginary, "filters_imaginary", filters[count + 1 :], "inner")
    sigma, bias = activation_nodes(network.activation), builder.constant("biases", np.asarray(network.biases))
    straight = sigma(builder, builder.node("Add", builder.node("Add", real, imaginary), bias))
    if not network.reflection:
        return straight, straight
    kept, turned = (real, imaginary) if network.reflection > 0 else (imaginary, real)
    mirrored = sigma(builder, builder.node("Add", builder.node("Sub", kept, turned), bias))
    total, difference = builder.node("Add", straight, mirrored), builder.node("Sub", straight, mirrored)
    return (total, difference) if network.reflection > 0 else (difference, total)


def _twice(builder: GraphBuilder, name: str, readout: Array, without_constant: bool = False) -> str:
    """Outer filters, [output modes, width], once for the cosines and once for the sines."""
    # Stored by columns of one wave number each: eight bits then have one scale for each.
    kept = builder.weight(f"readout_{name}", readout[int(without_constant) :].T, "outer")
    kept = builder.node("Transpose", kept)
    if without_constant:
        kept = builder.node("Pad", kept, builder.constant(f"{name}_padding", [1, 0, 0, 0], np.int64))
    return builder.node("Concat", kept, kept, axis=0)
