"""A network as StableHLO: what XLA compiles, for JAX, and for the runtimes that read it, on processors and GPUs."""

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, ArrayLike, Float

from foretrain._foundation import DataError, ForetrainError, write_atomically
from foretrain.compression import CompressedModel

PLATFORMS = ("cpu", "cuda")
# After the end of what JAX wrote, where its own reader does not look.
_SEAL = b"\nforetrain stablehlo sha256:"
_DIGITS = 64


@dataclass(frozen=True)
class StableHlo:
    """A network read back from its StableHLO file, without the code that made it.

    Attributes:
        exported: as JAX knows it; `exported.mlir_module()` is the program as text.
        sensors, points: sizes of one input and one answer.
    """

    exported: export.Exported = field(repr=False)
    sensors: int
    points: int

    def __call__(self, inputs: Float[ArrayLike, "functions sensors"]) -> Float[Array, "functions points"]:
        """The network's answers in float32, raw physical units in and out; may stand inside `jax.jit`.

        Raises:
            DataError: another number of sensors, or no function.
        """
        values = jnp.asarray(inputs, jnp.float32)
        if values.ndim != 2 or values.shape[1] != self.sensors or len(values) == 0:
            raise DataError(
                f"inputs: expected values at {self.sensors} sensors, [functions, {self.sensors}], came an array of "
                f"shape {list(values.shape)}; sample the functions where the model was trained"
            )
        answers: Array = self.exported.call(values)
        return answers


def write_stablehlo(model: CompressedModel | eqx.Module, path: str | Path, sensors: int | None = None) -> Path:
    """Writes the network as StableHLO that takes any number of functions, on any of `PLATFORMS`.

    The program computes in float32, whatever number format was chosen to ship, and carries neither band nor score. The
    file is what `jax.export.deserialize` reads, with a fingerprint after its end that `read_stablehlo` checks.

    **Read by:** the JAX that wrote it and, as JAX promises, those of the half year after; ONNX files last longer.

    Arguments:
        model: a compressed model, of which the chosen network is written, or a network that is called as
            network(inputs), in physical units.
        path: file to write; whole or absent.
        sensors: length of an input; students' networks tell it themselves.

    Raises:
        ForetrainError: nothing was chosen, or a network that does not tell the length of its inputs.
    """
    network = _network(model)
    sensors = sensors or _sensors(network)
    dynamic, static = eqx.partition(network, eqx.is_inexact_array)
    single = eqx.combine(jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), dynamic), static)

    def answer(values: Array) -> Array:
        # One function at a time: networks ask for the length of a batch, which is only a symbol here.
        answers: Array = jax.vmap(lambda function: single(function[None])[0])(values)
        return answers.astype(jnp.float32)

    functions = jax.ShapeDtypeStruct(export.symbolic_shape(f"batch, {sensors}"), jnp.float32)
    # GPUs would round the factors of products to 10 bits otherwise.
    with jax.default_matmul_precision("highest"), _without_places():
        exported = export.export(jax.jit(answer), platforms=PLATFORMS)(functions)
    content = _sealed(bytes(exported.serialize()))
    return write_atomically(path, lambda file: file.write(content))


def read_stablehlo(file: str | Path | bytes) -> StableHlo:
    """Reads what `write_stablehlo` wrote; no code of the file's runs before it is called, and then only XLA's.

    **A fingerprint guards against damage, not against malice:** who rewrites a file can seal it again.

    Arguments:
        file: the file's path, or its bytes.

    Raises:
        ForetrainError: no such file, one of another kind, one cut short or changed since, or one this JAX cannot read.
    """
    source = "these bytes" if isinstance(file, bytes) else str(file)
    content = _unsealed(_read(file), source)
    try:
        exported = export.deserialize(bytearray(content))
        (inputs,), (outputs,) = exported.in_avals, exported.out_avals
        sensors, points = int(inputs.shape[1]), int(outputs.shape[1])
    except Exception as error:  # the reader's failures have no common class
        raise ForetrainError(
            f"{source}: expected StableHLO that JAX {jax.__version__} can read, came something else; update JAX or "
            "export the model again"
        ) from error
    return StableHlo(exported, sensors, points)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps this machine's paths and line numbers out of programs: the same network gives the same bytes."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _network(model: Any) -> Any:
    if not isinstance(model, CompressedModel):
        return model
    if model.chosen is None or model.chosen.network is None:
        raise ForetrainError("nothing keeps the budget, so there is no network to write as StableHLO; relax a limit")
    return model.chosen.network


def _sensors(network: Any) -> int:
    for name in ("input_mean", "table"):
        if isinstance(values := getattr(network, name, None), jax.Array | np.ndarray):
            return len(values)
    if isinstance(shape := getattr(network, "shape", None), tuple):
        return math.prod(shape)
    raise ForetrainError(
        f"StableHLO: expected a network that tells how many sensors it has, came {type(network).__name__}; pass sensors"
    )


def _sealed(content: bytes) -> bytes:
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def _unsealed(content: bytes, source: str) -> bytes:
    body, seal = content[: -len(_SEAL) - _DIGITS], content[-len(_SEAL) - _DIGITS : -_DIGITS]
    if seal != _SEAL:
        raise ForetrainError(
            f"{source}: expected StableHLO written by foretrain, came another file or one cut short (its fingerprint "
            "is missing); copy or export the model again"
        )
    if hashlib.sha256(body).hexdigest().encode() != content[-_DIGITS:]:
        raise ForetrainError(
            f"{source}: expected StableHLO that is as it was exported, came one changed since (its fingerprint "
            "differs); copy or export the model again"
        )
    return body


def _read(file: str | Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ForetrainError(
            f"{file}: expected a StableHLO file, came none that can be read ({error.strerror})"
        ) from error
