"""Forecasts of Adam handed on from one linearisation of the network to the next."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, PyTree

from foretrain.forecast._adam_stage import AdamSettings, Moments, Stage, followed, preconditioned, stage
from foretrain.tangent import EmpiricalKernel

Array = np.ndarray
UNRESOLVED = 0.05
NOT_LINEAR = 0.5
"""A departure, as a logarithm of the loss, after which handing on would only carry it along."""
FOLLOWED = 0.25
"""The part of a change of the preconditioner, followed from stage to stage, that still counts as uncertain."""
AT_THE_EDGE = 0.85
"""Of the largest stable curvature: from here on oscillations feed the second moment as fast as it forgets."""


@dataclass(frozen=True)
class TestFunctions:
    """Functions whose error is to be forecast.

    Attributes:
        inputs, points: as the kernel's function takes them.
        truth: in the units of that function, [functions, points].
        offset: what to add for physical units, over what to multiply with.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    inputs: ArrayLike
    points: ArrayLike
    truth: Float[Array, "functions points"]
    offset: float = 0.0

    def error(self, outputs: Float[Array, "functions points"]) -> float:
        """Mean relative L2 error."""
        size = np.linalg.norm(self.truth + self.offset, axis=1)
        return float(np.mean(np.linalg.norm(outputs - self.truth, axis=1) / size))


