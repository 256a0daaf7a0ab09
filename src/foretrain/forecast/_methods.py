"""Training methods as polynomials: what k steps do to each eigendirection of the residual."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from foretrain._foundation import ForetrainError

Array = np.ndarray
SAFETY = 1.0


class Method(Protocol):
    """A linear training method: after k steps the residual is P_k(Theta) r_0."""

    @property
    def step_size(self) -> float | None:
        """h, or None until it is known."""
        ...

    @property
    def rates(self) -> Mapping[str, float] | None:
        """Relative step sizes of the network's weight groups (its parts by name), 1 where not given."""
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


class SteppingMethod(Method, Protocol):
    """A linear method that training can run: w_{k+1} = w_k + v_{k+1}, v_{k+1} = beta_k v_k - alpha_k S grad L."""

    @property
    def stable_below(self) -> float:
        """The largest h l that does not blow up."""
        ...

    @property
    def looks_ahead(self) -> bool:
        """Whether the gradient is that at w_k + beta_k v_k instead of w_k."""
        ...

    def coefficients(self, steps: Int[Array, " steps"]) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
        """alpha_k and beta_k of the steps from k to k + 1."""
        ...


class _Plain:
    """Without momentum, with the same step size all along."""

    step_size: float | None

    @property
    def stable_below(self) -> float:
        """2."""
        return 2.0

    @property
    def looks_ahead(self) -> bool:
        """No."""
        return False

    def coefficients(self, steps: Array) -> tuple[Array, Array]:
        """h and 0."""
        return np.full(len(steps), _known(self.step_size)), np.zeros(len(steps))


@dataclass(frozen=True)
class GradientDescent(_Plain):
    """Full-batch gradient descent, P_k(l) = (1 - h l)^k.

    Arguments:
        step_size: h, on the loss L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2 of the normalised outputs; by default
            1 / (largest eigenvalue), half the limit of stability.
        rates: relative step sizes of weight groups, such as {"outer": 100.0}: two timescales. Every group's own step
            size is h times its rate, and the eigenvalues are those of J S J^T.
    """

    step_size: float | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)

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
    rates: Mapping[str, float] | None = field(default=None, hash=False)

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
class _Momentum:
    """Methods whose polynomials obey P_{k+1} = t(h l) P_k - d(h l) P_{k-1}, P_0 = 1, P_1 = 1 - h l.

    The powers of its companion matrix make a late step cost no more than an early one. **Both families here have
    (1 - large)(1 - small) = h l for its eigenvalues,** which keeps the last digits of slow modes.
    """

    momentum: float = 0.9
    step_size: float | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ForetrainError(f"expected a momentum in [0, 1), came {self.momentum}")

    @property
    def stable_below(self) -> float:
        """2 + 2 b."""
        return 2 + 2 * self.momentum

    @property
    def looks_ahead(self) -> bool:
        """No."""
        return False

    def coefficients(self, steps: Array) -> tuple[Array, Array]:
        """h and the momentum."""
        return np.full(len(steps), _known(self.step_size)), np.full(len(steps), self.momentum)

    def _recurrence(self, progress: Array) -> tuple[Array, Array]:
        """t and d at h l."""
        raise NotImplementedError

    def _slow_below(self) -> float:
        """Half of the h l below which both eigenvalues are real."""
        raise NotImplementedError

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """P_k(l) by the recurrence."""
        progress = _known(self.step_size) * eigenvalues
        trace, determinant = (part.astype(complex) for part in self._recurrence(progress))
        root = np.sqrt(trace**2 - 4 * determinant)
        # Nearly equal roots are nudged apart; the error is of the order of the nudge.
        root = np.where(np.abs(root) < 1e-7, 1e-7, root)
        large, small = (trace + root) / 2, (trace - root) / 2
        first = 1 - progress
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
        progress = _known(self.step_size) * eigenvalues
        slow = progress < self._slow_below()
        progress = np.where(slow, progress, 0.0)
        trace, determinant = self._recurrence(progress)
        root = np.sqrt(trace**2 - 4 * determinant)
        small = (trace - root) / 2
        gap = progress / (1 - small)
        return slow, _column(steps) * np.log1p(-gap), small, gap * small / root


@dataclass(frozen=True)
class HeavyBall(_Momentum):
    """Gradient descent with momentum, P_{k+1} = (1 + b - h l) P_k - b P_{k-1}, P_0 = 1, P_1 = 1 - h l.

    Arguments:
        momentum: b in [0, 1).
        step_size: h; by default (1 + b) / (largest eigenvalue), half the limit of stability.

    Source: Polyak (1964).
    """

    def with_step_size(self, eigenvalue_max: float) -> "HeavyBall":
        """See `Method`."""
        if self.step_size is not None:
            return self
        return replace(self, step_size=SAFETY * (1 + self.momentum) / eigenvalue_max)

    def _recurrence(self, progress: Array) -> tuple[Array, Array]:
        return 1 + self.momentum - progress, np.full_like(progress, self.momentum)

    def _slow_below(self) -> float:
        return (1 - self.momentum**0.5) ** 2 / 2


