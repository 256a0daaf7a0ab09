"""The tangent kernel of a network with drawn weights, applied without ever being formed."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, PyTree

from foretrain._foundation import ForetrainError, device_count, everywhere, gather, padded, spread
from foretrain.data import OperatorDataset, OutputScale
from foretrain.tangent._krylov import EigenPair, largest_eigenvalue

Array = np.ndarray
CHUNK_BYTES = 512 * 2**20


@dataclass(frozen=True)
class EmpiricalKernel:
    """Theta = J S J^T, J the Jacobian of the network's outputs in its trained weights, S the relative step sizes.

        Theta R = sum over chunks of functions:   jvp( S sum_chunks vjp(R) )

    One application costs about three evaluations of the network on the data. Functions are processed in chunks, so that
    memory stays near that of the network on one chunk. Several devices take a chunk each, and sum the gradients.

    Attributes:
        function: maps (trained weights, inputs [functions, ...], points) to outputs [functions, points].
        weights: the trained weights, a pytree.
        inputs, points: what the function is given.
        chunk: functions processed at once by each device.
        rates: S, a pytree like `weights` of relative step sizes: one for each array, or for each weight (what a frozen
            preconditioner is); None for all equal.

    **Assumption:** the function is differentiable at these weights and treats every input by itself.
    """

    function: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    weights: PyTree
    inputs: jax.Array
    points: jax.Array
    chunk: int
    rates: PyTree | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(functions, points)."""
        return len(self.inputs), len(self.points)

    def apply(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Theta applied to a residual."""
        return self.apply_to(residual, self.inputs, self.points)

    def apply_to(
        self,
        residual: Float[ArrayLike, "functions points"],
        inputs: ArrayLike,
        points: ArrayLike,
    ) -> Float[Array, "others other_points"]:
        """The kernel between other inputs and points and the training data, applied to a residual."""
        return self.push(self.step(self.pull(residual)), inputs, points)

    def pull(self, residual: Float[ArrayLike, "functions points"]) -> PyTree:
        """J^T R: the gradient, like `weights`, of the inner product of the outputs with a residual."""
        right = np.asarray(residual, self.inputs.dtype)
        weights, here = everywhere((self.weights, self.points))
        gradient = jax.tree.map(jnp.zeros_like, weights)
        for rows in self._chunks(len(self.inputs)):
            # The inputs that fill up a chunk count for nothing, as their residual is zero.
            part = _pull(self.function, weights, _spread(self.inputs[rows]), here, spread(padded(right[rows], 0)))
            gradient = jax.tree.map(jnp.add, gradient, part)
        return gradient

    def step(self, gradient: PyTree) -> PyTree:
        """S g: a gradient times the relative step sizes."""
        if self.rates is None:
            return gradient
        return jax.tree.map(lambda rate, value: rate * value, self.rates, gradient)

    def push(
        self, tangent: PyTree, inputs: ArrayLike | None = None, points: ArrayLike | None = None
    ) -> Float[Array, "others other_points"]:
        """J t: how outputs change, to first order, when the weights change by t; on the training data by default."""
        weights, tangent = everywhere((self.weights, tangent))
        others = self.inputs if inputs is None else jnp.asarray(inputs, self.inputs.dtype)
        there = everywhere(self.points if points is None else jnp.asarray(points, self.points.dtype))
        images = []
        for rows in self._chunks(len(others)):
            image = _push(self.function, weights, _spread(others[rows]), there, tangent)
            images.append(gather(image)[: len(others[rows])])
        return np.concatenate(images)

    def outputs(self) -> Float[Array, "functions points"]:
        """The network's own outputs."""
        weights, points = everywhere((self.weights, self.points))
        outputs = []
        for rows in self._chunks(len(self.inputs)):
            values = _evaluate(self.function, weights, _spread(self.inputs[rows]), points)
            outputs.append(gather(values)[: len(self.inputs[rows])])
        return np.concatenate(outputs)

    def eigenvalue_max(self, tolerance: float = 1e-4) -> float:
        """The largest eigenvalue, by Lanczos."""
        return self.eigenpair_max(tolerance).value

    def eigenpair_max(self, tolerance: float = 1e-4) -> EigenPair:
        """The largest eigenvalue with its eigenvector [functions, points] and residual."""
        return largest_eigenvalue(self.apply, self.shape, jax.random.key(0), tolerance=tolerance)

    def _chunks(self, functions: int) -> list[slice]:
        at_once = self.chunk * device_count()
        return [slice(start, min(start + at_once, functions)) for start in range(0, functions, at_once)]


def _spread(inputs: ArrayLike) -> jax.Array:
    # Repeated rather than zero, at which a network need not be differentiable.
    return spread(padded(inputs, 0, mode="edge"))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(function: Callable[..., jax.Array], weights: PyTree, inputs: jax.Array, points: jax.Array) -> jax.Array:
    return function(weights, inputs, points)


@functools.partial(jax.jit, static_argnums=0)
def _pull(
    function: Callable[..., jax.Array], weights: PyTree, inputs: jax.Array, points: jax.Array, residual: jax.Array
) -> PyTree:
    gradient = jax.vjp(lambda w: function(w, inputs, points), weights)[1](residual)[0]
    # Whole numbers, such as a user's table of indices, have no derivative.
    return jax.tree.map(lambda w, g: g if eqx.is_inexact_array(w) else jnp.zeros_like(w), weights, gradient)


@functools.partial(jax.jit, static_argnums=0)
def _push(
    function: Callable[..., jax.Array], weights: PyTree, inputs: jax.Array, points: jax.Array, tangent: PyTree
) -> jax.Array:
    tangent = jax.tree.map(
        lambda w, t: t if eqx.is_inexact_array(w) else np.zeros(w.shape, jax.dtypes.float0), weights, tangent
    )
    return jax.jvp(lambda w: function(w, inputs, points), (weights,), (tangent,))[1]


def empirical_kernel(
    network: Callable[..., Any],
    data: OperatorDataset,
    *,
    trained: PyTree | None = None,
    rates: PyTree | None = None,
    memory_bytes: int = CHUNK_BYTES,
) -> EmpiricalKernel:
    """The tangent kernel of any Equinox module `network(inputs, points) -> outputs` on the training data.

    Outputs are taken in units of the data's own normalisation (unit root mean square), as the forecasts are.

    Arguments:
        network: maps inputs [functions, sensors] and points [points, dimension] to outputs [functions, points].
        data: where the kernel is evaluated.
        trained: pytree of booleans like `network`, which weights move; by default all floating-point arrays, or what
            the network's own `trained()` says.
        rates: relative step sizes, a pytree like the trained weights.
        memory_bytes: bound on the intermediate arrays of one chunk of functions, estimated from the network's size.

    Raises:
        ForetrainError: if the outputs have another shape than the data's.
    """
    if trained is None:
        has_own_choice = callable(getattr(network, "trained", None))
        trained = network.trained() if has_own_choice else jax.tree.map(eqx.is_inexact_array, network)  # type: ignore[attr-defined]
    weights, frozen = eqx.partition(network, trained)
    scale = OutputScale.of(data.outputs).scale

    def function(moved: PyTree, inputs: jax.Array, points: jax.Array) -> jax.Array:
        return eqx.combine(moved, frozen)(inputs, points) / scale

    inputs, points = jnp.asarray(data.inputs, jnp.float32), jnp.asarray(data.query_points, jnp.float32)
    shape = jax.eval_shape(function, weights, inputs[:2], points).shape
    if shape != (2, len(points)):
        raise ForetrainError(
            f"the network: expected outputs [functions, points] = {(2, len(points))} for 2 functions, came {shape}"
        )
    chunk = functions_at_once(function, weights, inputs, points, memory_bytes)
    return EmpiricalKernel(function, weights, inputs, points, chunk, rates)


def functions_at_once(
    function: Callable[..., jax.Array],
    weights: PyTree,
    inputs: jax.Array,
    points: jax.Array,
    memory_bytes: int = CHUNK_BYTES,
) -> int:
    """How many functions can be processed at once within `memory_bytes` of intermediate values, at least one."""
    return int(np.clip(memory_bytes // bytes_per_function(function, weights, inputs, points), 1, len(inputs)))


def bytes_per_function(
    function: Callable[..., jax.Array], weights: PyTree, inputs: jax.Array, points: jax.Array
) -> int:
    """What one more function adds to all intermediate values of an evaluation and its transpose.

    An upper bound of what differentiation keeps, as compilers reuse memory; read off the traced program, not compiled.
    """

    def size(functions: int) -> int:
        some = jax.ShapeDtypeStruct((functions, *inputs.shape[1:]), inputs.dtype)
        return _intermediate_bytes(jax.make_jaxpr(function)(weights, some, points).jaxpr)

    return max(1, 2 * (size(3) - size(2)))


def _intermediate_bytes(program: Any) -> int:
    """Bytes of every value a traced program computes, those of the programs it calls included."""
    total = 0
    for equation in program.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        inside = sum(_intermediate_bytes(each) for each in inner if hasattr(each, "eqns"))
        own = sum(math.prod(value.aval.shape) * value.aval.dtype.itemsize for value in equation.outvars)
        # A loop keeps what each of its turns computes.
        total += inside * int(equation.params.get("length", 1)) if inside else own
    return total
