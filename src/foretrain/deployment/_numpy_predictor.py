"""The model as one Python file that needs NumPy and nothing else."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, require_extra, write_atomically
from foretrain.deployment import _numpy_interpreter
from foretrain.deployment._runtime import Runtime

MARK = "# The model follows.\n"
MOST_LINES = 200
Node = tuple[str, list[str], str, list[str]]


def write_numpy_predictor(model: bytes, path: str | Path) -> Path:
    """Writes a Python file of less than 200 lines that answers like this model, for places without an ONNX runtime.

    The file holds the weights, the graph as a list, and an interpreter of the operators in it. `predict(inputs)` takes
    and returns raw physical units; run as a program, it answers one npz file with another. The trust that travels with
    an ONNX file is not in it.

    **Against ONNX Runtime:** the same to 1e-6 relative in the formats that compute in float32; with "int8", where a
    value on the edge of two integers may fall to either side, to a rounding step of the activations.

    Arguments:
        model: content of an exported ONNX file.
        path: file to write; whole or absent.

    Raises:
        ForetrainError: bytes that are no model of this package, one with query points as an input, or a graph with an
            operator the interpreter lacks.
        MissingExtraError: without onnx and onnxruntime, which only the writer needs.
    """
    onnx = require_extra("onnx", "onnx")
    runtime = Runtime(model)
    if runtime.query_grid is not None:
        raise ForetrainError(
            "NumPy predictor: expected a model with fixed query points, came one with query points as an input; ship "
            "the ONNX file, or export the model again"
        )
    graph = onnx.load_model_from_string(model).graph
    constants = [(tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer]
    nodes = [_node(onnx, node) for node in graph.node]
    _require_known(nodes)
    names = _short_names(constants, nodes)
    rows = [repr((names[name], value.dtype.str, value.shape)) for name, value in constants]
    steps = [
        repr(" ".join([operator, *(names[name] for name in (*inputs, output)), *words]))
        for operator, inputs, output, words in nodes
    ]
    content = b"".join(np.ascontiguousarray(value).tobytes() for _, value in constants)
    program = _interpreter({operator for operator, *_ in nodes})
    lines = [
        _heading(runtime.metadata),
        program.replace("SENSORS] to", f"{runtime.sensors}] to").replace("POINTS].", f"{runtime.points}]."),
        f"SENSORS, POINTS = {runtime.sensors}, {runtime.points}",
        "CONSTANTS = [",
        *_packed(rows),
        "]",
        "NODES = [",
        *_packed(steps),
        "]",
        f'WEIGHTS = "{base64.b64encode(content).decode()}"',
        "",
        'if __name__ == "__main__":',
        "    main()",
        "",
    ]
    text = "\n".join(lines)
    count = text.count("\n")
    if count >= MOST_LINES:
        raise ForetrainError(
            f"NumPy predictor: expected a graph that fits into {MOST_LINES} lines, came {count}; ship the ONNX file"
        )
    return write_atomically(path, lambda file: file.write(text.encode()))


def _node(onnx: Any, node: Any) -> Node:
    """(operator, inputs, output, attributes as "name=value")"""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    words = [
        f"{name}={json.dumps(value.decode() if isinstance(value, bytes) else value, separators=(',', ':'))}"
        for name, value in attributes.items()
    ]
    return node.op_type, [name for name in node.input if name], node.output[0], words


def _require_known(nodes: list[Node]) -> None:
    unknown = sorted({operator for operator, *_ in nodes} - _numpy_interpreter.OPERATORS.keys())
    if unknown:
        raise ForetrainError(
            f"NumPy predictor: expected a graph of foretrain's operators, came one with {', '.join(unknown)}; ship the "
            "ONNX file"
        )


def _short_names(constants: list[Any], nodes: list[Node]) -> dict[str, str]:
    """Numbers for names: the graph's own fill lines."""
    values = [name for name, _ in constants] + [output for _, _, output, _ in nodes]
    kept = {"inputs": "inputs", "outputs": "outputs"}
    return kept | {name: str(index) for index, name in enumerate(values) if name not in kept}


def _packed(entries: list[str], width: int = 116) -> list[str]:
    """Entries side by side, as many as a line holds."""
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + len(entry) + 2 <= width:
            lines[-1] += f" {entry},"
        else:
            lines.append(f"    {entry},")
    return lines


def _interpreter(operators: set[str]) -> str:
    """The interpreter's source, of its operators only those, without the names that the model fills in."""
    source = Path(_numpy_interpreter.__file__).read_text(encoding="utf-8")
    body = source[source.index("import base64") : source.index(MARK) + len(MARK)]
    # The table of operators has one line for each.
    entries = re.findall(r'^    "([A-Z]\w+)": .*\n', body, flags=re.MULTILINE)
    for operator in set(entries) - operators:
        body = re.sub(rf'^    "{operator}": .*\n', "", body, flags=re.MULTILINE)
    # One blank line between functions instead of two: the file is counted in lines.
    return re.sub(r"\n{3,}", "\n\n", body).rstrip("\n")


def _heading(card: dict[str, Any]) -> str:
    def word(key: str) -> str:
        return re.sub(r"[^\w .,:;()/+\-]", " ", str(card.get(key, "")), flags=re.ASCII)[:90]

    return (
        f'"""{word("name") or "A model"}, {word("number_format")}, {word("created_by")}; needs NumPy only.\n\n'
        "    from THIS_FILE import predict       outputs = predict(inputs)\n"
        "    python THIS_FILE.py inputs.npz outputs.npz\n\n"
        f'Made from the ONNX file with the fingerprint {word("fingerprint")}.\n"""'
    )
