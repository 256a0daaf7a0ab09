"""What training costs on this machine: measured at small widths, predicted for others."""

import time
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import numpy as np

from foretrain.data import OperatorDataset
from foretrain.forecast._descent_step import training_arrays, training_step
from foretrain.forecast._kernels import trained_outputs
from foretrain.models import ShallowOperator, draw_network
from foretrain.tangent import bytes_per_function


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


def step_bytes(model: Any, data: OperatorDataset) -> int:
    """Estimated peak memory of one full-batch step in float32: activations, their cotangents, weights, gradients.

    Read off the traced program of the network's outputs: nothing is allocated.
    """
    if isinstance(model, ShallowOperator):
        functions, points = data.outputs.shape
        neurons = model.branch_width * (model.width if model.form == "block" else 1)
        activations = functions * (2 * neurons + 3 * model.width) + points * 3 * model.width + 3 * functions * points
        return 4 * (activations + 3 * model.parameter_count(data))
    network = draw_network(model, data, 0)
    inputs, points, _ = training_arrays(network, data)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(network) if eqx.is_array(leaf))
    return len(inputs) * bytes_per_function(trained_outputs, network, inputs, points) + 3 * weights


def measure_cost(
    model: Any, data: OperatorDataset, *, price_per_hour: float = 0.0, widths: tuple[int, int] = (64, 256)
) -> Cost:
    """Times a few steps and extrapolates.

    Of a shallow operator, at two small widths on the full data: all work of one step is linear in the width,
    seconds(m) = a + b m. Of another model, at its own size on a subset of the functions, if the whole is large.
    """
    if not isinstance(model, ShallowOperator):
        return Cost(_seconds_on_subsets(model, data), step_bytes(model, data), price_per_hour)
    if model.width <= widths[1]:
        return Cost(_seconds_per_step(model, data), step_bytes(model, data), price_per_hour)
    small, large = (_seconds_per_step(replace(model, width=width), data) for width in widths)
    slope = max(0.0, (large - small) / (widths[1] - widths[0]))
    seconds = large + slope * (model.width - widths[1])
    return Cost(max(seconds, large), step_bytes(model, data), price_per_hour)


def _seconds_on_subsets(model: Any, data: OperatorDataset, functions: int = 128) -> float:
    """Linear in the number of functions, beyond `functions`."""
    if len(data) <= functions:
        return _seconds_per_step(model, data)
    half = _seconds_per_step(model, data.take(np.arange(functions // 2)), 2)
    whole = _seconds_per_step(model, data.take(np.arange(functions)), 2)
    return whole + max(0.0, whole - half) / (functions - functions // 2) * (len(data) - functions)


def _seconds_per_step(model: Any, data: OperatorDataset, repeats: int = 4) -> float:
    network = draw_network(model, data, 0)
    inputs, points, target = training_arrays(network, data)
    jax.block_until_ready(training_step(network, inputs, points, target, 0.0)[1])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(training_step(network, inputs, points, target, 0.0)[1])
        times.append(time.perf_counter() - start)
    return float(np.median(times))
