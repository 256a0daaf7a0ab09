"""One pilot: a network trained for real beside what its kernel foretells, and the steps that pilots take."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.forecast._descent_step import training_arrays
from foretrain.forecast._kernels import drawn_kernels, limit_kernels, normalised_outputs, outputs_on
from foretrain.forecast._long_steps import LongSteps
from foretrain.forecast._methods import GradientDescent, Method
from foretrain.forecast._motion import advance, motion_of
from foretrain.forecast._spectral import spectral_curves
from foretrain.models import group_rates

Array = np.ndarray
Basis = Literal["infinite width", "drawn weights"]
Deviations = dict[Basis, Array]
"""log(measured / forecast) of loss and test error at the marks, [2, marks], for each kernel a forecast may rest on."""
STABLE_SHARE = 0.97
"""Of the limit of stability: pilots nearer to it would tell more of blowing up than of a forecast's error."""
CALM_STEP = 1.5
TOLERANCE = 1e-2
"""Of the loss that a pilot's kernel foretells for its last step."""


@dataclass(frozen=True)
class Pilot:
    """A network, what it learns from, and what it is tested on."""

    network: Any
    learn: OperatorDataset
    check: OperatorDataset
    method: Method

    def deviations(self, model: Any, bases: tuple[Basis, ...], marks: Array, key: int) -> Deviations:
        """What training for real differs by from each kernel's forecast."""
        sides: dict[Basis, tuple[Any, Any]] = {}
        if "infinite width" in bases:
            sides["infinite width"] = limit_kernels(model, self.learn, self.check, self.method.rates)
        if "drawn weights" in bases:
            sides["drawn weights"] = drawn_kernels(self.network, self.learn, self.check, self.method.rates)
        nearest, _ = sides[bases[-1]]
        stepping = scaled_to(self.method, nearest.eigenvalue_max(1e-3))
        if takes_long_steps(self.method):
            stepping = LongSteps.along(stepping, marks)
            marks = stepping.evaluations
        real = self._train(stepping, marks, key)
        return {
            basis: np.log(real / self._forecast(stepping, marks, kernel.apply, testing))
            for basis, (kernel, testing) in sides.items()
        }

    def _train(self, method: Any, marks: Array, key: int) -> Float[Array, "2 marks"]:
        """Losses and test errors at the marks."""
        arrays = training_arrays(self.network, self.learn)
        rates = group_rates(self.network, self.method.rates)
        motion, done = motion_of(self.network, method), 0
        learnt, checked = outputs_on(self.network, self.learn), outputs_on(self.network, self.check)
        losses, errors = [], []
        for mark in marks:
            motion, _ = advance(motion, *arrays, method, done, int(mark) - done, rates=rates, key=jax.random.key(key))
            done = int(mark)
            losses.append(np.mean((learnt(motion.network) - np.asarray(arrays[2])) ** 2))
            predictions = self.network.scale.restore(checked(motion.network))
            errors.append(mean_relative_error(predictions, self.check.outputs))
        return np.array([losses, errors])

    def _forecast(self, method: Method, marks: Array, apply: Any, testing: Any) -> Float[Array, "2 marks"]:
        """What a kernel foretells for this network's own initial outputs."""
        scale = self.network.scale
        curves = spectral_curves(
            apply,
            normalised_outputs(self.network, self.learn) - scale.normalise(self.learn.outputs),
            method,
            int(marks[-1]),
            tolerance=TOLERANCE,
            test=testing,
            test_start=normalised_outputs(self.network, self.check),
            test_truth=scale.normalise(self.check.outputs),
            offset=scale.offset / scale.scale,
        )
        lower, upper = curves.loss(method, marks)
        return np.array([np.sqrt(lower) * np.sqrt(upper), curves.test_error(method, marks)])


def takes_long_steps(method: Method) -> bool:
    """Whether pilots may follow a method, with a step size for a largest eigenvalue of one, from mark to mark.

    Near the limit of stability the fastest modes swing for long, and move features in a way that long steps do not.
    """
    return isinstance(method, GradientDescent) and (method.step_size or 1.0) <= CALM_STEP


def full_batch(method: Any) -> Any:
    """The method without what only the whole run has: minibatches, infinitely small steps, a step size of its own."""
    if hasattr(method, "batch_size") or not hasattr(method, "coefficients"):
        return GradientDescent(rates=method.rates)
    return replace(method, step_size=None) if "step_size" in vars(method) else method


def at_step(method: Any, relative_step: float | None) -> Any:
    """The method with a step size for a largest eigenvalue of one, if such a step is given and stable."""
    if relative_step is None or "step_size" not in vars(method):
        return method
    limit = getattr(method, "stable_below", np.inf)
    return replace(method, step_size=relative_step) if relative_step < STABLE_SHARE * limit else method


def scaled_to(method: Any, eigenvalue_max: float) -> Any:
    """The method for a largest eigenvalue, from that for an eigenvalue of one."""
    if method.step_size is not None and "step_size" in vars(method):
        return replace(method, step_size=method.step_size / eigenvalue_max)
    return method.with_step_size(eigenvalue_max)


def log_spaced_steps(steps: int, per_decade: int = 12) -> Array:
    """0, 1, ..., `steps` on a roughly logarithmic grid that contains 10, 30, 100, 300, 1000, ..."""
    decades = np.log10(max(steps, 1))
    grid = np.unique(np.round(np.logspace(0, decades, int(per_decade * decades) + 2)).astype(int))
    round_ones = [value * 10**power for power in range(1, 12) for value in (1, 3) if value * 10**power <= steps]
    return np.unique(np.concatenate([[0], grid, round_ones, [steps]])).astype(int)
