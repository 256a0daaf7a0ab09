"""The state of a run on disk: weights as safetensors, measurements beside them in the same file's header."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy

from foretrain._foundation import DataError, write_atomically
from foretrain.models import ShallowOperatorNetwork
from foretrain.training._certificate import Measurement

WEIGHTS = ("trunk", "branch", "outer")


@dataclass(frozen=True)
class Checkpoint:
    """A network in training and what has been measured so far."""

    network: ShallowOperatorNetwork
    measurements: tuple[Measurement, ...]


def save_weights(path: Path, network: ShallowOperatorNetwork, header: dict[str, str] | None = None) -> Path:
    """Writes the weights as a safetensors file, atomically."""
    weights = {name: np.asarray(getattr(network, name)) for name in WEIGHTS}
    return write_atomically(path, lambda file: file.write(safetensors.numpy.save(weights, metadata=header)))


def save_checkpoint(path: Path, checkpoint: Checkpoint, identity: str) -> Path:
    """Writes weights, measurements and what tells this run from others."""
    header = {
        "measurements": json.dumps([asdict(measurement) for measurement in checkpoint.measurements]),
        "run": identity,
    }
    return save_weights(path, checkpoint.network, header)


def load_checkpoint(path: Path, like: ShallowOperatorNetwork, identity: str) -> Checkpoint | None:
    """Reads a checkpoint, or None if there is no such file.

    Raises:
        DataError: damaged, or of another run.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            header = file.metadata()
            weights = {name: file.get_tensor(name) for name in WEIGHTS}
        measurements = tuple(Measurement(**row) for row in json.loads(header["measurements"]))
        same_run = header["run"] == identity
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected a checkpoint, came a damaged one ({error}); delete it to start anew"
        ) from error
    same_shapes = all(weights[name].shape == getattr(like, name).shape for name in WEIGHTS)
    if not same_run or not same_shapes:
        raise DataError(
            f"{path}: expected a checkpoint of this run, came one of other data, widths, step size or key; delete it"
        )
    network = eqx.tree_at(
        lambda tree: [getattr(tree, name) for name in WEIGHTS],
        like,
        [jax.numpy.asarray(weights[name]) for name in WEIGHTS],
    )
    return Checkpoint(network, measurements)
