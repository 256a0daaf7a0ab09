"""Students on boxes: few neurons with a filter on either side and biases that vary, learnt in two timescales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from foretrain._foundation import DataError, Progress
from foretrain.compression._budget import Budget, Package
from foretrain.compression._prune import select_neurons
from foretrain.compression._stages import Effort, StageLog
from foretrain.compression._width import within_budget
from foretrain.data import OperatorDataset, common_grid_shape
from foretrain.models import FilteredBoxNetwork, FilteredBoxOperator
from foretrain.tangent import Symmetry, SymmetryGroup
from foretrain.training import train_fourier_operator

LARGEST_WIDTH = {1: 64, 2: 20}
"""Neurons by the number of axes; more cost more descent than they gain within two minutes."""
INPUT_MODES = {1: 24, 2: 10}
OUTPUT_MODES = {1: (16, 32, 48), 2: (8, 12, 16)}
TRUNCATION_SHARE = 0.5
"""Of the error wanted, that output modes left out may make."""
USUAL_ERROR = 0.02
"""What is wanted where the budget does not say."""
RIDGE = 1e-6
HELD_OUT = 0.1
VALUES_OF_A_DESCENT = 9.5e8
"""Neuron values that a descent may evaluate: about a minute of a core."""
FEWEST_EVALUATIONS = 20
ROWS_FOR_SELECTION = 4000


def box_operator(data: OperatorDataset, budget: Budget) -> FilteredBoxOperator | None:
    """The widest operator on the data's box, its outputs' modes as few as the error wanted allows.

    None where there is no regular grid of one or two axes, or where the most modes miss too much of the outputs.
    """
    shape = common_grid_shape(data)
    if shape is None or len(shape) > 2 or min(shape) < 8:
        return None
    axes = len(shape)
    wanted = TRUNCATION_SHARE * (budget.error or USUAL_ERROR)
    for modes in OUTPUT_MODES[axes]:
        operator = FilteredBoxOperator(LARGEST_WIDTH[axes], INPUT_MODES[axes], modes)
        try:
            network = _drawn(replace(operator, width=1), data)
        except DataError:
            return None
        if _truncation(network, data) <= wanted:
            return operator
    return None


def box_students(
    operator: FilteredBoxOperator,
    learn: OperatorDataset,
    lessons: OperatorDataset,
    check: OperatorDataset,
    budget: Budget,
    measure: Callable[[FilteredBoxNetwork], Package],
    effort: Effort,
    log: StageLog,
    key: int,
    progress: Progress,
) -> list[FilteredBoxNetwork]:
    """The student as wide as the budget allows, and one of half its neurons.

    Arguments:
        operator: see `box_operator`.
        learn: the training functions, which settle scales; lessons: what students learn from.
        check: functions to measure the stages on; they decide nothing.
        measure: packages a network, for what its file costs.

    Raises:
        ForetrainError: a budget too small for any student.
    """
    started = log.clock()
    candidates = [replace(operator, output_modes=modes) for modes in _fewer(operator, learn)]
    # As many modes as leave room for a few neurons: on Darcy 6 neurons of 12 modes beat 14 of 8.
    chosen = within_budget(candidates, budget, learn, measure)[0]

    def distilled(operator: FilteredBoxOperator, before: str, seconds: float, share: float = 1.0) -> FilteredBoxNetwork:
        begun = log.clock()
        evaluations = _evaluations(operator, lessons, effort, share)
        training = train_fourier_operator(
            lessons,
            operator,
            evaluations=evaluations,
            key=key,
            ridge=RIDGE,
            held_out=HELD_OUT,
            test=check,
            record_every=evaluations,
            progress=progress,
        )
        first, last = training.curve[0], training.curve[-1]
        log.record(before, first.test_error, seconds)
        steps = f"distil, {last.evaluations} steps in the two-timescale limit"
        log.record(steps, last.test_error, log.clock() - begun)
        assert isinstance(training.network, FilteredBoxNetwork)
        return training.network

    student = distilled(chosen, f"draw {chosen.width} neurons", log.clock() - started)
    started, width = log.clock(), max(2, chosen.width // 2)
    begun = _Begun(**{**vars(chosen), "width": width}, network=_pruned(student, learn.inputs, width, key))
    smaller = distilled(begun, f"prune to {width} neurons, refit", log.clock() - started, share=0.25)
    return [student, smaller]


def with_images(data: OperatorDataset, symmetries: Sequence[Symmetry], copies: int, key: int) -> OperatorDataset:
    """The functions, and so many less one of their images under random elements of the group; none comes twice."""
    if not symmetries:
        return data
    elements = SymmetryGroup.generated_by(symmetries).elements
    rng, functions = np.random.default_rng(key), len(data)
    order = np.argsort(rng.random((functions, len(elements) - 1)), axis=1) + 1
    inputs, outputs = [data.inputs], [data.outputs]
    for column in order.T[: copies - 1]:
        image_inputs, image_outputs = np.empty_like(data.inputs), np.empty_like(data.outputs)
        for number in np.unique(column):
            rows, element = column == number, elements[number]
            image_inputs[rows] = element.of_inputs(data.inputs[rows])
            image_outputs[rows] = element.of_outputs(data.outputs[rows])
        inputs.append(image_inputs)
        outputs.append(image_outputs)
    everything, values = np.concatenate(inputs), np.concatenate(outputs)
    # The image of one function may be another one, or itself.
    kept = np.sort(np.unique(everything, axis=0, return_index=True)[1])
    return replace(data, inputs=everything[kept], outputs=values[kept])


@dataclass(frozen=True)
class _Begun(FilteredBoxOperator):
    """An operator whose weights are there already."""

    network: FilteredBoxNetwork | None = None

    def initialise(self, data: OperatorDataset, key: PRNGKeyArray) -> FilteredBoxNetwork:
        assert self.network is not None
        return self.network


def _pruned(network: FilteredBoxNetwork, inputs: np.ndarray, keep: int, key: int) -> FilteredBoxNetwork:
    """The network with only the neurons that span the others' contributions; its outer layer is to be refitted."""
    width, (waves, columns) = len(network.biases), network.readout.shape
    rows = np.random.default_rng(key).permutation(len(inputs))[: -(-ROWS_FOR_SELECTION // waves)]
    hidden = network.hidden(network.coefficients(inputs[rows]))[:, 0]
    parts = np.asarray(hidden * network.readout[:, None, :], np.float64)[..., :-1].reshape(
        waves, -1, columns // width, width
    )
    chosen = select_neurons(parts.sum(axis=2).reshape(-1, width), keep)
    places = np.append((np.arange(columns // width)[:, None] * width + chosen).ravel(), columns - 1)
    weights = (network.filters[:, chosen], network.biases[chosen], network.readout[:, places])
    return eqx.tree_at(lambda net: (net.filters, net.biases, net.readout), network, weights)


def _fewer(operator: FilteredBoxOperator, data: OperatorDataset) -> list[int]:
    shape = common_grid_shape(data)
    assert shape is not None
    return [modes for modes in OUTPUT_MODES[len(shape)][::-1] if modes <= operator.output_modes]


def _evaluations(operator: FilteredBoxOperator, lessons: OperatorDataset, effort: Effort, share: float) -> int:
    """How often a descent evaluates its loss: as much work for every width, within limits."""
    each = len(lessons) * lessons.inputs.shape[1] * operator.width
    most = min(effort.evaluations, round(VALUES_OF_A_DESCENT / each))
    return max(round(share * most), min(FEWEST_EVALUATIONS, effort.evaluations))


def _truncation(network: FilteredBoxNetwork, data: OperatorDataset) -> float:
    """Relative error that the output modes leave, whatever the weights."""
    targets = network.scale.normalise(data.outputs)
    first, second = (np.asarray(table, np.float64) for table in network.synthesis)
    series = network.output_spectrum(targets)[:, 0].T.reshape(-1, first.shape[1], second.shape[1])
    left = (first @ series @ second.T).reshape(targets.shape) - targets
    return float(np.mean(np.linalg.norm(left, axis=1) / np.linalg.norm(targets, axis=1)))


def _drawn(operator: FilteredBoxOperator, data: OperatorDataset) -> FilteredBoxNetwork:
    return operator.initialise(data, jax.random.key(0))
