"""What training costs on this machine: measured at small widths, predicted for others."""

import time
from dataclasses import dataclass, replace

import jax
import numpy as np

from foretrain.data import OperatorDataset
from foretrain.forecast._descent_step import training_arrays, training_step
from foretrain.models import ShallowOperator


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a training run.

    Attributes:
        seconds_per_step: on this machine, when nothing else runs on it.
        bytes: peak memory of one step beyond the data.
        price_per_hour: what an hour of this machine costs, in the user's currency.
    """

    seconds_per_step: float
    bytes: int
    price_per_hour: float = 0.0

    def seconds(self, steps: float) -> float:
        """Time of so many steps."""
        return self.seconds_per_step * steps

    def price(self, steps: float) -> float:
        """Money for so many steps."""
        return self.seconds(steps) / 3600 * self.price_per_hour


def step_bytes(model: ShallowOperator, data: OperatorDataset) -> int:
    """Estimated peak memory of one full-batch step in float32: activations, their cotangents, weights, gradients."""
    functions, points = data.outputs.shape
    neurons = model.branch_width * (model.width if model.form == "block" else 1)
    activations = functions * (2 * neurons + 3 * model.width) + points * 3 * model.width + 3 * functions * points
    return 4 * (activations + 3 * model.parameter_count(data))


def measure_cost(
    model: ShallowOperator, data: OperatorDataset, *, price_per_hour: float = 0.0, widths: tuple[int, int] = (64, 256)
) -> Cost:
    """Times a few steps at two small widths on the full data and extrapolates linearly to the model's width.

    seconds(m) = a + b m        (all work of one step is linear in the width)
    """
    if model.width <= widths[1]:
        return Cost(_seconds_per_step(model, data), step_bytes(model, data), price_per_hour)
    small, large = (_seconds_per_step(replace(model, width=width), data) for width in widths)
    slope = max(0.0, (large - small) / (widths[1] - widths[0]))
    seconds = large + slope * (model.width - widths[1])
    return Cost(max(seconds, large), step_bytes(model, data), price_per_hour)


def _seconds_per_step(model: ShallowOperator, data: OperatorDataset, repeats: int = 4) -> float:
    network = model.initialise(data, jax.random.key(0))
    inputs, points, target = training_arrays(network, data)
    jax.block_until_ready(training_step(network, inputs, points, target, 0.0))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(training_step(network, inputs, points, target, 0.0))
        times.append(time.perf_counter() - start)
    return float(np.median(times))
