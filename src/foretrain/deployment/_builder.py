"""Writing an ONNX graph: nodes, constants in a number format, and the finished model."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from foretrain._foundation import ForetrainError, require_extra
from foretrain.deployment._trust_record import trust_numbers

Array = np.ndarray

OPSET = 17
IR_VERSION = 9
# What a matrix is to the network: an inner layer's weights, an outer layer's, or a basis fixed by the data.
Role = Literal["inner", "outer", "fixed"]
_STORAGE: dict[str, dict[Role, str]] = {
    "float32": {"inner": "float32", "outer": "float32", "fixed": "float32"},
    "float16": {"inner": "float16", "outer": "float16", "fixed": "float16"},
    # Static quantisation starts from float32 inner weights and turns them into int8 itself.
    "int8": {"inner": "float32", "outer": "int8", "fixed": "float16"},
    "int8 weights": {"inner": "int8", "outer": "int8", "fixed": "float16"},
}
NUMBER_FORMATS = tuple(_STORAGE)


class GraphBuilder:
    """Collects the nodes and constants of one graph; a value is known by its name.

    Matrices are stored as the number format says for their role; vectors and scalars stay float32, they are few and
    every output feels their rounding.

    Arguments:
        number_format: one of `NUMBER_FORMATS`.

    Attributes:
        inner_products: names of the nodes that multiply by inner weights.

    Raises:
        ForetrainError: an unknown number format.
        MissingExtraError: without onnx.
    """

    def __init__(self, number_format: str) -> None:
        if number_format not in NUMBER_FORMATS:
            raise ForetrainError(f"expected a number format of {', '.join(NUMBER_FORMATS)}, came {number_format!r}")
        self.number_format = number_format
        self.inner_products: list[str] = []
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

    def weight(self, name: str, matrix: Array, role: Role = "fixed") -> str:
        """A matrix stored in the number format, as float32 to the nodes that use it."""
        storage = _STORAGE[self.number_format][role]
        if storage == "float32":
            return self.constant(name, matrix)
        # A cast of a constant is done once, when the file is loaded; DequantizeLinear would run on every call.
        values, factor = eight_bits(matrix) if storage == "int8" else half_precision(matrix)
        self.constant(f"{name}_{storage}", values, values.dtype)
        single = self.node("Cast", f"{name}_{storage}", to=self._onnx.TensorProto.FLOAT)
        return self.node("Mul", single, self.constant(f"{name}_factor", factor))

    def as_stored(self, matrix: Array) -> Array:
        """The values that a matrix of fixed role has after rounding to its format."""
        if _STORAGE[self.number_format]["fixed"] == "float16":
            halves, factor = half_precision(matrix)
            return halves.astype(np.float64) * factor
        return np.asarray(matrix, np.float32).astype(np.float64)

    def product(self, values: str, name: str, matrix: Array, role: Role = "fixed") -> str:
        """values @ matrix."""
        output = self.node("MatMul", values, self.weight(name, matrix, role))
        if role == "inner":
            self.inner_products.append(output)
        return output

    def finish(self, output: str, sensors: int, points: int, dimension: int = 0) -> Any:
        """The model: "inputs" [batch, sensors] to "outputs" [batch, points], both float32.

        With a dimension it has a second input, "points" [points, dimension], of any number.
        """
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes.append(helper.make_node("Identity", [output], ["outputs"], name="outputs"))
        columns: int | str = points
        inputs = [helper.make_tensor_value_info("inputs", float32, ["batch", sensors])]
        if dimension:
            inputs.append(helper.make_tensor_value_info("points", float32, ["points", dimension]))
            columns = "points"
        outputs = [helper.make_tensor_value_info("outputs", float32, ["batch", columns])]
        graph = helper.make_graph(self._nodes, "foretrain", inputs, outputs, self._constants)
        return helper.make_model(
            graph,
            producer_name="foretrain",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )


def half_precision(matrix: Array) -> tuple[Array, float]:
    """(halves, factor), halves * factor ~ matrix, the factor a power of two that keeps clear of under- and overflow."""
    matrix = np.asarray(matrix, np.float64)
    largest = np.max(np.abs(matrix), initial=0.0)
    factor = 2.0 ** (np.ceil(np.log2(largest)) - 14) if largest > 0 else 1.0
    return (matrix / factor).astype(np.float16), float(factor)


def eight_bits(matrix: Array) -> tuple[Array, Array]:
    """(integers, factors), integers * factors ~ matrix, one factor for each column, symmetric."""
    matrix = np.asarray(matrix, np.float64)
    largest = np.max(np.abs(matrix), axis=0)
    factors = np.where(largest > 0, largest / 127, 1.0)
    return np.round(matrix / factors).astype(np.int8), factors


def stored_numbers(model: bytes) -> int:
    """How many numbers an ONNX file holds: elements of all constants, of any type, scalars and shapes included.

    Those of a conformal band and an out-of-range score in the metadata count as well.

    Raises:
        ForetrainError: if these bytes are not an ONNX model.
        MissingExtraError: without onnx.
    """
    onnx = require_extra("onnx", "onnx")
    try:
        loaded = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf has no public class for this failure
        raise ForetrainError(
            "expected the bytes of an ONNX model, came something else; export the model again"
        ) from error
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    return _numbers_in(loaded.graph) + trust_numbers(metadata)


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
