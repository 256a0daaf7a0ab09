"""A user's own model, taken by name from a Python file: no other commands than `forecast` and `compress` run one."""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import GivenNetwork

MODULE_NAME = "foretrain_user_module"


def names_a_file(model: str) -> bool:
    """Whether a model is given as FILE.py or FILE.py:NAME."""
    return model.endswith(".py") or ".py:" in model


def load_user_module(reference: str, key: int) -> Any:
    """What FILE.py:NAME stands for: an Equinox or torch module, or a model of foretrain's.

    A function or class makes one: from a random key, if it asks for one argument or one called `key`, or from nothing.
    **Runs the file**, with what it prints on standard error and its own folder on the import path.

    Raises:
        ForetrainError: no such file or name, a file that fails, or a value that is no model.
    """
    path, name, value = value_in_file(reference)
    return value if _is_model(value) else made_by(value, key, path, name, _is_model)


def value_in_file(reference: str) -> tuple[Path, str, Any]:
    """(file, name, value) of FILE.py:NAME. **Runs the file**, see `load_user_module`.

    Raises:
        ForetrainError: no such file or name, or a file that fails.
    """
    place, _, name = reference.rpartition(":") if not reference.endswith(".py") else (reference, "", "")
    path = Path(place)
    module = _run(path)
    value = vars(module).get(name)
    if value is None:
        found = [each for each, what in vars(module).items() if _looks_like_a_model(what, each)]
        raise ForetrainError(
            f"{path}: expected a name in it, {path.name}:NAME, came {name or 'none'!r}; the models and functions in it "
            f"are {', '.join(found) or 'none'}"
        )
    return path, name, value


def is_torch_module(value: Any) -> bool:
    """Whether it is a torch.nn.Module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


class EachFunction(eqx.Module):
    """A module made for one function at a time, (u [sensors], points) -> [points], for all."""

    module: Any

    def __call__(self, inputs: jax.Array, points: jax.Array) -> jax.Array:
        return jax.vmap(self.module, (0, None))(inputs, points)


class EachPoint(eqx.Module):
    """A module made for one function and one point at a time, (u [sensors], y [dimension]) -> number, for all."""

    module: Any

    def __call__(self, inputs: jax.Array, points: jax.Array) -> jax.Array:
        each = jax.vmap(jax.vmap(self.module, (None, 0)), (0, None))(inputs, points)
        return each.reshape(len(inputs), len(points))


def calling_convention(module: Any, data: OperatorDataset) -> Callable[[Any], Any]:
    """What makes trees like the module into trees for all functions and points; found by trying, nothing is computed.

    Raises:
        ForetrainError: outputs of another shape than the data's in every way of calling it.
    """
    ways: list[Callable[[Any], Any]] = [lambda tree: tree, EachFunction, EachPoint]
    reason: Exception | None = None
    for way in ways:
        try:
            GivenNetwork(way(module)).initialise(data)
        # What a user's module raises on arguments it was not made for can be anything.
        except Exception as error:
            reason = reason or error
        else:
            return way
    if isinstance(reason, ForetrainError):
        raise ForetrainError(f"{reason}; nor does it fit one function, or one function and point, at a time")
    raise ForetrainError(
        f"the network: expected outputs [functions, points] from inputs (2, {data.inputs.shape[1]}) and points "
        f"{data.query_points.shape}, it failed ({one_line(reason) if reason else ''})"
    )


def one_line(error: BaseException, path: Path | None = None) -> str:
    """An exception in words, with the line of a user's file that it passed through last."""
    text = " ".join(str(error).split())[:200]
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if path is not None and frame.filename == str(path):
            line = frame.lineno
    return f"{type(error).__name__}{f' in line {line}' if line else ''}{f': {text}' if text else ''}"


def _run(path: Path) -> ModuleType:
    try:
        code = path.read_bytes()
    except OSError as error:
        raise ForetrainError(
            f"{path}: expected a Python file to take the model from, came none that can be read ({error.strerror}); "
            "check the path"
        ) from error
    module = ModuleType(MODULE_NAME)
    module.__file__ = str(path)
    # Dataclasses, and so Equinox modules, look up the module they were defined in.
    sys.modules[MODULE_NAME] = module
    with _importable(path.resolve().parent), failures_of(path, "a Python file that runs"):
        exec(compile(code, str(path), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder first on the import path, and standard output kept free for the command's own."""
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def failures_of(path: Path, expected: str) -> Iterator[None]:
    """Anything that a user's code may raise, in one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, ForetrainError):
            raise ForetrainError(f"{path}: {error}") from error
        raise ForetrainError(f"{path}: expected {expected}, came {one_line(error, path)}") from error


def made_by(maker: Any, key: int, path: Path, name: str, accepted: Callable[[Any], bool]) -> Any:
    """What a function or class makes.

    Raises:
        ForetrainError: if it fails, asks for more than a key, or makes what is not accepted.
    """
    place = f"{path}: {name}"
    if not callable(maker):
        raise ForetrainError(
            f"{place}: expected a module (inputs, points) -> outputs or a function that makes one, came a "
            f"{type(maker).__name__}"
        )
    arguments, options = _arguments(maker, key, place)
    value = None
    # A function that is the first to import torch makes its module from no seed: it is asked once more.
    for _ in range(2):
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.manual_seed(key)
        with _importable(path.resolve().parent), failures_of(path, f"{name}() to make a module"):
            value = maker(*arguments, **options)
        if torch is not None or not is_torch_module(value):
            break
    if not accepted(value):
        raise ForetrainError(
            f"{place}: expected a function that makes a module (inputs, points) -> outputs, it made a "
            f"{type(value).__name__}"
        )
    return value


def _arguments(maker: Callable[..., Any], key: int, place: str) -> tuple[list[Any], dict[str, Any]]:
    """The key where it is asked for."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return [], {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [each for each in parameters if each.kind not in variadic]
    required = [each.name for each in wanted if each.default is inspect.Parameter.empty]
    by_name = [each.name for each in wanted if each.name == "key" and each.kind != inspect.Parameter.POSITIONAL_ONLY]
    if by_name and set(required) <= {"key"}:
        return [], {"key": jax.random.key(key)}
    if len(required) > 1:
        raise ForetrainError(
            f"{place}: expected a module with its weights, or a function that makes one from a key or from nothing, "
            f"came one of {', '.join(required)}; give it a name of its own: net = {place.rpartition(' ')[2]}(...)"
        )
    return [jax.random.key(key)] if required else [], {}


def _is_model(value: Any) -> bool:
    """A module with weights or a model of foretrain's, and not their class."""
    if isinstance(value, type):
        return False
    return is_torch_module(value) or hasattr(value, "initialise") or isinstance(value, eqx.Module)


def _looks_like_a_model(value: Any, name: str) -> bool:
    if name.startswith("_"):
        return False
    return _is_model(value) or (callable(value) and getattr(value, "__module__", None) == MODULE_NAME)
