"""What every network here has in common, and how a user's own module becomes one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from foretrain._foundation import ForetrainError
from foretrain.data import Embedding, OperatorDataset, OutputScale, RawValues


@runtime_checkable
class OperatorNetwork(Protocol):
    """A network with drawn weights, an Equinox module.

    Attributes:
        embedding: from raw inputs and points to what the network sees.
        scale: from normalised outputs to physical ones.
    """

    embedding: Embedding | RawValues
    scale: OutputScale

    def __call__(self, inputs: Any, points: Any) -> Any:
        """The operator's values in physical units, [functions, points]."""
        ...

    def normalised(self, inputs: Any, points: Any) -> Any:
        """Embedded inputs and points to normalised outputs, [functions, points]."""
        ...

    def trained(self) -> Any:
        """The same tree with True at the weights that training moves."""
        ...


@runtime_checkable
class OperatorModel(Protocol):
    """A network before its weights are drawn."""

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> Any:
        """Draws the weights; the same key gives the same network."""
        ...


@dataclass(frozen=True)
class GivenNetwork:
    """A user's own Equinox module, with the weights it has, as a model.

    Arguments:
        module: maps inputs [functions, sensors] and points [points, dimension], both in physical units, to outputs
            [functions, points] in physical units. A module made for one function at a time fits after
            `lambda inputs, points: jax.vmap(module, (0, None))(inputs, points)` inside a module of its own.
        trained: tree of booleans like the module, which weights move; by default all floating-point arrays.
    """

    module: Any = field(repr=False)
    trained: Any = field(default=None, repr=False)

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray | None = None) -> "ModuleNetwork":
        """The module with the data's normalisation of outputs; no key, as its weights are drawn already.

        Raises:
                ForetrainError: no module, one without weights, or outputs of another shape than the data's.
        """
        if not callable(self.module):
            raise ForetrainError(
                f"a network: expected a module (inputs, points) -> outputs, came {type(self.module).__name__}"
            )
        moves = self.trained if self.trained is not None else jax.tree.map(eqx.is_inexact_array, self.module)
        moving, others = eqx.partition(self.module, moves)
        if not jax.tree.leaves(moving):
            raise ForetrainError(f"a network: expected weights to train, came {type(self.module).__name__} without any")
        fixed, structure = eqx.partition(others, eqx.is_array)
        network = ModuleNetwork(moving, fixed, structure, RawValues(), OutputScale.of(data.outputs))
        inputs = jax.ShapeDtypeStruct((2, data.inputs.shape[1]), jnp.float32)
        points = jax.ShapeDtypeStruct(data.query_points.shape, jnp.float32)
        expected = (2, len(data.query_points))
        try:
            shape = eqx.filter_eval_shape(network, inputs, points).shape
        except (TypeError, ValueError, AttributeError) as error:
            raise ForetrainError(
                f"the network: expected outputs {expected} from inputs {inputs.shape} and points {points.shape}, it "
                f"failed ({' '.join(str(error).split())[:200]})"
            ) from error
        if shape != expected:
            raise ForetrainError(
                f"the network: expected outputs [functions, points] = {expected} for 2 functions, came {shape}"
            )
        return network


class ModuleNetwork(eqx.Module):
    """A user's module among our own networks: raw inputs and points in, outputs normalised by the data's scale.

    Attributes:
        moving: the trained weights, in a tree like the module.
        fixed: its other arrays.
        structure: everything else.
    """

    moving: PyTree
    fixed: PyTree
    structure: PyTree = eqx.field(static=True)
    embedding: RawValues = eqx.field(static=True)
    scale: OutputScale = eqx.field(static=True)

    @property
    def module(self) -> Any:
        """The user's module with the weights of now."""
        return eqx.combine(self.moving, self.fixed, self.structure)

    def __call__(
        self, inputs: Float[ArrayLike, "functions sensors"], points: Float[ArrayLike, "points dimension"]
    ) -> Float[Array, "functions points"]:
        """What the module gives."""
        return self.module(inputs, points)

    def normalised(
        self, inputs: Float[ArrayLike, "functions sensors"], points: Float[ArrayLike, "points dimension"]
    ) -> Float[Array, "functions points"]:
        """What the module gives, in units of the data's normalisation."""
        return (self.module(inputs, points) - self.scale.offset) / self.scale.scale

    def trained(self) -> "ModuleNetwork":
        """True at the weights that move."""
        marks = jax.tree.map(lambda _: True, self.moving)
        return eqx.tree_at(lambda tree: tree.moving, jax.tree.map(lambda _: False, self), marks)


def draw_network(model: Any, data: OperatorDataset, key: int) -> Any:
    """The network a model draws; a user's module is taken as it is.

    Raises:
        ForetrainError: neither a model nor a module.
    """
    if isinstance(model, type) or not (hasattr(model, "initialise") or callable(model)):
        raise ForetrainError(
            f"a model: expected one of foretrain's or a module (inputs, points) -> outputs, came {model!r}"
        )
    if not hasattr(model, "initialise"):
        model = GivenNetwork(model)
    return model.initialise(data, jax.random.key(key))


def weight_groups(network: Any) -> tuple[str, ...]:
    """Names of the groups of weights that training moves: the network's own parts at the top."""
    named = jax.tree_util.tree_leaves_with_path(_parts(network, network.trained()))
    return tuple(dict.fromkeys(group_of(path) for path, moves in named if moves))


def group_rates(network: Any, rates: Mapping[str, float] | None) -> Any:
    """A tree like the network's weights with each group's relative step size, 1 where none is given; None for none.

    Raises:
        ForetrainError: a group the network has not.
    """
    if not rates:
        return None
    groups = weight_groups(network)
    unknown = [name for name in rates if name not in groups]
    if unknown:
        raise ForetrainError(
            f"step sizes by group: expected some of {', '.join(groups)}, which this network trains, came "
            f"{', '.join(unknown)}"
        )
    given = {name: float(rates.get(name, 1.0)) for name in groups}
    return jax.tree_util.tree_map_with_path(lambda path, _: given.get(group_of(path), 1.0), network)


def group_of(path: tuple[Any, ...]) -> str:
    """The group a weight at this place of the network belongs to."""
    names = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    # A user's module lies inside ours; its own parts are the groups.
    return names[1] if names[0] == "moving" and len(names) > 1 else names[0]


def _parts(network: Any, marks: Any) -> Any:
    return jax.tree.map(lambda _, mark: mark, network, marks)
