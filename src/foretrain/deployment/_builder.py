"""Writing an ONNX graph: nodes, constants in a number format, and the finished model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, require_extra

Array = np.ndarray

OPSET = 17
IR_VERSION = 9
NUMBER_FORMATS = ("float32", "float16", "int8", "int8 weights")


class GraphBuilder:
    """Collects the nodes and constants of one graph; a value is known by its name.

    Matrices are stored in the number format; vectors and scalars stay float32, they are few and every output feels
    their rounding. In both int8 formats a matrix that is not marked as quantised is stored as float16.

    Arguments:
        number_format: one of `NUMBER_FORMATS`.

    Attributes:
        quantised_nodes: names of the products whose weights, in the int8 formats, take eight bits.

    Raises:
        ForetrainError: an unknown number format.
        MissingExtraError: without onnx.
    """

    def __init__(self, number_format: str) -> None:
        if number_format not in NUMBER_FORMATS:
            raise ForetrainError(f"expected a number format of {', '.join(NUMBER_FORMATS)}, came {number_format!r}")
        self.number_format = number_format
        self.quantised_nodes: list[str] = []
        self._onnx = require_extra("onnx", "onnx")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node and returns the name of its one output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A constant stored as it is: a scalar, a vector, a shape."""
        array = np.ascontiguousarray(np.asarray(value, np.float64), dtype=dtype).reshape(np.shape(value))
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, matrix: Array, quantised: bool = False) -> str:
        """A matrix stored in the number format, as float32 to the nodes that use it."""
        stored = self._storage(quantised)
        if stored == "int8":
            integers, scale = eight_bits(matrix)
            self.constant(f"{name}_int8", integers, np.int8)
            scale_name = self.constant(f"{name}_scale", scale)
            return self.node("DequantizeLinear", f"{name}_int8", scale_name, axis=1)
        if stored == "float16":
            halves, factor = half_precision(matrix)
            self.constant(f"{name}_float16", halves, np.float16)
            single = self.node("Cast", f"{name}_float16", to=self._onnx.TensorProto.FLOAT)
            return self.node("Mul", single, self.constant(f"{name}_factor", factor))
        return self.constant(name, matrix)

    def as_stored(self, matrix: Array) -> Array:
        """The values that a matrix not marked as quantised has after rounding to its format."""
        if self._storage(False) == "float16":
            halves, factor = half_precision(matrix)
            return halves.astype(np.float64) * factor
        return np.asarray(matrix, np.float32).astype(np.float64)

    def product(self, values: str, name: str, matrix: Array, quantised: bool = False) -> str:
        """values @ matrix."""
        output = self.node("MatMul", values, self.weight(name, matrix, quantised))
        if quantised:
            self.quantised_nodes.append(output)
        return output

    def finish(self, output: str, sensors: int, points: int) -> Any:
        """The model: "inputs" [batch, sensors] to "outputs" [batch, points], both float32."""
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes.append(helper.make_node("Identity", [output], ["outputs"], name="outputs"))
        graph = helper.make_graph(
            self._nodes,
            "foretrain",
            [helper.make_tensor_value_info("inputs", float32, ["batch", sensors])],
            [helper.make_tensor_value_info("outputs", float32, ["batch", points])],
            self._constants,
        )
        return helper.make_model(
            graph,
            producer_name="foretrain",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    def _storage(self, quantised: bool) -> str:
        if self.number_format.startswith("int8"):
            if not quantised:
                return "float16"
            # ONNX Runtime's own quantisation starts from float32 weights.
            return "int8" if self.number_format == "int8 weights" else "float32"
        return self.number_format


def half_precision(matrix: Array) -> tuple[Array, float]:
    """(halves, factor), halves * factor ~ matrix, the factor a power of two that keeps clear of under- and overflow."""
    matrix = np.asarray(matrix, np.float64)
    largest = np.max(np.abs(matrix), initial=0.0)
    factor = 2.0 ** (np.ceil(np.log2(largest)) - 14) if largest > 0 else 1.0
    return (matrix / factor).astype(np.float16), float(factor)


def eight_bits(matrix: Array) -> tuple[Array, Array]:
    """(integers, scale), integers * scale ~ matrix, one scale for each column, symmetric."""
    matrix = np.asarray(matrix, np.float64)
    largest = np.max(np.abs(matrix), axis=0)
    scale = np.where(largest > 0, largest / 127, 1.0)
    return np.round(matrix / scale).astype(np.int8), scale


def stored_numbers(model: bytes) -> int:
    """How many numbers an ONNX file holds: elements of all constants, of any type, scalars and shapes included.

    Raises:
        ForetrainError: if these bytes are not an ONNX model.
        MissingExtraError: without onnx.
    """
    onnx = require_extra("onnx", "onnx")
    try:
        graph = onnx.load_model_from_string(model).graph
    except Exception as error:  # protobuf has no public class for this failure
        raise ForetrainError("expected the bytes of an ONNX model, came something else; export the model again") from error
    return _numbers_in(graph)


def _numbers_in(graph: Any) -> int:
    count = sum(_size(tensor.dims) for tensor in graph.initializer)
    count += sum(_size(sparse.values.dims) + _size(sparse.indices.dims) for sparse in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
            count += sum(_size(tensor.dims) for tensor in tensors)
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            count += sum(_numbers_in(inner) for inner in graphs)
            if node.op_type == "Constant" and attribute.name.startswith("value_"):
                count += len(attribute.ints) + len(attribute.floats) or 1
    return count


def _size(dimensions: Sequence[int]) -> int:
    return int(np.prod(list(dimensions), dtype=np.int64))
