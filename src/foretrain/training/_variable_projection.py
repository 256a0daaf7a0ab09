"""The two-timescale limit: the outer layer always at its optimum, the inner layer descending."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from foretrain._foundation import Progress, ignore_progress

Network = TypeVar("Network", bound=eqx.Module)
InnerLayer = Callable[[PyTree, Array], Array]
OUTER_RIDGE = 1e-6


@dataclass(frozen=True)
class ProjectionResult:
    """Where the descent ended.

    Attributes:
        weights: of the inner layer.
        error: relative root-mean-square error on the rows, with the outer layer at its optimum.
        evaluations: of the reduced loss.
    """

    weights: PyTree
    error: float
    evaluations: int


def variable_projection(
    hidden: InnerLayer,
    weights: PyTree,
    rows: Float[Array, "rows features"],
    targets: Float[Array, "rows outputs"],
    *,
    evaluations: int,
    memory: int = 30,
    progress: Progress = ignore_progress,
    stage: str = "two timescales (limit)",
) -> ProjectionResult:
    """Minimises the reduced loss over the inner layer by L-BFGS.

        L(v) = min_a |Phi(v) a - t|^2 / |t|^2,      dL/dv = partial gradient at the optimal a (envelope theorem)

    This is the limit eps -> 0 of descending with step sizes 1 (outer) and eps (inner), the regime in which small
    networks reach the global optimum where equal rates get stuck.

    Arguments:
        hidden: Phi, maps (inner weights, rows) to the inner layer's values [rows, neurons].
        weights: where the inner layer starts.
        rows, targets: the data, one row for each point to be fitted.
        evaluations: how often at most to evaluate the loss and its gradient; repeatable, unlike a time limit.
        memory: of L-BFGS.

    Source: Golub, Pereyra (1973) for variable projection; Marion, Berthier (NeurIPS 2023) for the two-timescale limit.
    """
    start, restore = ravel_pytree(weights)
    best_point, best_value = np.asarray(start, np.float64), np.inf
    count = 0

    def reduced(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count, best_point, best_value
        if count >= evaluations:
            raise _Exhausted
        count += 1
        value, slope = _reduced_loss(hidden, restore(jnp.asarray(point, start.dtype)), rows, targets)
        flat = np.asarray(ravel_pytree(slope)[0], np.float64)
        if float(value) < best_value:
            best_point, best_value = point.copy(), float(value)
        progress(stage, count, evaluations, {"error": float(np.sqrt(best_value))})
        return float(value), flat

    with contextlib.suppress(_Exhausted):
        scipy.optimize.minimize(
            reduced,
            best_point,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": evaluations, "maxfun": evaluations, "maxcor": memory, "ftol": 0.0, "gtol": 0.0},
        )
    progress(stage, evaluations, evaluations, {"error": float(np.sqrt(best_value))})
    return ProjectionResult(
        restore(jnp.asarray(best_point, start.dtype)),
        float(np.sqrt(best_value)),
        count,
    )


class _Exhausted(Exception):
    """The allowed evaluations are used up; SciPy checks its own limit only between line searches."""


@functools.partial(jax.jit, static_argnums=0)
def _reduced_loss(hidden: InnerLayer, weights: PyTree, rows: Array, targets: Array) -> tuple[Array, PyTree]:
    def loss(moved: PyTree) -> Array:
        features = hidden(moved, rows)
        outer = optimal_outer_layer(jax.lax.stop_gradient(features), targets)
        return jnp.sum((features @ outer - targets) ** 2) / jnp.sum(targets**2)

    return jax.value_and_grad(loss)(weights)


def optimal_outer_layer(
    features: Float[Array, "rows neurons"], targets: Float[Array, "rows outputs"], ridge: float = OUTER_RIDGE
) -> Float[Array, "neurons outputs"]:
    """argmin_a |Phi a - t|^2 + ridge tr(Phi^T Phi) / neurons |a|^2, by normal equations in the features' precision.

    Where nearly dependent features leave the normal equations indefinite to rounding, the ridge grows tenfold until
    they are not.
    """
    gram, moment = features.T @ features, features.T @ targets
    size = jnp.trace(gram) / gram.shape[0]
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)

    def solved(strength: Array) -> Array:
        factor = jax.scipy.linalg.cho_factor(gram + strength * size * identity)
        return jax.scipy.linalg.cho_solve(factor, moment)

    def broken(state: tuple[Array, Array]) -> Array:
        return ~jnp.all(jnp.isfinite(state[1])) & (state[0] < 1)

    def stronger(state: tuple[Array, Array]) -> tuple[Array, Array]:
        strength = jnp.maximum(10 * state[0], jnp.finfo(gram.dtype).eps)
        return strength, solved(strength)

    strength = jnp.asarray(ridge, gram.dtype)
    return jax.lax.while_loop(broken, stronger, (strength, solved(strength)))[1]


def refit_outer_layer(
    hidden: Callable[[Array], Array],
    batches: list[tuple[Float[Array, "rows features"], Float[np.ndarray, "rows outputs"]]],
    ridge: float = 1e-10,
) -> Float[np.ndarray, "neurons outputs"]:
    """The optimal outer layer over many batches of rows, normal equations accumulated in double precision."""
    gram: np.ndarray | float = 0.0
    moment: np.ndarray | float = 0.0
    for rows, targets in batches:
        features = np.asarray(hidden(rows), np.float64)
        gram = gram + features.T @ features
        moment = moment + features.T @ np.asarray(targets, np.float64)
    gram = np.asarray(gram)
    gram = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    return scipy.linalg.solve(gram, np.asarray(moment), assume_a="pos")
