"""Eight-bit arithmetic: what to even out beforehand, and ONNX Runtime's static quantisation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from foretrain._foundation import require_extra
from foretrain.models import ComponentNetwork, FilteredFourierNetwork, ShallowFourierNetwork

Array = np.ndarray

# Measured on trained students of both kinds: static int8 goes from 4.3 % without balance to 1.2 %, int8 weights from
# 4.2 % to 0.3 %; exponents of 0.5 and 0 are within a quarter of that.
BALANCE_EXPONENT = 0.25
FUNCTIONS_AT_ONCE = 32
# The mark that `quantize_static` looks for before it advises pre-processing, through the root logger.
PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


def feature_balance(network: eqx.Module, inputs: Array) -> Array | None:
    """Factors that share the range of features and inner weights between the two, for eight bits to cover both.

        balance_k = |weights_k|^(1 - a) / |features_k|^a,   largest absolute values over neurons and over functions

    Arguments:
        network: whose features and inner weights.
        inputs: representative inputs, [functions, sensors].

    Returns:
        [modes] for a Fourier network, [features] for a `ComponentNetwork`, None for another.

    Source: Xiao et al., "SmoothQuant" (ICML 2023).
    """
    if isinstance(network, FilteredFourierNetwork | ShallowFourierNetwork):
        table = np.asarray(network.table, np.float64)
        count, scale = table.shape[1] // 2, np.asarray(network.feature_scale, np.float64) / len(table)
        coefficients = inputs @ table
        # The features of all grid points turn a coefficient through all angles: its modulus bounds them.
        features = np.hypot(coefficients[:, :count], coefficients[:, count:]).max(axis=0)
        weights = np.abs(np.asarray(network.filters, np.float64) * scale[:, None]).max(axis=1)
        return _balance(np.maximum(weights[:count], weights[count:]), features)
    if isinstance(network, ComponentNetwork):
        features = np.abs(np.asarray(network.features(jnp.asarray(inputs, jnp.float32)), np.float64)).max(axis=0)
        return _balance(np.abs(np.asarray(network.weights, np.float64)).max(axis=1), features)
    return None


def quantise_statically(model: Any, nodes: Sequence[str], inputs: Array, points: Array | None = None) -> Any:
    """The model with these products done in int8, weights quantised per channel, activations by their range on inputs.

    Weights take seven bits of the eight: on processors without VNNI instructions sums of two full products overflow,
    and the same file would answer differently there.

    Arguments:
        model: ONNX model; the named nodes multiply by float32 constants.
        inputs: calibration data, [functions, sensors].
        points: for a graph with query points as an input.

    Raises:
        MissingExtraError: without onnx and onnxruntime.
    """
    onnx = require_extra("onnx", "onnx")
    quantization = require_extra("onnxruntime.quantization", "onnx")
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    onnx.helper.set_model_props(marked, dict([PREPROCESSED]))
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(marked, source)
        quantization.quantize_static(
            source,
            target,
            _Batches(inputs, points),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_quantize=list(nodes),
            # The product's own result is summed in 32 bits: rounding it to eight again would only lose.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantised = onnx.load_model(target)
    del quantised.metadata_props[:]
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    return quantised


class _Batches:
    """Calibration inputs as `quantize_static` reads them: its reader's one method."""

    def __init__(self, inputs: Array, points: Array | None) -> None:
        inputs = np.asarray(inputs, np.float32)
        self._points = {} if points is None else {"points": np.asarray(points, np.float32)}
        self._batches: Iterator[Array] = (
            inputs[start : start + FUNCTIONS_AT_ONCE] for start in range(0, len(inputs), FUNCTIONS_AT_ONCE)
        )

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"inputs": batch, **self._points}


def _balance(weights: Array, features: Array) -> Array:
    """Rows that hardly matter are kept from dominating by a floor."""
    weights = np.maximum(weights, 1e-6 * weights.max()) if weights.max() > 0 else np.ones_like(weights)
    features = np.maximum(features, 1e-6 * features.max()) if features.max() > 0 else np.ones_like(features)
    return np.asarray(weights ** (1 - BALANCE_EXPONENT) / features**BALANCE_EXPONENT)
