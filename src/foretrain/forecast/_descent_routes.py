"""How many steps each linear method needs, all from one Krylov space: only the polynomial changes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from foretrain.data import OperatorDataset
from foretrain.forecast._chebyshev import Chebyshev
from foretrain.forecast._curves import Forecast
from foretrain.forecast._kernels import limit_kernels
from foretrain.forecast._methods import GradientDescent
from foretrain.forecast._momentum import HeavyBall
from foretrain.forecast._spectral import loss_bounds, spectral_curves
from foretrain.models import ShallowOperator

MOMENTA = (0.9, 0.97, 0.99, 0.997, 0.999)
OUTER_RATE = 100.0
"""How much faster the outer layer moves; wide networks at ten times that need about as many steps."""
PER_DECADE = 12
FINEST = -1.0
"""Tolerance of the Krylov spaces here. No gap is that small, so there are as many vectors as are allowed: fast methods
need more of them than gradient descent to be resolved."""
RESOLVED = 1.1
"""The two quadratures of the loss agree to this ratio as far as a forecast is believed (see `horizon_of`)."""


@dataclass(frozen=True)
class Reach:
    """Where a method gets.

    Attributes:
        steps: to the target, or to the least error if the target is not reached.
        error: forecast there.
        reached: which of the two.
        last: the last step that was looked at, as far as the forecast is believed.
    """

    steps: int
    error: float
    reached: bool
    last: int

    def beats(self, other: "Reach | None") -> bool:
        """Sooner at the target; or there at all; or, where neither is, closer to it."""
        if other is None or self.reached != other.reached:
            return other is None or self.reached
        return self.steps < other.steps if self.reached else self.error < other.error


def first_step(error_at: Callable[[int], float], target: float, last: int) -> Reach:
    """The first step at which an error is at most the target, found on a logarithmic grid and then by bisection.

    The step before it is above the target. **An error that dips below the target and back between two steps of the
    grid (12 a decade) is overlooked.**
    """
    seen: dict[int, float] = {}
    above = -1
    for below in (0, *_logarithmic(last)):
        seen[below] = error_at(below)
        if seen[below] <= target:
            break
        above = below
    else:
        best = min(seen, key=lambda step: seen[step])
        return Reach(best, seen[best], False, last)
    while below - above > 1:
        middle = (above + below) // 2
        seen[middle] = error_at(middle)
        above, below = (above, middle) if seen[middle] <= target else (middle, below)
    return Reach(below, seen[below], True, last)


def gradient_descent(told: Forecast, target: float) -> Reach:
    """The method that was forecast, by its own curves."""
    return first_step(told.error_at, target, told.horizon)


def heavy_ball(told: Forecast, target: float) -> tuple[float, Reach]:
    """The best of a few momenta, and where it gets."""
    best: tuple[float, Reach | None] = (MOMENTA[0], None)
    for momentum in MOMENTA:
        moved = replace(told, method=HeavyBall(momentum).with_step_size(told.eigenvalue_max))
        last = moved.horizon
        if best[1] is not None and best[1].reached:
            # Later than the best known is of no interest.
            last = min(last, best[1].steps)
        reach = first_step(moved.error_at, target, last)
        if reach.beats(best[1]):
            best = (momentum, reach)
    assert best[1] is not None
    return best[0], best[1]


def chebyshev(told: Forecast, target: float) -> Reach:
    """The least K for which Chebyshev's method made for K steps reaches the target in them."""

    def made_for(steps: int) -> Forecast:
        return replace(told, method=Chebyshev(steps=max(steps, 1)).with_step_size(told.eigenvalue_max))

    last = 1
    for steps in _logarithmic(10**12):
        lower, upper = loss_bounds(told.curves.basis, made_for(steps).method, np.array([steps]), told.curves.rows)
        if not upper[0] <= RESOLVED * lower[0]:
            break
        last = steps
    return first_step(lambda steps: made_for(steps).error_at(steps), target, last)


def two_timescales(
    told: Forecast, model: ShallowOperator, learn: OperatorDataset, check: OperatorDataset, target: float
) -> Reach:
    """Gradient descent whose outer layer is trained too, `OUTER_RATE` times as fast: a kernel of its own.

        Theta = K(U) (x) [D(Y) + OUTER_RATE K(Y)] + D(U) (x) K(Y)

    Arguments:
        told: of the model; its test curves know what the drawn network starts from.
        model: the planned one.
        learn, check: the functions that those curves learn from and are tested on.
    """
    known = told.test_curves
    assert known is not None
    assert known.test is not None
    fast = GradientDescent(rates={"outer": OUTER_RATE})
    gram, cross = limit_kernels(replace(model, train_outer=True), learn, check, fast.rates)
    eigenvalue_max = gram.eigenvalue_max(1e-4)
    method = fast.with_step_size(eigenvalue_max)
    curves = spectral_curves(
        gram.apply,
        known.basis.norm * known.basis.vectors[0],
        method,
        told.steps,
        tolerance=FINEST,
        max_krylov=known.basis_size,
        test=cross,
        test_start=known.test.start,
        test_truth=known.test.truth,
        offset=known.test.offset,
    )
    return gradient_descent(replace(told, method=method, curves=curves, test_curves=curves), target)


def _logarithmic(last: int) -> Iterator[int]:
    """1, 2, ... , `last`, thinning out."""
    count = int(PER_DECADE * np.log10(max(last, 1))) + 2
    yield from (int(step) for step in np.unique(np.round(np.logspace(0, np.log10(max(last, 1)), count))))
