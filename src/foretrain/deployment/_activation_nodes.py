"""The activations of `foretrain.models` as ONNX nodes."""

import math
from collections.abc import Callable

from foretrain._foundation import ForetrainError
from foretrain.deployment._builder import GraphBuilder

Nodes = Callable[[GraphBuilder, str], str]


def _single(operator: str) -> Nodes:
    return lambda builder, value: builder.node(operator, value)


def _relu_power(power: int) -> Nodes:
    def nodes(builder: GraphBuilder, value: str) -> str:
        relu = result = builder.node("Relu", value)
        for _ in range(power - 1):
            result = builder.node("Mul", result, relu)
        return result

    return nodes


def _gelu(builder: GraphBuilder, value: str) -> str:
    scaled = builder.node("Div", value, builder.constant(f"gelu_root_{value}", math.sqrt(2)))
    shifted = builder.node("Add", builder.node("Erf", scaled), builder.constant(f"gelu_one_{value}", 1.0))
    return builder.node("Mul", builder.node("Mul", value, shifted), builder.constant(f"gelu_half_{value}", 0.5))


def _cosine(builder: GraphBuilder, value: str) -> str:
    return builder.node("Mul", builder.node("Cos", value), builder.constant(f"cosine_root_{value}", math.sqrt(2)))


def _silu(builder: GraphBuilder, value: str) -> str:
    return builder.node("Mul", value, builder.node("Sigmoid", value))


ACTIVATION_NODES: dict[str, Nodes] = {
    "relu": _relu_power(1),
    "relu2": _relu_power(2),
    "relu3": _relu_power(3),
    "erf": _single("Erf"),
    "sin": _single("Sin"),
    "cos": _single("Cos"),
    "gelu": _gelu,
    "linear": _single("Identity"),
    "cosine": _cosine,
    "tanh": _single("Tanh"),
    "silu": _silu,
    "sigmoid": _single("Sigmoid"),
    "softplus": _single("Softplus"),
}


def activation_nodes(name: str) -> Nodes:
    """What appends the nodes of that activation.

    Raises:
        ForetrainError: for an activation that no ONNX graph is known for.
    """
    if name not in ACTIVATION_NODES:
        raise ForetrainError(
            f"export: expected an activation of {', '.join(ACTIVATION_NODES)}, came {name!r}; train with one of these"
        )
    return ACTIVATION_NODES[name]
