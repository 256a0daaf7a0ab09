"""Students on periodic grids: few neurons with a filter on either side, both sides learnt in two timescales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from foretrain._foundation import Progress
from foretrain.compression._budget import Budget, Package
from foretrain.compression._prune import select_neurons
from foretrain.compression._stages import Effort, StageLog
from foretrain.compression._width import NARROWEST, within_budget
from foretrain.data import OperatorDataset, common_grid_shape
from foretrain.models import FilteredFourierNetwork, FilteredFourierOperator
from foretrain.training import FourierPrior, choose_fourier_prior, train_fourier_operator

LARGEST_WIDTH = 128
"""More cost more descent than they gain within two minutes: at equal time 256 ended further from the teacher."""
LARGEST_MODE = 24
MOST_MODES = 128
MODE_SHARES = (1, 2 / 3, 4 / 9)
"""Of the inputs' wave numbers: within a budget fewer of them leave room for more neurons."""
PRIOR_FUNCTIONS = 500
HELD_OUT = 0.1
LESSONS_PER_NEURON = 5
"""Functions a descent sees for each neuron at least: with fewer, a student's weights outnumber what it is taught."""
PRODUCTS_OF_AN_EVALUATION = 6e9
"""An evaluation of the loss that costs more multiplications than this is made less often, in proportion: some 96
neurons on 1,500 functions. Wide students need fewer, they are nearer to their teacher from the start."""
LONGEST_DESCENT = 2
FEWEST_EVALUATIONS = 10
ROWS_FOR_SELECTION = 4000


