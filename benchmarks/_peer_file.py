"""A DeepONet as whoever ships one would run it: an ONNX file, its trunk's answers at the fixed points folded in."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}
OPSET, IR_VERSION = 17, 9


def peer_file(settings: dict[str, Any], sensors: int, points: int) -> bytes:
    """A file that takes as long as the trained network's would: weights are drawn, and only their shapes matter.

    Arguments:
        settings: of a peer's result: shapes of the branch's weights, and the activation.
        sensors, points: of an input and an output.
    """
    graph = Graph(ACTIVATIONS[settings["activation"]])
    value, shapes = graph.add("Mul", "inputs", graph.drawn()), settings["branch"]
    convolutions = [shape for shape in shapes if len(shape) == 4]
    if convolutions:
        side = round(sensors**0.5)
        shape = numpy_helper.from_array(np.array([-1, 1, side, side]), "field")
        graph.constants.append(shape)
        value = graph.add("Reshape", value, "field")
        for kernel in convolutions:
            value = graph.add("Conv", value, graph.drawn(*kernel), graph.drawn(kernel[0]), strides=[2, 2])
            value = graph.add(graph.activation, value)
        value = graph.add("Flatten", value)
    dense = [shape for shape in shapes if len(shape) == 2]
    for place, (out, into) in enumerate(dense):
        value = graph.add("Gemm", value, graph.drawn(into, out), graph.drawn(out))
        value = graph.add(graph.activation, value) if place < len(dense) - 1 else value
    value = graph.add("MatMul", value, graph.drawn(dense[-1][0], points))
    value = graph.add("Mul", value, graph.drawn(points))
    graph.nodes.append(helper.make_node("Add", [value, graph.drawn(points)], ["outputs"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["functions", size])
        for name, size in (("inputs", sensors), ("outputs", points))
    ]
    made = helper.make_graph(graph.nodes, "peer", ends[:1], ends[1:], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class Graph:
    """Nodes and constants, named as they come."""

    def __init__(self, activation: str) -> None:
        self.activation = activation
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node's answer."""
        name = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def drawn(self, *shape: int) -> str:
        """Weights of about unit gain."""
        name, size = f"weights{len(self.constants)}", max(1, int(np.prod(shape)) // max(shape, default=1))
        values = self.random.normal(size=shape) / size**0.5
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name
