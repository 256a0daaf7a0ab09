"""The state of a run on disk: weights as safetensors, measurements beside them in the same file's header."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy

from foretrain._foundation import DataError, write_atomically
from foretrain.forecast import Motion
from foretrain.training._certificate import Measurement

VELOCITY = "velocity."


@dataclass(frozen=True)
class Checkpoint:
    """A network in training, its velocity if the method has momentum, and what has been measured so far."""

    motion: Motion
    measurements: tuple[Measurement, ...]


def save_weights(path: Path, network: Any, header: dict[str, str] | None = None) -> Path:
    """Writes the network's arrays, by their names in it, as a safetensors file, atomically."""
    return _write(path, _named_arrays(network), header)


def save_checkpoint(path: Path, checkpoint: Checkpoint, identity: str) -> Path:
    """Writes weights, measurements and what tells this run from others."""
    header = {
        "measurements": json.dumps([asdict(measurement) for measurement in checkpoint.measurements]),
        "run": identity,
    }
    velocity = {VELOCITY + name: value for name, value in _named_arrays(checkpoint.motion.velocity).items()}
    return _write(path, {**_named_arrays(checkpoint.motion.network), **velocity}, header)


def _write(path: Path, arrays: dict[str, np.ndarray], header: dict[str, str] | None) -> Path:
    return write_atomically(path, lambda file: file.write(safetensors.numpy.save(arrays, metadata=header)))


def _named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Every array of a tree by its place, such as "branch" or "branch.weights.0"."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def _with_arrays(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree with its arrays replaced by those of the same names."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jax.numpy.asarray(arrays[jax.tree_util.keystr(path, simple=True, separator=".")])
            if eqx.is_array(leaf)
            else leaf
        ),
        tree,
    )


def load_checkpoint(path: Path, like: Motion, identity: str) -> Checkpoint | None:
    """Reads a checkpoint, or None if there is no such file.

    Raises:
        DataError: damaged, or of another run.
    """
    if not path.exists():
        return None
    expected = {
        **_named_arrays(like.network),
        **{VELOCITY + name: value for name, value in _named_arrays(like.velocity).items()},
    }
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            header = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a mapping)
        measurements = tuple(Measurement(**row) for row in json.loads(header["measurements"]))
        same_run = header["run"] == identity
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected a checkpoint, came a damaged one ({error}); delete it to start anew"
        ) from error
    same_shapes = {name: value.shape for name, value in arrays.items()} == {
        name: value.shape for name, value in expected.items()
    }
    if not same_run or not same_shapes:
        raise DataError(
            f"{path}: expected a checkpoint of this run, came one of other data, widths, step size or key; delete it"
        )
    velocity = {name.removeprefix(VELOCITY): value for name, value in arrays.items() if name.startswith(VELOCITY)}
    return Checkpoint(Motion(_with_arrays(like.network, arrays), _with_arrays(like.velocity, velocity)), measurements)
