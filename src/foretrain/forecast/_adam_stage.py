"""One stage of Adam with its preconditioner frozen: a linear recurrence in the Krylov space of J P^-1 J^T."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree

from foretrain._foundation import ForetrainError
from foretrain.forecast._block_krylov import BlockKrylov, block_krylov, extended
from foretrain.tangent import EmpiricalKernel

Array = np.ndarray
EDGE = 0.95
"""Modes beyond this part of the largest stable curvature are slowed down to it."""
CHUNK = 8
FOLLOWED_OFTEN = 5000


@dataclass(frozen=True)
class AdamSettings:
    """Adam, or with weight decay AdamW, as optax computes them.

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
        w <- w - rate_k [ m / (1 - b1^k) / (sqrt(v / (1 - b2^k) + eps_root) + eps) + weight_decay w ]

    Attributes:
        learning_rate: a number, or an optax schedule: a function of the count of earlier steps that JAX can trace.
        b1, b2, eps, eps_root: as given to `optax.adam`.
        weight_decay: as given to `optax.adamw`, of all weights alike.
    """

    learning_rate: float | Callable[[Any], Any] = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0
    weight_decay: float = 0.0

    def rates(self, count: int, steps: int) -> Float[Array, " steps"]:
        """The learning rates of the next steps after `count` of them."""
        if callable(self.learning_rate):
            return np.asarray(jax.vmap(self.learning_rate)(count + jnp.arange(steps)), np.float64)
        return np.full(steps, float(self.learning_rate))

    @property
    def stable_curvature(self) -> float:
        """The largest stable rate times curvature, 2 (1 + b1) / (1 - b1), 38 for b1 = 0.9 (Cohen et al. 2022)."""
        return 2 * (1 + self.b1) / (1 - self.b1)


def adam_state(state: PyTree) -> optax.ScaleByAdamState:
    """Adam's count and moments, found in any optax state.

    Raises:
        ForetrainError: no Adam in it, or more than one.
    """
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState))
    found = [part for part in parts if isinstance(part, optax.ScaleByAdamState)]
    if len(found) != 1:
        raise ForetrainError(
            f"the optimiser state: expected one Adam in it, came {len(found)}; forecasts follow optax.adam and "
            "optax.adamw, alone or in a chain"
        )
    return found[0]


@dataclass(frozen=True)
class Moments:
    """What Adam carries: m, the bias-corrected v, and how many steps it has taken."""

    momentum: PyTree
    second: PyTree
    count: int

    @classmethod
    def of(cls, state: optax.ScaleByAdamState, settings: AdamSettings) -> "Moments":
        """From an optax state."""
        count = int(state.count)
        if count < 1:
            raise ForetrainError("a forecast of Adam: expected a state after at least one step, came one before it")
        correction = 1 - settings.b2**count
        return cls(state.mu, jax.tree.map(lambda value: value / correction, state.nu), count)


@dataclass(frozen=True)
class Coordinates:
    """Weights and momentum after some steps of a stage.

    w_k = decay w_0 + carried S m_0 + S J^T Q modes,     m_k = kept m_0 + J^T Q pending,     S = P^-1
    """

    modes: Float[Array, " applied"]
    pending: Float[Array, " applied"]
    decay: float
    carried: float
    kept: float


@dataclass(frozen=True)
class Stage:
    """Adam from one set of weights, by the Jacobian and the preconditioner of one moment.

    Attributes:
        kernel: J S J^T with S = P^-1, at the weights where the network is linearised.
        base: the weights at the start, the same or a little behind.
        moments: at the start.
        space: the Krylov space of residual, J S m and, with weight decay, J w.
        loss: mean squared residual after k = 0 ... steps, in the space.
        marks: steps at which `coordinates` are known.
        curvature: largest eigenvalue of the preconditioned Hessian times the rate, over the largest stable value.
    """

    kernel: EmpiricalKernel
    base: PyTree
    moments: Moments
    space: BlockKrylov
    loss: Float[Array, " steps+1"]
    marks: tuple[int, ...]
    coordinates: tuple[Coordinates, ...]
    curvature: float

    def unresolved(self, mark: int) -> float:
        """The part of the linear residual at a mark that lies outside the space, relative to that within it."""
        outside = self.space.leaving @ self._at(mark).modes
        rows = self.space.vectors.shape[1]
        return float(np.linalg.norm(outside) / max(np.sqrt(self.loss[mark] * rows), 1e-300))

    def weights(self, mark: int) -> PyTree:
        """The foretold weights."""
        at = self._at(mark)
        pulled = self.kernel.step(self._pulled(at.modes))
        carried = self.kernel.step(self.moments.momentum)
        return jax.tree.map(
            lambda w, p, m: (at.decay * w + at.carried * m + p).astype(w.dtype), self.base, pulled, carried
        )

    def momentum(self, mark: int) -> PyTree:
        """The foretold momentum."""
        at = self._at(mark)
        pulled = self._pulled(at.pending)
        return jax.tree.map(lambda m, p: (at.kept * m + p).astype(m.dtype), self.moments.momentum, pulled)

    def _at(self, mark: int) -> Coordinates:
        return self.coordinates[self.marks.index(mark)]

    def _pulled(self, modes: Array) -> PyTree:
        combined = modes @ self.space.vectors[: self.space.applied]
        return self.kernel.pull(combined.reshape(self.space.shape))


def preconditioned(kernel: EmpiricalKernel, second: PyTree, settings: AdamSettings) -> EmpiricalKernel:
    """J P^-1 J^T with P = sqrt(v + eps_root) + eps."""
    rates = jax.tree.map(lambda v: 1 / (jnp.sqrt(v + settings.eps_root) + settings.eps), second)
    return replace(kernel, rates=rates)


def stage(
    kernel: EmpiricalKernel,
    base: PyTree,
    residual: Float[Array, "functions points"],
    moments: Moments,
    settings: AdamSettings,
    loss_scale: float,
    marks: tuple[int, ...],
    applications: int,
    tolerance: float,
) -> Stage:
    """Grows the space until at most `tolerance` of the residual at the last mark (up to step 5000) lies outside it.

    The loss trained is `loss_scale` times the mean squared residual; `applications` bounds the size of the space.
    """
    starts = [residual, np.asarray(kernel.push(kernel.step(moments.momentum)), np.float64)]
    if settings.weight_decay:
        starts.append(np.asarray(kernel.push(base), np.float64))
    space = block_krylov(kernel.apply, starts, max(len(starts), min(CHUNK, applications)))
    # Following the recurrence over a hundred thousand steps takes as long as many applications: do it once.
    near = tuple(mark for mark in marks if mark <= FOLLOWED_OFTEN) or (min(FOLLOWED_OFTEN, marks[0]),)
    while True:
        result = followed(kernel, base, moments, space, settings, loss_scale, near)
        if space.exhausted or space.applied >= applications or result.unresolved(near[-1]) <= tolerance:
            break
        more = max(CHUNK, space.applied // 2)
        space = extended(space, kernel.apply, min(more, applications - space.applied))
    return result if near == marks else followed(kernel, base, moments, space, settings, loss_scale, marks)


def followed(
    kernel: EmpiricalKernel,
    base: PyTree,
    moments: Moments,
    space: BlockKrylov,
    settings: AdamSettings,
    loss_scale: float,
    marks: tuple[int, ...],
) -> Stage:
    """Iterates the recurrence step by step, every eigenvector of the projected kernel by itself.

    r_k = r_0 + (decay - 1) J w_0 + carried J S m_0 + Theta modes.
    """
    rows = space.vectors.shape[1]
    gradient_scale = 2 * loss_scale / rows
    values, vectors = space.projected()
    start = vectors.T @ space.coordinates[: space.applied]
    residual, carried_image = start[:, 0], start[:, 1]
    decay_image = start[:, 2] if settings.weight_decay else np.zeros_like(residual)
    steps, b1 = marks[-1], settings.b1
    rates = settings.rates(moments.count, steps)
    corrections = 1 - b1 ** (moments.count + 1.0 + np.arange(steps))
    # Training does not leave the edge of stability: a mode beyond it oscillates about its minimum with a bounded
    # amplitude, where the recurrence would explode. Slowed down to just within, it decays to that minimum.
    stable = EDGE * settings.stable_curvature
    curvatures = gradient_scale * values
    losses, found = np.empty(steps + 1), []
    modes, pending = np.zeros_like(values), np.zeros_like(values)
    decay, carried, kept = 1.0, 0.0, 1.0
    slowed, last_rate = np.ones_like(values), np.nan
    for step in range(steps + 1):
        current = residual + (decay - 1) * decay_image + carried * carried_image + values * modes
        losses[step] = current @ current / rows
        if step in marks:
            found.append(Coordinates(vectors @ modes, vectors @ pending, decay, carried, kept))
        if step == steps:
            break
        rate, shrink = rates[step], 1 - rates[step] * settings.weight_decay
        if rate != last_rate:
            slowed, last_rate = stable / np.maximum(rate * curvatures, stable), rate
        pending = b1 * pending + ((1 - b1) * gradient_scale) * current
        kept *= b1
        modes = shrink * modes - (rate / corrections[step]) * slowed * pending
        decay, carried = shrink * decay, shrink * carried - rate / corrections[step] * kept
    curvature = float(rates[0] * np.max(curvatures) / settings.stable_curvature) if len(values) else 0.0
    return Stage(kernel, base, moments, space, losses, marks, tuple(found), curvature)
