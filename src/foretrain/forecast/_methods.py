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
        slow, exponent = self._slow_modes(eigenvalues, steps)
        base = 1 - _known(self.step_size) * eigenvalues
        return np.where(slow, np.exp(exponent), np.power(base[None, :], _column(steps)))

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - (1 - h l)^k) / l = h sum_{i<k} (1 - h l)^i."""
        positive = _positive(eigenvalues)
        slow, exponent = self._slow_modes(positive, steps)
        return np.where(slow, -np.expm1(exponent), 1 - self.residual_factor(positive, steps)) / positive

    def _slow_modes(self, eigenvalues: Array, steps: Array) -> tuple[Array, Array]:
        """Where h l is small, and there k log(1 - h l), which keeps what 1 - h l would round away."""
        progress = _known(self.step_size) * eigenvalues
        slow = progress < 0.5
        return slow, _column(steps) * np.log1p(-np.where(slow, progress, 0.0))


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
        positive = _positive(eigenvalues)
        return -np.expm1(-_known(self.step_size) * np.outer(steps, positive)) / positive


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
        k = _column(steps)
        powers = np.real(((first - small) * large**k - (first - large) * small**k) / root)
        slow, exponent, small_root, weight = self._slow_modes(eigenvalues, steps)
        return np.where(slow, (1 + weight) * np.exp(exponent) - weight * small_root**k, powers)

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - P_k(l)) / l."""
        positive = _positive(eigenvalues)
        slow, exponent, small_root, weight = self._slow_modes(positive, steps)
        learnt = -(1 + weight) * np.expm1(exponent) - weight * (1 - small_root ** _column(steps))
        return np.where(slow, learnt, 1 - self.residual_factor(positive, steps)) / positive

    def _slow_modes(self, eigenvalues: Array, steps: Array) -> tuple[Array, Array, Array, Array]:
        """Where h l is so small that both roots are real and apart, and there what keeps its last digits.

        P_k = (1 + weight) large^k - weight small^k,    exponent = k log(large),    large = 1 - h l / (1 - small)
        """
        h, b = _known(self.step_size), self.momentum
        slow = h * eigenvalues < (1 - b**0.5) ** 2 / 2
        progress = np.where(slow, h * eigenvalues, 0.0)
        root = np.sqrt((1 + b - progress) ** 2 - 4 * b)
        small = (1 + b - progress - root) / 2
        gap = progress / (1 - small)
        return slow, _column(steps) * np.log1p(-gap), small, gap * small / root


def _column(steps: Array) -> Array:
    return np.asarray(steps)[:, None].astype(int)


def _positive(eigenvalues: Array) -> Array:
    """Zero becomes so small that a quotient by it is the limit to the last digit."""
    return np.maximum(eigenvalues, 1e-200)


def _known(step_size: float | None) -> float:
    if step_size is None:
        raise ForetrainError("expected a step size, came none; call with_step_size(largest eigenvalue) first")
    return step_size
