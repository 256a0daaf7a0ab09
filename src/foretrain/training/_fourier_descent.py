"""Descent on the reduced loss of a shallow Fourier operator: what is recorded, what is kept, and when it stops."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foretrain._foundation import Progress
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.models import FilteredBoxOperator, FilteredFourierOperator
from foretrain.training._reduced_fourier import FilteredNetwork, FourierCoefficients, ReducedFourierLoss, ReducedValue

STAGE = "two timescales (limit)"
LOOK_EVERY = 10
PATIENCE = 50
LEAST_GAIN = 0.05
FEWEST_TO_HOLD_OUT = 20
REFIT_FACTORS = (1e-2, 1e-1, 1.0, 1e1, 1e2)


@dataclass(frozen=True)
class FourierTrainingPoint:
    """One point of the training curve.

    Attributes:
        evaluations: of the reduced loss and its gradient so far.
        cpu_seconds: of the processor so far, compilation included, the measuring of this curve not; seconds: by the
            clock on the wall.
        train_error: root-mean-square relative error over the functions trained on.
        loss: mean squared residual of the normalised outputs on them.
        held_out_error: mean relative L2 error on the functions held out; nan if there are none. At the last point the
            lowest one met, from before the outer filters were fitted to these functions too.
        test_error: the same over the test functions; nan without any.
    """

    evaluations: int
    cpu_seconds: float
    seconds: float
    train_error: float
    loss: float
    held_out_error: float
    test_error: float


@dataclass(frozen=True)
class FourierTraining:
    """A trained shallow Fourier operator and how it got there.

    Attributes:
        network: at the lowest error met, on held-out functions if there are any; outer filters at their optimum on all
            training functions.
        curve: from the random filters (first point) to the network (last point); in between, outer filters are fitted
            without the functions held out.
        trained_numbers: filters, biases and outer filters; nothing else was fitted.
        ridge: of the last fit of the outer filters.
        stopped: why training ended, in words.
    """

    network: FilteredNetwork
    curve: tuple[FourierTrainingPoint, ...]
    trained_numbers: int
    ridge: float
    stopped: str


class FourierDescent:
    """The reduced loss as L-BFGS calls it, what has been best so far, and when to stop."""

    def __init__(
        self,
        operator: FilteredFourierOperator | FilteredBoxOperator,
        train: OperatorDataset,
        test: OperatorDataset | None,
        evaluations: int,
        key: int,
        ridge: float,
        held_out: float,
        record_every: int,
        progress: Progress,
    ) -> None:
        self.clock = _Clock()
        self.network = operator.initialise(train, jax.random.key(key))
        fitted, held = _divided(train, held_out, key)
        self.loss = ReducedFourierLoss(self.network, fitted, ridge)
        self.held = None if held is None else FourierCoefficients(self.network, held, self.loss.functions.piece)
        self.test, self.ridge, self.progress = test, ridge, progress
        self.limit, self.record_every, self.count, self.first = evaluations, record_every, 0, 1.0
        self.lowest: tuple[FilteredNetwork, ReducedValue] | None = None
        self.best: FilteredNetwork | None = None
        self.looks: list[tuple[int, float]] = []
        self.curve: list[FourierTrainingPoint] = []
        self.stopped = f"after the {evaluations:,} evaluations allowed"

    def __call__(self, point: Float[np.ndarray, " inner"]) -> tuple[float, Float[np.ndarray, " inner"]]:
        """Value and gradient, relative to the first value."""
        if self.count >= self.limit:
            raise Done
        filters, biases = self._weights(point)
        found = self.loss.evaluate(filters, biases)
        self.count += 1
        if self.lowest is None:
            self.first = found.value
        if self.lowest is None or found.value < self.lowest[1].value:
            self.lowest = self.loss.with_weights(filters, biases, found.readout), found
        if (self.count - 1) % LOOK_EVERY == 0:
            self._look()
        if (self.count - 1) % self.record_every == 0:
            with self.clock.stopped():
                held_error = self.held.error(self.lowest[0]) if self.held is not None else float("nan")
            self._record(self.lowest[0], held_error)
        self.progress(STAGE, self.count, self.limit, {"error": float(np.sqrt(self.lowest[1].data_term))})
        if self._settled():
            self.stopped = f"the held-out error fell by less than {LEAST_GAIN:.0%} over {PATIENCE} evaluations"
            raise Done
        return found.value / self.first, np.concatenate([np.ravel(slope) for slope in found.slopes]) / self.first

    def finished(self) -> FourierTraining:
        """The best filters, the outer filters fitted to all functions."""
        assert self.lowest is not None
        network, ridge, held_error = self.lowest[0], self.ridge, float("nan")
        if self.held is not None:
            if self.looks[-1][0] != self.count:
                self._look()
            assert self.best is not None
            held_error = min(error for _, error in self.looks)
            network, ridge = self._refit(self.best)
        self._record(network, held_error)
        self.progress(STAGE, self.limit, self.limit, {"error": self.curve[-1].train_error})
        numbers = sum(int(values.size) for values in (network.filters, network.biases, network.readout))
        return FourierTraining(network, tuple(self.curve), numbers, ridge, self.stopped)

    def _look(self) -> None:
        """At the functions held out."""
        assert self.lowest is not None
        if self.held is None:
            return
        error = self.held.error(self.lowest[0])
        if self.best is None or error < min(earlier for _, earlier in self.looks):
            self.best = self.lowest[0]
        self.looks.append((self.count, error))

    def _settled(self) -> bool:
        if not self.looks or self.looks[-1][0] != self.count or self.count <= PATIENCE:
            return False
        before = min(error for count, error in self.looks if count <= self.count - PATIENCE)
        return min(error for _, error in self.looks) > (1 - LEAST_GAIN) * before

    def _refit(self, network: FilteredNetwork) -> tuple[FilteredNetwork, float]:
        assert self.held is not None
        equations = self.loss.functions.normal_equations(network)
        unit, found = self.loss.ridges / self.ridge, []
        for factor in REFIT_FACTORS:
            readout = equations.solution(factor * self.loss.ridges)
            error = self.held.error(self.loss.with_weights(network.filters, network.biases, readout))
            found.append((error, factor * self.ridge))
        ridge = min(found)[1]
        # Both are means over their functions.
        share = len(self.held.relative) / (len(self.held.relative) + len(self.loss.functions.relative))
        everything = equations.times(1 - share) + self.held.normal_equations(network).times(share)
        return self.loss.with_weights(network.filters, network.biases, everything.solution(ridge * unit)), ridge

    def _record(self, network: FilteredNetwork, held_error: float) -> None:
        with self.clock.stopped():
            squares = self.loss.functions.squares(network)
            test_error = float("nan")
            if self.test is not None:
                test_error = mean_relative_error(np.asarray(network(self.test.inputs)), self.test.outputs)
        train_error = float(np.sqrt(np.mean(squares * self.loss.functions.relative)))
        spent, passed = self.clock.spent()
        loss = float(np.mean(squares))
        self.curve.append(FourierTrainingPoint(self.count, spent, passed, train_error, loss, held_error, test_error))

    def _weights(self, point: np.ndarray) -> tuple[Array, Array]:
        shape, dtype = self.network.filters.shape, self.network.filters.dtype
        filters, biases = np.split(point, [shape[0] * shape[1]])
        return jnp.asarray(filters.reshape(shape), dtype), jnp.asarray(biases, dtype)


def _divided(data: OperatorDataset, held_out: float, key: int) -> tuple[OperatorDataset, OperatorDataset | None]:
    count = round(held_out * len(data))
    if len(data) < FEWEST_TO_HOLD_OUT or not 2 <= count <= len(data) - 2:
        return data, None
    return data.split(test=count, key=key)


class Done(Exception):
    """The held-out error has settled, or the evaluations are used up, which SciPy checks between line searches only."""


class _Clock:
    """Seconds of the processor and of the wall, less those spent on measuring."""

    def __init__(self) -> None:
        self._start = time.process_time(), time.perf_counter()

    def spent(self) -> tuple[float, float]:
        return time.process_time() - self._start[0], time.perf_counter() - self._start[1]

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        begun = time.process_time(), time.perf_counter()
        yield
        spent = time.process_time() - begun[0], time.perf_counter() - begun[1]
        self._start = self._start[0] + spent[0], self._start[1] + spent[1]
