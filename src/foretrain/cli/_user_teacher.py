"""A user's own model as a teacher, taken by name from a Python file."""

import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from foretrain._foundation import ForetrainError
from foretrain.cli._user_module import (
    calling_convention,
    failures_of,
    is_torch_module,
    made_by,
    names_a_file,
    value_in_file,
)
from foretrain.data import OperatorDataset
from foretrain.tangent import ModuleFunction, find_convention

Teacher = Callable[[np.ndarray], np.ndarray]


def load_teacher(reference: str, data: OperatorDataset, key: int) -> Teacher:
    """What FILE.py:NAME stands for, as inputs [functions, sensors] -> outputs [functions, points], physical units.

    NAME is a trained Equinox or torch module, a function that makes one (from nothing, or from `key`), or a plain
    function of the inputs, or of inputs and points. How a module is called is found by trying, as by
    `foretrain forecast --model`. **Runs the file.**

    Raises:
        ForetrainError: no such file or name, a file that fails, or a value that does not answer for this data.
    """
    if not names_a_file(reference):
        raise ForetrainError(
            f"--teacher: expected FILE.py:NAME, came {reference!r}; name a Python file and a name in it"
        )
    path, name, value = value_in_file(reference)
    if not _is_module(value) and not _takes_inputs(value):
        value = made_by(value, key, path, name, _is_module)
    with redirect_stdout(sys.stderr), failures_of(path, f"{name} to answer for this data"):
        answer = _as_function(value, data)

    def teacher(inputs: np.ndarray) -> np.ndarray:
        with redirect_stdout(sys.stderr), failures_of(path, f"{name} to answer"):
            return np.asarray(answer(inputs), np.float64).reshape(len(inputs), -1)

    return teacher


def _is_module(value: Any) -> bool:
    return not isinstance(value, type) and (is_torch_module(value) or isinstance(value, eqx.Module))


def _takes_inputs(value: Any) -> bool:
    """Whether it is a function of one or two arguments without defaults, the first of which is no key."""
    if isinstance(value, type) or not callable(value):
        return False
    names = _required(value)
    return len(names) in (1, 2) and names[0] != "key"


def _required(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in parameters if each.kind not in variadic and each.default is inspect.Parameter.empty]


def _as_function(value: Any, data: OperatorDataset) -> Callable[[np.ndarray], Any]:
    if is_torch_module(value):
        return _torch_function(value, data)
    if isinstance(value, eqx.Module):
        network = eqx.filter_jit(calling_convention(value, data)(value))
        points = jnp.asarray(data.query_points, jnp.float32)
        return lambda inputs: network(jnp.asarray(inputs, jnp.float32), points)
    if len(_required(value)) == 2:
        return lambda inputs: value(inputs, data.query_points)
    return lambda inputs: value(inputs)


def _torch_function(module: Any, data: OperatorDataset) -> Callable[[np.ndarray], np.ndarray]:
    """A torch module on NumPy arrays, in evaluation mode, on its own device and in its own precision."""
    torch = sys.modules["torch"]
    constants = {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}
    real = [value for value in constants.values() if value.is_floating_point()]
    options = {"dtype": real[0].dtype, "device": real[0].device} if real else {"dtype": torch.float32}

    def tensor(values: np.ndarray) -> Any:
        return torch.tensor(values, **options)

    points = tensor(data.query_points)
    any_way = ModuleFunction(module, constants, frozenset(), 1.0, "inputs")
    function = find_convention(any_way, {}, tensor(data.inputs[:2]), points, data, None)

    def answer(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return function({}, tensor(inputs), points).cpu().numpy()

    return answer


def teacher_name(reference: str) -> str:
    """How the model card names it: the file's name without its folders."""
    path, _, name = reference.rpartition(":")
    return f"{Path(path).name}:{name}"
