"""The operators of an exported graph in NumPy; `write_numpy_predictor` copies this file into every predictor.

What is below therefore needs NumPy only, in any version since 1.22, and knows nothing of foretrain.
"""

import base64
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray

FUNCTIONS_AT_ONCE = 32
TYPES = {1: "f4", 2: "u1", 3: "i1", 6: "i4", 7: "i8", 10: "f2", 11: "f8"}
erf = np.frompyfunc(math.erf, 1, 1)


def shifted(axes: Any, rank: int) -> tuple[int, ...]:
    return tuple(int(axis) % rank for axis in np.ravel(axes))


def unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, shifted(axes, np.ndim(x) + np.size(axes)))


def reshape(x: Array, shape: Array) -> Array:
    return np.reshape(x, [x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape)])


def cut(x: Array, starts: Array, ends: Array, axes: Any = None, steps: Any = None) -> Array:
    window = [slice(None)] * x.ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        window[int(axis)] = slice(int(starts[i]), int(ends[i]), 1 if steps is None else int(steps[i]))
    return x[tuple(window)]


def pad(x: Array, widths: Array, value: Any = 0.0) -> Array:
    return np.pad(x, np.reshape(widths, (2, -1)).T.tolist(), constant_values=value)


def along(values: Array, x: Array, axis: int) -> Array:
    """A scale for each entry of one axis, shaped to multiply x."""
    return values if np.ndim(values) == 0 else np.reshape(values, [-1] + [1] * (x.ndim - 1 - axis % x.ndim))


def quantized(x: Array, scale: Array, zero: Array, axis: int = 1) -> Array:
    bounds = np.iinfo(zero.dtype)
    rounded = np.rint(x / along(scale, x, axis)) + along(zero, x, axis).astype(np.float32)
    return np.clip(rounded, bounds.min, bounds.max).astype(zero.dtype)


def dequantized(x: Array, scale: Array, zero: Array, axis: int = 1) -> Array:
    return (x.astype(np.float32) - along(zero, x, axis).astype(np.float32)) * along(scale, x, axis)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Cast": lambda x, to: x.astype(TYPES[to]),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Cos": np.cos,
    "DequantizeLinear": dequantized,
    "Div": np.divide,
    "Erf": lambda x: np.asarray(erf(x), np.float64).astype(x.dtype),
    "Identity": lambda x: x,
    "MatMul": np.matmul,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pad": lambda x, widths, value=0.0, mode="constant": pad(x, widths, value),
    "QuantizeLinear": quantized,
    "Range": lambda start, stop, step: np.arange(start, stop, step, dtype=start.dtype),
    "ReduceSum": lambda x, axes, keepdims=1: np.sum(x, shifted(axes, x.ndim), keepdims=bool(keepdims)),
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": reshape,
    "Round": np.rint,
    "Sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "Sin": np.sin,
    "Slice": cut,
    "Softplus": lambda x: np.logaddexp(x, np.zeros((), x.dtype)),
    "Squeeze": lambda x, axes: np.squeeze(x, shifted(axes, x.ndim)),
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Transpose": lambda x, perm=None: np.transpose(x, perm),
    "Unsqueeze": unsqueeze,
}


def parsed(node: str) -> Any:
    """A line of the graph: operator, names of its inputs, of its output, and attributes as name=value."""
    operator, *words = node.split()
    *inputs, output = [word for word in words if "=" not in word]
    attributes = [word.split("=") for word in words if "=" in word]
    return operator, inputs, output, {name: json.loads(value) for name, value in attributes}


def run(values: dict[str, Array], nodes: list[Any]) -> dict[str, Array]:
    """Adds each node's output to the values, in order."""
    for operator, inputs, output, attributes in nodes:
        values[output] = OPERATORS[operator](*[values[name] for name in inputs], **attributes)
    return values


@functools.lru_cache(maxsize=1)
def prepared() -> tuple[dict[str, Array], list[Any]]:
    """Constants, with all that depends on nothing else; and the nodes that are left to do for each call."""
    values, start, left, content = {}, 0, [], base64.b64decode(WEIGHTS)
    for name, dtype, shape in CONSTANTS:
        stop = start + math.prod(shape) * np.dtype(dtype).itemsize
        values[name], start = np.frombuffer(content[start:stop], dtype).reshape(shape), stop
    for node in map(parsed, NODES):
        if all(name in values for name in node[1]):
            run(values, [node])
        else:
            left.append(node)
    return values, left


def predict(inputs: Any) -> Array:
    """The model's answers, raw physical units in and out: [functions, SENSORS] to [functions, POINTS].

    Raises ValueError for another shape, or values that are not finite numbers in single precision.
    """
    inputs = np.asarray(inputs)
    if inputs.ndim != 2 or inputs.shape[1] != SENSORS or inputs.dtype.kind not in "fiub":
        found = f"{list(inputs.shape)} of type {inputs.dtype}"
        raise ValueError(f"inputs: expected real numbers of shape [functions, {SENSORS}], came {found}")
    with np.errstate(over="ignore"):
        inputs = inputs.astype(np.float32)
    if not np.all(np.isfinite(inputs)):
        row = int(np.argwhere(~np.isfinite(inputs))[0, 0])
        raise ValueError(f"inputs: expected finite numbers, came NaN, infinite or too large ones, first in row {row}")
    constants, nodes = prepared()
    starts = range(0, len(inputs), FUNCTIONS_AT_ONCE)
    parts = [
        run({**constants, "inputs": inputs[start : start + FUNCTIONS_AT_ONCE]}, nodes)["outputs"] for start in starts
    ]
    return np.concatenate([np.zeros((0, POINTS), np.float32), *parts]).astype(np.float64)


def main() -> None:
    """Answers the key inputs of one npz file with the key outputs of another, whole or absent."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} inputs.npz outputs.npz")
    source, target = sys.argv[1:]
    try:
        with np.load(source, allow_pickle=False) as arrays:
            outputs = predict(arrays["inputs"])
        with open(target + ".partial", "wb") as file:
            np.savez_compressed(file, outputs=outputs)
        os.replace(target + ".partial", target)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"{source}: {error}")


# The model follows.
SENSORS: int
POINTS: int
CONSTANTS: list[tuple[str, str, tuple[int, ...]]]
NODES: list[str]
WEIGHTS: str