class Relay:
    """Forecasts handed on from one linearisation to the next, and what was measured on the way."""

    def __init__(
        self,
        kernel: EmpiricalKernel,
        target: Array,
        moments: Moments,
        settings: AdamSettings,
        loss_scale: float,
        full_batch: bool,
        test: TestFunctions | None,
    ) -> None:
        self.kernel, self.target, self.moments, self.settings = kernel, target, moments, settings
        self.loss_scale, self.full_batch, self.test = loss_scale, full_batch, test
        self.weights, self.second, self.residual = kernel.weights, moments.second, self._residual(kernel.weights)
        self.loss = [float(np.mean(self.residual**2))]
        self.position = self.applications = self.largest_space = self.stages = 0
        self.curvature, self.drift, self.unsure = math.nan, 0.0, 0.0
        self.marks, self.measured, self.departure, self.test_error = [0], [self.loss[0]], [0.0], [math.nan]
        self.gap = 0.0
        if test is not None:
            self.test_error[0] = test.error(self._test_outputs(kernel.weights))

    def advance(self, marks: tuple[int, ...], applications: int, tolerance: float) -> int:
        """Goes on to the last mark up to which the network is linear enough; 0, and stays, if it is at none."""
        now = self._stage(marks, applications)
        for mark in reversed(marks):
            weights = now.weights(mark)
            residual = self._residual(weights)
            gap, left_out = abs(self._gap(residual, now.loss[mark])), now.unresolved(mark)
            if (gap <= tolerance and left_out <= 2 * UNRESOLVED) or mark == marks[0]:
                break
        if gap > NOT_LINEAR:
            self.kernel, self.second = replace(self.kernel, weights=self.weights), self.moments.second
            return 0
        second = self._second(now, mark, self._gradient(weights, residual))
        kept, drift = self._keeps(now), _relative_change(now.moments.second, second, now.moments.momentum)
        self.drift += drift
        # What is followed from stage to stage is known better than what is kept though it would move.
        self.unsure += abs(drift) * (1.0 if kept else FOLLOWED)
        self.loss.extend(now.loss[1 : mark + 1])
        self.loss[-1] = float(np.mean(residual**2))
        self.gap += gap + left_out**2
        self.before, self.start = now, mark
        self.weights, self.residual, self.position = weights, residual, self.position + mark
        self.moments = Moments(now.momentum(mark), now.moments.second if kept else second, now.moments.count + mark)
        self._record(self.position, self.loss[-1], self.gap, weights, None)
        return mark

    def look_ahead(self, steps: int) -> None:
        """Linearises where the stage just left would lead: in the middle of the next, for an error of second order.

        A stage that uses the Jacobian of its start lags behind features that move; the middle costs the same.
        """
        now, ahead = self.before, self.start + steps
        further = followed(
            now.kernel, now.base, now.moments, now.space, self.settings, self.loss_scale, (self.start, ahead)
        )
        weights = further.weights(ahead)
        gradient = self._gradient(weights, self._residual(weights))
        self.second = now.moments.second if self._keeps(now) else self._second(further, ahead, gradient)
        self.kernel = replace(self.kernel, weights=weights)

    def finish(self, marks: tuple[int, ...], applications: int) -> None:
        """One linear forecast to the last mark, and at every mark the real network at the foretold weights."""
        now, start, worst = self._stage(marks, applications), self.position, self.gap
        self.loss.extend(now.loss[1:])
        for mark in marks:
            weights = now.weights(mark)
            residual = self._residual(weights)
            worst = max(worst, self.gap + abs(self._gap(residual, now.loss[mark])))
            self._record(start + mark, float(np.mean(residual**2)), worst, weights, now)
        second = self._second(now, marks[-1], self._gradient(weights, residual))
        drift = _relative_change(now.moments.second, second, now.moments.momentum)
        self.drift, self.unsure = self.drift + drift, self.unsure + abs(drift)
        self.position += marks[-1]

    def _stage(self, marks: tuple[int, ...], applications: int) -> Stage:
        kernel = preconditioned(self.kernel, self.second, self.settings)
        now = stage(
            kernel,
            self.weights,
            self.residual,
            self.moments,
            self.settings,
            self.loss_scale,
            marks,
            applications,
            UNRESOLVED,
        )
        self.applications += now.space.applied
        self.largest_space = max(self.largest_space, now.space.applied)
        self.stages += 1
        self.curvature = now.curvature if self.stages == 1 else self.curvature
        return now

    def _record(self, step: int, measured: float, departure: float, weights: PyTree, linear: Stage | None) -> None:
        self.marks.append(step)
        self.measured.append(measured)
        self.departure.append(departure)
        error = math.nan
        if self.test is not None:
            if linear is None:
                outputs = self._test_outputs(weights)
            else:
                change = linear.kernel.push(
                    jax.tree.map(jnp.subtract, weights, linear.base), self.test.inputs, self.test.points
                )
                outputs = self._test_outputs(linear.base) + change
            error = self.test.error(outputs)
        self.test_error.append(error)

    def _residual(self, weights: PyTree) -> Array:
        return np.asarray(replace(self.kernel, weights=weights).outputs(), np.float64) - self.target

    def _test_outputs(self, weights: PyTree) -> Array:
        assert self.test is not None
        inputs = jnp.asarray(self.test.inputs, self.kernel.inputs.dtype)
        points = jnp.asarray(self.test.points, self.kernel.points.dtype)
        return np.asarray(replace(self.kernel, weights=weights, inputs=inputs, points=points).outputs(), np.float64)

    @staticmethod
    def _gap(residual: Array, linear: float) -> float:
        real = float(np.mean(residual**2))
        return math.log(real / linear) if math.isfinite(real) and real > 0 and linear > 0 else math.inf

    def _gradient(self, weights: PyTree, residual: Array) -> PyTree:
        scale = 2 * self.loss_scale / residual.size
        return replace(self.kernel, weights=weights).pull(scale * residual)

    def _second(self, now: Stage, mark: int, last: PyTree) -> PyTree:
        """v after the stage, from the gradients at its two ends."""
        first, b2, count = self._gradient(now.base, self._residual(now.base)), self.settings.b2, now.moments.count
        # The bias-corrected v is a mean over all steps so far, young runs' faster to forget.
        remember = b2**mark * (1 - b2**count) / (1 - b2 ** (count + mark))
        return jax.tree.map(
            lambda v, a, b: remember * v + (1 - remember) * (a**2 + b**2) / 2, now.moments.second, first, last
        )

    def _keeps(self, now: Stage) -> bool:
        """Whether the second moment is taken to stay, as oscillation or noise feeds it."""
        return not self.full_batch or now.curvature >= AT_THE_EDGE


def _relative_change(before: PyTree, after: PyTree, momentum: PyTree) -> float:
    """Mean change of log sqrt(v), weights that move most counting most."""
    tops, bottoms = 0.0, 0.0
    trees = zip(jax.tree.leaves(before), jax.tree.leaves(after), jax.tree.leaves(momentum), strict=True)
    for old, new, moving in trees:
        old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
        speed = np.asarray(moving, np.float64) ** 2 / np.sqrt(np.maximum(old, 1e-300))
        known = (old > 0) & (new > 0)
        tops += float(np.sum(speed[known] * np.log(new[known] / old[known]) / 2))
        bottoms += float(np.sum(speed[known]))
    return tops / bottoms if bottoms > 0 else 0.0