@dataclass(frozen=True)
class Nesterov(_Momentum):
    """Nesterov's accelerated gradient with constant momentum, P_{k+1} = (1 - h l) [(1 + b) P_k - b P_{k-1}].

    Arguments:
        momentum: b in [0, 1).
        step_size: h; by default 1 / (largest eigenvalue); stable up to (2 + 2 b) / (1 + 2 b) times that.

    Source: Nesterov (1983); Sutskever et al. (2013) for the form with constant momentum.
    """

    @property
    def stable_below(self) -> float:
        """(2 + 2 b) / (1 + 2 b)."""
        return (2 + 2 * self.momentum) / (1 + 2 * self.momentum)

    @property
    def looks_ahead(self) -> bool:
        """Yes."""
        return True

    def with_step_size(self, eigenvalue_max: float) -> "Nesterov":
        """See `Method`."""
        return self if self.step_size is not None else replace(self, step_size=SAFETY / eigenvalue_max)

    def _recurrence(self, progress: Array) -> tuple[Array, Array]:
        return (1 - progress) * (1 + self.momentum), (1 - progress) * self.momentum

    def _slow_below(self) -> float:
        return ((1 - self.momentum) / (1 + self.momentum)) ** 2 / 2


@dataclass(frozen=True)
class ScheduledDescent:
    """Gradient descent whose step size follows a schedule, P_k(l) = prod_{i<k} (1 - h c_i l).

    Arguments:
        schedule: the factors c_0, c_1, ...; the last one holds for all steps beyond.
        step_size: h; by default 1 / (largest eigenvalue x largest factor).

    Raises:
        ForetrainError: an empty schedule, or factors that are negative or not finite.
    """

    schedule: tuple[float, ...]
    step_size: float | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        factors = np.asarray(self.schedule, float)
        if factors.ndim != 1 or not factors.size or not np.all(np.isfinite(factors) & (factors >= 0)):
            raise ForetrainError(
                "a step-size schedule: expected at least one factor, each finite and not negative, came "
                f"{factors.size} of which {int(np.sum(~(np.isfinite(factors) & (factors >= 0))))} are not"
            )
        if not np.any(factors > 0):
            raise ForetrainError("a step-size schedule: expected a factor above 0, came zeros only")

    @classmethod
    def cosine(cls, steps: int, *, warm_up: int = 0, final: float = 0.0) -> "ScheduledDescent":
        """Linear warm-up, then half a cosine from 1 to `final` at the last of `steps`."""
        if not 0 <= warm_up < steps:
            raise ForetrainError(f"expected a warm-up shorter than the {steps} steps, came {warm_up}")
        rise = (np.arange(warm_up) + 1) / (warm_up + 1)
        fall = np.linspace(0, np.pi, steps - warm_up)
        return cls(tuple(np.concatenate([rise, final + (1 - final) * (1 + np.cos(fall)) / 2]).tolist()))

    @property
    def stable_below(self) -> float:
        """2 over the largest factor."""
        return 2 / max(self.schedule)

    @property
    def looks_ahead(self) -> bool:
        """No."""
        return False

    def coefficients(self, steps: Array) -> tuple[Array, Array]:
        """h c_k and 0."""
        factors = np.asarray(self.schedule)[np.minimum(steps, len(self.schedule) - 1)]
        return _known(self.step_size) * factors, np.zeros(len(steps))

    def with_step_size(self, eigenvalue_max: float) -> "ScheduledDescent":
        """See `Method`."""
        if self.step_size is not None:
            return self
        return replace(self, step_size=SAFETY / (eigenvalue_max * max(self.schedule)))

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """The product of the steps' factors."""
        exponent, sign = self._logarithm(eigenvalues, steps)
        return sign * np.exp(exponent)

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - P_k(l)) / l."""
        positive = _positive(eigenvalues)
        exponent, sign = self._logarithm(positive, steps)
        return np.where(sign > 0, -np.expm1(exponent), 1 + np.exp(exponent)) / positive

    def _logarithm(self, eigenvalues: Array, steps: Array) -> tuple[Array, Array]:
        """log |P_k| and the sign of P_k, by sums over the schedule."""
        factors = np.asarray(self.schedule)
        progress = _known(self.step_size) * np.outer(factors, eigenvalues)
        slow, step = progress < 0.5, 1 - progress
        with np.errstate(divide="ignore"):
            # A step that meets an eigenvalue exactly removes that mode: the logarithm of zero.
            sizes = np.where(slow, np.log1p(-np.where(slow, progress, 0.0)), np.log(np.abs(step)))
        whole = np.minimum(_column(steps)[:, 0], len(factors))
        beyond = _column(steps) - whole[:, None]
        start = np.zeros((1, len(eigenvalues)))
        total = np.concatenate([start, np.cumsum(sizes, axis=0)])[whole]
        flips = np.concatenate([start, np.cumsum(step < 0, axis=0)])[whole]
        # Nothing beyond must stay nothing where the last factor's logarithm is infinite.
        total = total + np.where(beyond > 0, beyond * np.where(beyond > 0, sizes[-1], 0.0), 0.0)
        return total, np.where((flips + beyond * (step[-1] < 0)) % 2 == 0, 1.0, -1.0)


def _column(steps: Array) -> Array:
    return np.asarray(steps)[:, None].astype(int)


def _positive(eigenvalues: Array) -> Array:
    """Zero becomes so small that a quotient by it is the limit to the last digit."""
    return np.maximum(eigenvalues, 1e-200)


def _known(step_size: float | None) -> float:
    if step_size is None:
        raise ForetrainError("expected a step size, came none; call with_step_size(largest eigenvalue) first")
    return step_size
