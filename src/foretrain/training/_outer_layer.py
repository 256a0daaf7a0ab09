"""A network split into its linear outer layer and everything inside, and the exact optimum of that layer.

Whatever the network, its output is offset + Phi a with features Phi that the inner weights decide. Where Phi has
structure it is kept: on the grid Phi = B (x) T, so that the normal equations are two small matrices.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from foretrain._foundation import ForetrainError, double_precision, require_memory
from foretrain.data import OperatorDataset
from foretrain.forecast import training_arrays
from foretrain.models import (
    DeepONetNetwork,
    MLPNetwork,
    ModuleNetwork,
    ShallowFourierNetwork,
    ShallowOperatorNetwork,
    StepNetwork,
    activation_function,
)
from foretrain.training._outer_features import BlockFeatures, Features, GridFeatures, NormalEquations, PointFeatures

OUTER_RIDGE = 1e-10
CHUNK_NUMBERS = 2**24


@dataclass(frozen=True)
class OuterLayer:
    """Where a network's linear outer layer is and what lies inside it.

    Attributes:
        name: of the layer, in words.
        marks: maps a network to a tree of booleans, True at the outer weights.
        features: maps (network, embedded inputs, embedded points) to the inner part's `Features`.
        coefficients: the outer weights of a network as one matrix [p, m].
        written: a network with other outer weights.
        separates: whether the features are those of a grid, and all functions can be taken at once.
    """

    name: str
    marks: Callable[[Any], PyTree]
    features: Callable[[Any, Array, Array], Features]
    coefficients: Callable[[Any], Float[Array, "p m"]]
    written: Callable[[Any, Float[Array, "p m"]], Any]
    separates: bool = True

    def inner_marks(self, network: Any) -> PyTree:
        """True at the weights that training moves and that are not outer."""
        has_own_choice = callable(getattr(network, "trained", None))
        moves = network.trained() if has_own_choice else jax.tree.map(eqx.is_inexact_array, network)
        return jax.tree.map(lambda moving, outer: bool(moving) and not outer, moves, self.marks(network))


def split_outer(network: Any, where: Callable[[Any], Any] | None = None) -> OuterLayer:
    """The linear outer layer of a network and everything inside it.

    - shallow operator: the outer weights a, whether or not the model trains them: **two timescales always do**, as
      fixed signs would leave nothing fast (shared form B C T^T; block form the entry-by-entry product);
    - shallow Fourier operator: readout and linear part; step network: heights and bias;
    - DeepONet: the branch's last layer, [H, 1] C T^T, with the trunk's features and the scalar bias inside;
    - MLP: its last layer, [H, 1] C, one column a query point;
    - any other Equinox module: its last `equinox.nn.Linear`, or what `where` names.

    Arguments:
        network: drawn weights.
        where: picks the outer weights out of a user's module: a layer, an array or a tuple of arrays.

    Raises:
        ForetrainError: no linear layer, or outputs that are not affine in it.
    """
    if where is None:
        for kind, layer in _KNOWN.items():
            if isinstance(network, kind):
                return layer(network)
    return _named_layer(network, where)


@double_precision
def optimal_outer(
    network: Any,
    data: OperatorDataset | tuple[Array, Array, Array],
    *,
    ridge: float = OUTER_RIDGE,
    where: Callable[[Any], Any] | None = None,
) -> Any:
    """The network with the best outer layer for its inner weights, on all of the data.

        argmin_a |offset + Phi a - z|^2 + ridge |a|^2 trace(Phi^T Phi) / columns;  on the grid C = B^+ Z (T^+)^T

    in double precision. **The ridge is relative to the mean eigenvalue** of each small Gram matrix, and never below
    four times its size times the machine's precision: dependent features give the small solution, not a crash.

    Arguments:
        network: drawn weights.
        data: the training data, or the arrays the network sees, (embedded inputs, embedded points, normalised outputs
            [functions, points]); a step network, which has no inputs, takes any array for them.
        ridge: see above.
        where: see `split_outer`.

    Raises:
        ForetrainError: see `split_outer`.
    """
    layer = split_outer(network, where)
    arrays = data if isinstance(data, tuple) else training_arrays(network, data)
    equations = normal_equations(layer, network, *arrays)
    return layer.written(network, equations.optimum(ridge))


def normal_equations(layer: OuterLayer, network: Any, inputs: Array, points: Array, target: Array) -> NormalEquations:
    """The normal equations on all functions, chunk by chunk where the features do not separate."""
    columns = layer.coefficients(network).size
    at_once = len(inputs) if layer.separates else max(1, CHUNK_NUMBERS // (target.shape[1] * columns))
    total: NormalEquations | None = None
    for start in range(0, len(inputs), at_once):
        rows = slice(start, start + at_once)
        part = _normal(layer, network, inputs[rows], points, target[rows])
        total = part if total is None else total.plus(part)
    assert total is not None
    return total


@eqx.filter_jit
def _normal(layer: OuterLayer, network: Any, inputs: Array, points: Array, target: Array) -> NormalEquations:
    return layer.features(network, inputs, points).normal(target)


def _marked(*names: str) -> Callable[[Any], PyTree]:
    """Marks the named parts of a network."""

    def marks(network: Any) -> PyTree:
        nothing = jax.tree.map(lambda _: False, network)
        everything = tuple(jax.tree.map(lambda _: True, getattr(network, name)) for name in names)
        return eqx.tree_at(lambda tree: tuple(getattr(tree, name) for name in names), nothing, everything)

    return marks


def _replaced(network: Any, **parts: Array) -> Any:
    """A network with other arrays, in the precision of the old ones."""
    values = tuple(jnp.asarray(value, getattr(network, name).dtype) for name, value in parts.items())
    return eqx.tree_at(lambda tree: tuple(getattr(tree, name) for name in parts), network, values)


# Layers are made once for each shape, so that what is compiled for one network serves the next.
@functools.cache
def _shallow_layer(width: int, own: int, shared: bool) -> OuterLayer:
    def neurons(moved: ShallowOperatorNetwork, inputs: Array, points: Array) -> tuple[Array, Array]:
        sigma = activation_function(moved.activation)
        branch = sigma(inputs @ moved.branch.reshape(-1, moved.branch.shape[-1]).T) / own**0.5
        return branch, sigma(points @ moved.trunk.T) / width**0.5

    def written(moved: ShallowOperatorNetwork, outer: Array) -> ShallowOperatorNetwork:
        signs = outer.T if shared else outer.reshape(width, own)
        return replace(_replaced(moved, outer=signs), train_outer=True)

    if shared:
        return OuterLayer(
            "outer weights between branch and trunk neurons",
            _marked("outer"),
            lambda moved, inputs, points: GridFeatures(*neurons(moved, inputs, points)),
            lambda moved: moved.outer.T,
            written,
        )

    def blocks(moved: ShallowOperatorNetwork, inputs: Array, points: Array) -> BlockFeatures:
        branch, trunk = neurons(moved, inputs, points)
        return BlockFeatures(branch.reshape(-1, width, own), trunk)

    return OuterLayer(
        "outer weights of every trunk neuron's own branch neurons",
        _marked("outer"),
        blocks,
        lambda moved: moved.outer.reshape(-1, 1),
        written,
    )


def _shallow_operator(network: ShallowOperatorNetwork) -> OuterLayer:
    width, own = network.outer.shape
    shared = network.branch.ndim == 2
    if not shared:
        advice = "take form='shared' or fewer neurons"
        require_memory(24 * (width * own) ** 2, "the outer layer's normal equations", advice)
    return _shallow_layer(width, own, shared)


@functools.cache
def _fourier_layer(width: int) -> OuterLayer:
    return OuterLayer(
        "readout and linear part",
        _marked("readout", "linear"),
        lambda moved, inputs, points: PointFeatures(moved.hidden(moved.features(inputs))),
        lambda moved: moved.outer[:, None],
        lambda moved, outer: _replaced(moved, readout=outer[:width, 0], linear=outer[width:, 0]),
        separates=False,
    )


@functools.cache
def _step_layer() -> OuterLayer:
    def features(moved: StepNetwork, inputs: Array, points: Array) -> PointFeatures:
        steps = moved.features(points.reshape(-1))
        return PointFeatures(jnp.concatenate([jnp.ones((len(steps), 1), steps.dtype), steps], axis=1)[None])

    return OuterLayer(
        "heights and bias",
        _marked("bias", "heights"),
        features,
        lambda moved: jnp.concatenate([moved.bias[None], moved.heights])[:, None],
        lambda moved, outer: _replaced(moved, bias=outer[0, 0], heights=outer[1:, 0]),
    )


@functools.cache
def _deeponet_layer() -> OuterLayer:
    def features(moved: DeepONetNetwork, inputs: Array, points: Array) -> GridFeatures:
        trunk = moved.trunk(points)
        if moved.trunk_ends_active:
            trunk = activation_function(moved.trunk.activation)(trunk)
        return GridFeatures(_before_last(moved.branch, inputs), trunk, moved.bias)

    return _last_of("the branch's last layer", lambda moved: moved.branch, features)


@functools.cache
def _mlp_layer() -> OuterLayer:
    return _last_of(
        "the last layer",
        lambda moved: moved.layers,
        lambda moved, inputs, points: GridFeatures(_before_last(moved.layers, inputs), None),
    )


def _last_of(name: str, layers: Callable[[Any], Any], features: Callable[[Any, Array, Array], Features]) -> OuterLayer:
    """Weights and bias of the last of some dense layers."""

    def last(network: Any) -> tuple[Array, Array]:
        return layers(network).weights[-1], layers(network).biases[-1]

    def written(network: Any, outer: Array) -> Any:
        precision = last(network)[0].dtype
        return eqx.tree_at(last, network, (outer[:-1].astype(precision), outer[-1].astype(precision)))

    return OuterLayer(
        name,
        lambda network: eqx.tree_at(last, jax.tree.map(lambda _: False, network), (True, True)),
        features,
        lambda network: jnp.concatenate([last(network)[0], last(network)[1][None]]),
        written,
    )


def _before_last(layers: Any, inputs: Array) -> Array:
    """What the last dense layer sees, and a column of ones for its bias."""
    values = inputs
    if len(layers.weights) > 1:
        inside = replace(layers, weights=layers.weights[:-1], biases=layers.biases[:-1])
        values = activation_function(layers.activation)(inside(inputs))
    return jnp.concatenate([values, jnp.ones((len(values), 1), values.dtype)], axis=1)


_KNOWN: dict[type, Callable[[Any], OuterLayer]] = {
    ShallowOperatorNetwork: _shallow_operator,
    ShallowFourierNetwork: lambda network: _fourier_layer(len(network.readout)),
    StepNetwork: lambda _: _step_layer(),
    DeepONetNetwork: lambda _: _deeponet_layer(),
    MLPNetwork: lambda _: _mlp_layer(),
}


def _is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def _named_layer(network: Any, where: Callable[[Any], Any] | None) -> OuterLayer:
    """The outer layer of any module, its features read off the derivative in the outer weights."""
    inside = (lambda tree: tree.moving) if isinstance(network, ModuleNetwork) else (lambda tree: tree)
    if where is None:
        if not any(map(_is_linear, jax.tree.leaves(inside(network), is_leaf=_is_linear))):
            raise ForetrainError(
                "two timescales: expected a network with a linear last layer, came "
                f"{type(getattr(network, 'module', network)).__name__} without an equinox.nn.Linear; name its outer "
                "weights by where=lambda module: ..."
            )

        def named(tree: Any) -> Any:
            return [node for node in jax.tree.leaves(inside(tree), is_leaf=_is_linear) if _is_linear(node)][-1]

    else:
        given = where

        def named(tree: Any) -> Any:
            return given(inside(tree))

    arrays, rebuild = ravel_pytree(named(network))
    chosen = named(network)

    def written(moved: Any, outer: Array) -> Any:
        return eqx.tree_at(named, moved, rebuild(outer[:, 0].astype(arrays.dtype)))

    def features(moved: Any, inputs: Array, points: Array) -> Features:
        def outputs(flat: Array) -> Array:
            return written(moved, flat[:, None]).normalised(inputs, points)

        offset, push = jax.linearize(outputs, jnp.zeros_like(arrays))
        columns = jax.vmap(push)(jnp.eye(len(arrays), dtype=arrays.dtype))
        return PointFeatures(jnp.moveaxis(columns, 0, -1), offset)

    size = len(arrays)
    require_memory(
        24 * size**2, "the outer layer's normal equations", "name a smaller layer by where=lambda module: ..."
    )
    return OuterLayer(
        "the last linear layer" if where is None else "the outer weights named",
        lambda moved: eqx.tree_at(named, jax.tree.map(lambda _: False, moved), jax.tree.map(lambda _: True, chosen)),
        features,
        lambda moved: ravel_pytree(named(moved))[0][:, None],
        written,
        separates=False,
    )


def require_affine(layer: OuterLayer, network: Any, inputs: Array, points: Array) -> None:
    """Raises `ForetrainError` if the outputs are not offset + Phi a, seen on a few functions at twice the weights."""
    scale, difference = _seen_and_told(layer, network, inputs, points)
    if not float(difference) <= 1e-3 * (float(scale) or 1.0):
        raise ForetrainError(
            f"two timescales: expected outputs affine in {layer.name}, came a nonlinear part behind it; name the outer "
            "weights by where=lambda module: ..."
        )


@eqx.filter_jit
def _seen_and_told(layer: OuterLayer, network: Any, inputs: Array, points: Array) -> tuple[Array, Array]:
    """Largest output of the network, and largest difference from what its features give."""
    few, moved = inputs[:2], 2 * layer.coefficients(network) + 1
    seen = layer.written(network, moved).normalised(few, points)
    told = layer.features(network, few, points).outputs(moved)
    return jnp.max(jnp.abs(seen)), jnp.max(jnp.abs(seen - told))