def fourier_students(
    lessons: OperatorDataset,
    check: OperatorDataset,
    budget: Budget,
    measure: Callable[[FilteredFourierNetwork], Package],
    effort: Effort,
    log: StageLog,
    key: int,
    progress: Progress,
) -> list[FilteredFourierNetwork]:
    """The student as wide as the budget allows, and one of half its neurons.

        G(u) = sum_{r<=m} q_r * sigma( w_r * u + b_r )

    Random filters from a prior that suits the training functions (`choose_fourier_prior`), then descent with the outer
    filters always at their optimum, held-out lessons deciding when to stop (`train_fourier_operator`). The smaller
    student begins with the neurons that span those of the trained one.

    Arguments:
        lessons: what students learn from, the training functions first.
        check: functions to measure the stages on; they decide nothing.
        measure: packages a network, for what its file costs.

    Raises:
        ForetrainError: a budget too small for any student.
    """
    started, judges = log.clock(), _first(lessons, PRIOR_FUNCTIONS)
    most = FilteredFourierOperator(LARGEST_WIDTH, _input_modes(lessons, (budget.error or 0.01) / 4))
    prior = choose_fourier_prior(judges, most, key=key, progress=progress)
    fewer = {max(1, round(most.modes * share)): None for share in MODE_SHARES}
    fitting = within_budget([replace(prior.operator, modes=modes) for modes in fewer], budget, lessons, measure)
    operator, ridge = _best(fitting, judges, key, progress)
    chosen = log.clock() - started

    def distilled(operator: FilteredFourierOperator, before: str, seconds: float, share: float = 1.0) -> Any:
        started, taught = log.clock(), _taught(lessons, operator, effort)
        evaluations = _evaluations(taught, operator, effort, share)
        training = train_fourier_operator(
            taught,
            operator,
            evaluations=evaluations,
            key=key,
            ridge=ridge,
            held_out=HELD_OUT,
            test=check,
            record_every=evaluations,
            progress=progress,
        )
        first, last = training.curve[0], training.curve[-1]
        log.record(before, first.test_error, seconds)
        steps = f"distil, {last.evaluations} steps in the two-timescale limit"
        log.record(steps, last.test_error, log.clock() - started)
        return training.network

    student = distilled(operator, f"draw {operator.width} neurons from a prior", chosen)
    started, width = log.clock(), max(NARROWEST // 2, operator.width // 2)
    begun = _begun(operator, pruned(student, lessons.inputs, width, key))
    smaller = distilled(begun, f"prune to {width} neurons, refit", log.clock() - started, share=0.25)
    return [student, smaller]


def _best(
    operators: Sequence[FilteredFourierOperator], judges: OperatorDataset, key: int, progress: Progress
) -> tuple[FilteredFourierOperator, float]:
    """The first whose random filters do better on held-out functions than those of the next, and its ridge."""
    found: list[FourierPrior] = []
    for operator in operators:
        trial = choose_fourier_prior(
            judges, operator, choose=("ridge",), width=operator.width, key=key, progress=progress
        )
        if found and trial.held_out_error >= found[-1].held_out_error:
            break
        found.append(trial)
    return found[-1].operator, found[-1].ridge


def pruned(network: FilteredFourierNetwork, inputs: np.ndarray, keep: int, key: int) -> FilteredFourierNetwork:
    """The network with only the neurons that span the others' contributions; its outer filters are to be refitted."""
    functions = -(-ROWS_FOR_SELECTION // len(network.readout))
    rows = np.random.default_rng(key).permutation(len(inputs))[:functions]
    hidden = network.hidden(network.coefficients(inputs[rows]))
    count, (waves, width) = len(network.biases), network.readout.shape
    parts = np.asarray(hidden * network.readout[:, None, None, :], np.float64).reshape(waves, -1, 2, width // 2)
    chosen = select_neurons(parts.sum(axis=2).reshape(-1, count), keep)
    weights = (
        network.filters[:, chosen],
        network.biases[chosen],
        network.readout[:, np.concatenate([chosen, chosen + count])],
    )
    return eqx.tree_at(lambda net: (net.filters, net.biases, net.readout), network, weights)


@dataclass(frozen=True)
class _Begun(FilteredFourierOperator):
    """An operator whose weights are there already."""

    network: FilteredFourierNetwork | None = None

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> FilteredFourierNetwork:
        assert self.network is not None
        return self.network


def _begun(operator: FilteredFourierOperator, network: FilteredFourierNetwork) -> FilteredFourierOperator:
    return _Begun(**{**vars(operator), "width": len(network.biases)}, network=network)


def _drawn(operator: FilteredFourierOperator, data: OperatorDataset) -> Any:
    return operator.initialise(data, jax.random.key(0))


def _taught(lessons: OperatorDataset, operator: FilteredFourierOperator, effort: Effort) -> OperatorDataset:
    """The lessons that a descent sees, the training functions first."""
    samples = len(_drawn(replace(operator, width=1), lessons).sample_table)
    return _first(lessons, max(-(-effort.rows // samples), LESSONS_PER_NEURON * operator.width))


def _evaluations(taught: OperatorDataset, operator: FilteredFourierOperator, effort: Effort, share: float) -> int:
    """How often a descent evaluates its loss: as much work for every width, within limits."""
    network = _drawn(replace(operator, width=1), taught)
    samples, features = network.sample_table.shape
    neurons = 6 * samples * features * operator.width * (2 if operator.reflection else 1)
    normal_equations = 16 * len(network.readout) * operator.width**2
    factor = min(LONGEST_DESCENT, PRODUCTS_OF_AN_EVALUATION / (len(taught) * (neurons + normal_equations)))
    return max(round(share * factor * effort.evaluations), min(FEWEST_EVALUATIONS, effort.evaluations))


def _first(data: OperatorDataset, functions: int) -> OperatorDataset:
    return data.take(np.arange(min(len(data), functions)))


def _input_modes(data: OperatorDataset, error: float) -> int:
    """The wave number beyond which the inputs hold less than this error; less is asked of the outputs' own modes."""
    shape = common_grid_shape(data)
    assert shape is not None
    functions = data.inputs.reshape(len(data), *shape)
    power = np.mean(np.abs(np.fft.fftn(functions, axes=range(1, functions.ndim))) ** 2, axis=0)
    axes = np.meshgrid(*[np.abs(np.fft.fftfreq(size, 1 / size)) for size in shape], indexing="ij")
    largest = np.maximum.reduce(axes)
    order = np.arange(1, max(2, min(shape) // 2))
    beyond = np.sqrt([power[largest > wave].sum() / power.sum() for wave in order])
    needed = np.flatnonzero(beyond <= error)
    # Of each pair +-k one mode is kept.
    most = min(LARGEST_MODE, (int((2 * MOST_MODES) ** (1 / len(shape))) - 1) // 2)
    return min(most, int(order[needed[0]] if len(needed) else order[-1]))
