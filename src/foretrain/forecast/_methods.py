"""Training methods as polynomials: what k steps do to each eigendirection of the residual."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError

Array = np.ndarray
SAFETY = 1.0


class Method(Protocol):
    """A linear training method: after k steps the residual is P_k(Theta) r_0."""

    @property
    def step_size(self) -> float | None:
        """h, or None until it is known."""
        ...

    def with_step_size(self, eigenvalue_max: float) -> "Method":
        """The same method with the step size that suits the largest eigenvalue, unless one was given."""
        ...

    def residual_factor(
        self, eigenvalues: Float[Array, " nodes"], steps: Float[Array, " steps"]
    ) -> Float[Array, "steps nodes"]:
        """P_k(l) for each step k and eigenvalue l."""
        ...

    def learnt_factor(
        self, eigenvalues: Float[Array, " nodes"], steps: Float[Array, " steps"]
    ) -> Float[Array, "steps nodes"]:
        """Q_k(l) = (1 - P_k(l)) / l, continued to l = 0."""
        ...


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent, P_k(l) = (1 - h l)^k.

    Arguments:
        step_size: h, on the loss L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2 of the normalised outputs; by default
            1 / (largest eigenvalue), half the limit of stability.
    """

    step_size: float | None = None

    def with_step_size(self, eigenvalue_max: float) -> "GradientDescent":
        """See `Method`."""
        return self if self.step_size is not None else replace(self, step_size=SAFETY / eigenvalue_max)

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - h l)^k."""
        base = 1 - _known(self.step_size) * eigenvalues
        return np.power(base[None, :], np.asarray(steps)[:, None].astype(int))

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - (1 - h l)^k) / l = h sum_{i<k} (1 - h l)^i."""
        return _quotient(self, eigenvalues, steps, _known(self.step_size))


@dataclass(frozen=True)
class GradientFlow:
    """The continuous-time limit, P_t(l) = exp(-t l) at time t = k h.

    Arguments:
        step_size: h, the time that counts as one step; by default 1 / (largest eigenvalue).
    """

    step_size: float | None = None

    def with_step_size(self, eigenvalue_max: float) -> "GradientFlow":
        """See `Method`."""
        return self if self.step_size is not None else replace(self, step_size=SAFETY / eigenvalue_max)

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """exp(-k h l)."""
        return np.exp(-_known(self.step_size) * np.outer(steps, eigenvalues))

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - exp(-k h l)) / l."""
        return _quotient(self, eigenvalues, steps, _known(self.step_size))


@dataclass(frozen=True)
class HeavyBall:
    """Gradient descent with momentum, P_{k+1} = (1 + b - h l) P_k - b P_{k-1}, P_0 = 1, P_1 = 1 - h l.

    Arguments:
        momentum: b in [0, 1).
        step_size: h; by default (1 + b) / (largest eigenvalue), half the limit of stability.

    Source: Polyak (1964).
    """

    momentum: float = 0.9
    step_size: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ForetrainError(f"expected a momentum in [0, 1), came {self.momentum}")

    def with_step_size(self, eigenvalue_max: float) -> "HeavyBall":
        """See `Method`."""
        if self.step_size is not None:
            return self
        return replace(self, step_size=SAFETY * (1 + self.momentum) / eigenvalue_max)

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """The three-term recurrence, by powers of its companion matrix, so that a late step costs no more."""
        h, b = _known(self.step_size), self.momentum
        trace = (1 + b - h * eigenvalues).astype(complex)
        root = np.sqrt(trace**2 - 4 * b)
        # Nearly equal roots are nudged apart; the error is of the order of the nudge.
        root = np.where(np.abs(root) < 1e-7, 1e-7, root)
        large, small = (trace + root) / 2, (trace - root) / 2
        first = 1 - h * eigenvalues
        k = np.asarray(steps)[:, None]
        return np.real(((first - small) * large**k - (first - large) * small**k) / root)

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - P_k(l)) / l."""
        return _quotient(self, eigenvalues, steps, _known(self.step_size) / (1 - self.momentum))


def _known(step_size: float | None) -> float:
    if step_size is None:
        raise ForetrainError("expected a step size, came none; call with_step_size(largest eigenvalue) first")
    return step_size


def _quotient(method: Method, eigenvalues: Array, steps: Array, speed: float) -> Array:
    """(1 - P_k(l)) / l; where k h l is below rounding, its limit k h."""
    steps = np.asarray(steps, np.float64)
    factor = 1 - method.residual_factor(eigenvalues, steps)
    tiny = speed * np.outer(np.maximum(steps, 1), eigenvalues) < 1e-9
    safe = np.where(eigenvalues > 0, eigenvalues, 1.0)
    return np.where(tiny, speed * steps[:, None], factor / safe)
