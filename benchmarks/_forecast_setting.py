"""Problems, models and methods of benchmarks/forecast.py, and training for real."""

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from _forecast_tables import MARKS, Result

import foretrain as ft
from foretrain.data import mean_relative_error
from foretrain.forecast import (
    advance,
    motion_of,
    outputs_on,
    training_arrays,
)

FUNCTIONS, TEST = 200, 100
STEPS, LONG_RUN = 1000, 10_000
DRAWS = {"gradient descent": (0, 100)}
"""Keys of the weights of models with a limit of infinite width; one of them where not given, and of other models."""
CHECKPOINTS = (500, 1000)
BURGERS, BURGERS_STEEP = "Burgers 0.1/(2 pi)", "Burgers 0.01"
MAKERS: dict[str, Callable[[int], ft.OperatorDataset]] = {
    BURGERS: lambda samples: ft.problems.burgers(samples, 0.1 / (2 * np.pi), resolution=32),
    BURGERS_STEEP: lambda samples: ft.problems.burgers(samples, 0.01, resolution=32),
    "Darcy 8x8": lambda samples: ft.problems.darcy(samples, resolution=8, simulation_resolution=64),
    "Advection II": lambda samples: ft.problems.advection(samples, "II", resolution=40, repeat_end=False),
    "Heat": lambda samples: ft.problems.heat(samples, resolution=32),
}
PROBLEMS = tuple(MAKERS)
MANY, MANY_FUNCTIONS = " of 1000", 1000
"""Ending of a problem's name, and how many functions it then has: pilots on quarters lead their deviations to them."""
PERIODIC = (BURGERS, BURGERS_STEEP, "Advection II")
MODELS: dict[str, Any] = {
    **{f"block {width}": ft.ShallowOperator(width, 8) for width in (64, 256, 1024)},
    **{f"shared {width}": ft.ShallowOperator(width, 64, form="shared") for width in (64, 256, 1024)},
    **{f"Fourier {width}": ft.ShallowFourierOperator(width, modes=8) for width in (32, 128, 512)},
    **{f"DeepONet {width}": ft.DeepONet(width) for width in (128, 512)},
    "FNO 16": ft.FNO(width=16, modes=8, depth=3, projection=32),
}
DEAR: dict[str, Any] = {"FNO 512": ft.FNO(width=512, modes=8, depth=3, projection=32)}
"""Trained on fewer functions, and on two problems only."""
METHODS: dict[str, Any] = {
    "gradient descent": ft.GradientDescent(),
    "heavy ball": ft.HeavyBall(0.9),
    "SGD 32": ft.StochasticDescent(32, functions=FUNCTIONS),
}
ON_MANY = ("block 256", "shared 256", "Fourier 128", "DeepONet 128")
ANY_METHOD = ("block 256", "shared 256", "Fourier 128", "DeepONet 128", "FNO 16")
"""Models that are also trained by other methods than gradient descent; --every-width: all of them."""


@dataclass(frozen=True)
class Case:
    """One line of the results; `name` is what --only looks at and what a later run recognises it by."""

    section: str
    problem: str
    model: str
    method: str

    @property
    def name(self) -> str:
        return " | ".join((self.section, self.problem, self.model, self.method))


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.processor


@functools.cache
def problem(name: str) -> tuple[ft.OperatorDataset, ft.OperatorDataset]:
    functions = MANY_FUNCTIONS if name.endswith(MANY) else FUNCTIONS
    return MAKERS[name.removesuffix(MANY)](functions + TEST).split(test=TEST, key=0)


def small_problem(name: str, functions: int = 64) -> tuple[ft.OperatorDataset, ft.OperatorDataset]:
    """Some of the training functions."""
    train, test = problem(name)
    return train.take(np.arange(functions)), test


def train_for_real(
    network: Any,
    train: ft.OperatorDataset,
    test: ft.OperatorDataset,
    method: Any,
    key: int = 0,
    marks: Iterable[int] = MARKS,
) -> Result:
    """Loss and test error at the marks; seconds of all steps (the first compiles) and of one step later on."""
    arrays, learnt, checked = training_arrays(network, train), outputs_on(network, train), outputs_on(network, test)
    truth = np.asarray(arrays[2], float)
    motion, done = motion_of(network, method), 0
    measured: Result = {"loss": [], "test_error": []}
    spans = []
    for mark in marks:
        clock = Clock()
        motion, _ = advance(motion, *arrays, method, done, mark - done, key=jax.random.key(key))
        jax.block_until_ready(eqx.filter(motion, eqx.is_array))
        spans.append((mark - done, *clock.read()))
        done = mark
        measured["loss"].append(float(np.mean((learnt(motion.network) - truth) ** 2)))
        outputs = network.scale.restore(checked(motion.network))
        measured["test_error"].append(mean_relative_error(outputs, test.outputs))
    measured["training_seconds"], measured["training_processor_seconds"] = (
        sum(span[which] for span in spans) for which in (1, 2)
    )
    measured["step_seconds"], measured["step_processor_seconds"] = (
        sum(span[which] for span in spans[1:]) / sum(span[0] for span in spans[1:]) for which in (1, 2)
    )
    return measured


def inside(lower: np.ndarray, values: np.ndarray, upper: np.ndarray) -> list[bool]:
    return [bool(held) for held in (lower <= values) & (values <= upper)]
