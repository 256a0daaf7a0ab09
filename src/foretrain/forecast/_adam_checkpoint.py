"""A network and its Adam in a file without pickle, from which a forecast can go on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from foretrain._foundation import DataError, ForetrainError, write_atomically
from foretrain.forecast._adam_stage import AdamSettings, Moments, adam_state

Array = np.ndarray
FORMAT = "foretrain Adam checkpoint 1"
NETWORK, FIRST, SECOND = "network.", "m.", "v."
SCHEDULE_POINTS = 10_001
NUMBERS = ("b1", "b2", "eps", "eps_root", "weight_decay")


@dataclass(frozen=True)
class AdamCheckpoint:
    """Where a run with Adam stands.

    Attributes:
        network: with its weights.
        moments: of Adam, trees like the network with None at what is not trained.
        settings: of the optimiser.
        loss: the loss trained, when the file was written, or None if it was not told.
        batch_size: functions that each step sees, or None for all.
    """

    network: Any
    moments: Moments
    settings: AdamSettings
    loss: float | None
    batch_size: int | None


def save_adam_checkpoint(
    path: str | Path,
    network: Any,
    optimiser_state: PyTree,
    *,
    learning_rate: float | Callable[[Any], Any] = 1e-3,
    steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    loss: float | None = None,
    batch_size: int | None = None,
) -> Path:
    """Writes a network and the state of optax's Adam or AdamW, for `foretrain forecast --resume`.

    A safetensors file: arrays `network.*`, `m.*` and `v.*` by their path in the module, such as
    `network.branch.layers.0.weight`, v as optax keeps it (before the bias correction); in the header's metadata `adam`,
    a JSON object of count, learning_rate (a number or [[count, rate], ...]), b1, b2, eps, eps_root, weight_decay, loss
    and batch_size.

    Arguments:
        path: of the file, written whole or not at all.
        network: the module, with the weights of now.
        optimiser_state: of optax, from `optimiser.init(eqx.filter(network, eqx.is_inexact_array))` on.
        learning_rate: a number, or the optax schedule.
        steps: of the whole run, needed for a schedule: it is kept from now to there, exactly or by ten thousand points
            and straight lines between; the last rate holds beyond.
        b1, b2, eps, eps_root, weight_decay: as given to `optax.adam` or `optax.adamw`.
        loss: of the network now, as it is trained; by default the mean squared error in physical units is taken to be.
        batch_size: functions that each step sees; None for all.

    Raises:
        ForetrainError: no Adam in the state, moments that are not those of the network's weights, or a schedule
            without `steps`.
    """
    state = adam_state(optimiser_state)
    count = int(state.count)
    weights = named_arrays(network)
    first, second = named_arrays(state.mu), named_arrays(state.nu)
    strange = [name for name, value in first.items() if name not in weights or weights[name].shape != value.shape]
    if strange or not first or first.keys() != second.keys():
        raise ForetrainError(
            f"a checkpoint: expected moments like the network's {len(weights)} arrays, came {len(first)}, of which "
            f"{len(strange)} fit none{f' ({strange[0]!r})' if strange else ''}; start the optimiser with "
            "init(eqx.filter(network, eqx.is_inexact_array))"
        )
    header = {
        "count": count,
        "learning_rate": _rate_points(learning_rate, count, steps),
        **dict(zip(NUMBERS, map(float, (b1, b2, eps, eps_root, weight_decay)), strict=True)),
        "loss": None if loss is None else float(loss),
        "batch_size": batch_size,
    }
    arrays = {NETWORK + name: value for name, value in weights.items()}
    arrays |= {FIRST + name: value for name, value in first.items()}
    arrays |= {SECOND + name: value for name, value in second.items()}
    content = safetensors.numpy.save(arrays, metadata={"format": FORMAT, "adam": json.dumps(header)})
    return write_atomically(path, lambda file: file.write(content))


def load_adam_checkpoint(path: str | Path, like: Any) -> AdamCheckpoint:
    """Reads what `save_adam_checkpoint` wrote; nothing in it is executed.

    Arguments:
        path: of the file.
        like: the module with any weights: structure, and what is no array, are taken from it.

    Raises:
        DataError: no such file, damaged, or of another network.
    """
    header, arrays = _read(Path(path))
    parts = {
        part: {name.removeprefix(part): value for name, value in arrays.items() if name.startswith(part)}
        for part in (NETWORK, FIRST, SECOND)
    }
    own, here = named_arrays(like), parts[NETWORK]
    other = [name for name in {**own, **here} if _size_of(own.get(name)) != _size_of(here.get(name))]
    if other or own.keys() != here.keys() or not parts[FIRST].keys() == parts[SECOND].keys() <= here.keys():
        name = other[0] if other else "its moments"
        raise DataError(
            f"{path}: expected a checkpoint of this network, came another: {name} is "
            f"{_size_of(here.get(name))} in the file and {_size_of(own.get(name))} in the network; name the module it "
            "is of"
        )
    try:
        settings = AdamSettings(_rate(header["learning_rate"]), **{name: float(header[name]) for name in NUMBERS})
        count = int(header["count"])
        loss = None if header["loss"] is None else float(header["loss"])
        batch_size = None if header["batch_size"] is None else int(header["batch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"settings without a proper {error}") from error
    correction = 1 - settings.b2**count
    if count < 1 or not 0 < correction <= 1:
        raise DataError(f"{path}: expected a checkpoint after at least one step of Adam, came one after {count}")
    second = {name: value / correction for name, value in parts[SECOND].items()}
    moments = Moments(_tree(like, parts[FIRST]), _tree(like, second), count)
    network = eqx.combine(_tree(like, here), like)
    return AdamCheckpoint(network, moments, settings, loss, batch_size)


def named_arrays(tree: PyTree) -> dict[str, Array]:
    """Every array of a tree by its path, such as "branch.layers.0.weight"."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def _tree(like: Any, arrays: Mapping[str, Array]) -> Any:
    """A tree like the network with these arrays, None elsewhere."""

    def at(path: tuple[Any, ...], _: Any) -> Any:
        value = arrays.get(jax.tree_util.keystr(path, simple=True, separator="."))
        return None if value is None else jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(at, like)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint, found no file there; check the path")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a mapping)
    except (OSError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"{path}: expected a checkpoint of Adam, came a safetensors file of something else; write it with "
            "foretrain.save_adam_checkpoint"
        )
    try:
        header = json.loads(metadata["adam"])
    except (KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, "settings that cannot be read") from error
    bad = [name for name, value in arrays.items() if not np.all(np.isfinite(value))]
    if not isinstance(header, dict) or bad:
        raise _damaged(path, f"values in {bad[0]} that are not finite" if bad else "settings that cannot be read")
    return header, arrays


def _damaged(path: str | Path, reason: str) -> DataError:
    return DataError(f"{path}: expected a checkpoint of Adam, came a damaged one ({reason}); write it again")


def _size_of(value: Array | None) -> str:
    return "not there" if value is None else f"of shape {value.shape}"


def _rate_points(learning_rate: float | Callable[[Any], Any], count: int, steps: int | None) -> Any:
    if not callable(learning_rate):
        return float(learning_rate)
    if steps is None:
        raise ForetrainError("a checkpoint: expected `steps`, the length of the run, with a schedule, came none")
    places = np.unique(np.round(np.linspace(count, max(steps, count), SCHEDULE_POINTS)).astype(int))
    rates = np.asarray(jax.vmap(learning_rate)(jnp.asarray(places)), float)
    return [[int(place), float(rate)] for place, rate in zip(places, rates, strict=True)]


def _rate(points: Any) -> float | Callable[[Any], Any]:
    """A number, or the schedule through the points."""
    if isinstance(points, int | float):
        return float(points)
    places, rates = np.asarray(points, float).T
    first = places[0]
    # Counts from the first place on are small numbers, which single precision tells apart.
    return lambda count: jnp.interp(count - int(first), jnp.asarray(places - first), jnp.asarray(rates))
