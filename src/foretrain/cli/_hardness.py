"""How hard data looks: what models that need no training reach on functions held out."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from foretrain.data import OperatorDataset, mean_relative_error

Array = np.ndarray
MOST_FUNCTIONS = 1000
TOO_EASY = 0.05
"""Of the error of predicting the mean: a linear model below that leaves nothing to tell methods apart."""
WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Widths of the kernel tried, in median distances between input functions."""


@dataclass(frozen=True)
class Baselines:
    """Mean relative errors on held-out functions (on all, where there are fewer than eight)."""

    mean: float
    linear: float
    kernel: float
    held_out: bool

    @property
    def looks(self) -> str:
        """Whether a linear model is nearly enough."""
        return "linear: too easy to judge models by" if self.linear < TOO_EASY * self.mean else "nonlinear"

    @property
    def hardness(self) -> str:
        """In words, by the better of the baselines."""
        if not self.held_out:
            return "too few functions to tell"
        best = min(self.linear, self.kernel)
        return next(words for limit, words in HARDNESS if best < limit)


HARDNESS = (
    (0.01, "easy: a model without training is within 1 %"),
    (0.05, "moderate: a model without training is within 5 %"),
    (0.2, "hard: a model without training is 5 to 20 % off"),
    (float("inf"), "very hard, or too few functions: a model without training is 20 % off and more"),
)


def baselines(data: OperatorDataset) -> Baselines:
    """Errors of the mean output, of linear regression and of a Gaussian kernel with its width chosen by validation."""
    learn, check = data.split(max(2, len(data) // 6)) if len(data) >= 8 else (data, data)
    mean_in, mean_out = learn.inputs.mean(axis=0), learn.outputs.mean(axis=0)
    operator = np.linalg.lstsq(learn.inputs - mean_in, learn.outputs - mean_out, rcond=1e-10)[0]
    return Baselines(
        mean=mean_relative_error(np.broadcast_to(mean_out, check.outputs.shape), check.outputs),
        linear=mean_relative_error(mean_out + (check.inputs - mean_in) @ operator, check.outputs),
        kernel=_kernel_error(learn, check),
        held_out=check is not data,
    )


def _kernel_error(learn: OperatorDataset, check: OperatorDataset) -> float:
    count = min(len(learn), MOST_FUNCTIONS)
    inputs, outputs = learn.inputs[:count], learn.outputs[:count]
    held = max(1, count // 4)
    width = min(WIDTHS, key=lambda w: _error(inputs[held:], outputs[held:], inputs[:held], outputs[:held], w))
    return _error(inputs, outputs, check.inputs, check.outputs, width)


def _error(inputs: Array, outputs: Array, check_inputs: Array, truth: Array, width: float) -> float:
    distances = _squared_distances(inputs, inputs)
    scale = width**2 * (float(np.median(distances[distances > 0])) if np.any(distances > 0) else 1.0)
    kernel = np.exp(-distances / (2 * scale)) + 1e-9 * np.eye(len(inputs))
    mean = outputs.mean(axis=0)
    weights = scipy.linalg.solve(kernel, outputs - mean, assume_a="pos")
    return mean_relative_error(mean + np.exp(-_squared_distances(check_inputs, inputs) / (2 * scale)) @ weights, truth)


def _squared_distances(first: Array, second: Array) -> Float[Array, "first second"]:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return np.maximum(squares - 2 * first @ second.T, 0.0)
