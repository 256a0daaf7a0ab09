"""Students between principal components: few neurons, all outputs from all inputs."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from foretrain._foundation import Progress
from foretrain.compression._budget import Budget, Package
from foretrain.compression._prune import select_neurons
from foretrain.compression._stages import Effort, StageLog
from foretrain.compression._width import within_budget
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.models import ComponentNetwork, ComponentOperator
from foretrain.training import refit_outer_layer, variable_projection

Batch = tuple[Array, np.ndarray]

WIDE = 4
LARGEST_WIDTH = 256
NARROWEST = 8
ROWS_FOR_SELECTION = 4000
COUNTS = ((6, 6), (12, 9), (24, 18), (48, 36), (96, 96))
"""Of principal components of inputs and outputs that are tried."""
USUAL = 2
TRIAL_WIDTH = 64
AS_GOOD = 1.05


def component_students(
    learn: OperatorDataset,
    lessons: OperatorDataset,
    check: OperatorDataset,
    budget: Budget,
    measure: Callable[[ComponentNetwork], Package],
    effort: Effort,
    log: StageLog,
    key: int,
    progress: Progress,
) -> list[ComponentNetwork]:
    """The student as wide as the budget allows, and one of half its neurons.

    Of four times as many random neurons it keeps those that pivoted QR picks, then descends with the outer layer
    always at its optimum; the smaller student begins with the neurons that span those of the trained one.

    Arguments:
        learn: the training functions, whose principal components students use.
        lessons: what they learn from.
        check: functions to measure the stages on; they decide nothing.
        measure: packages a network, for what its file costs.

    Raises:
        ForetrainError: a budget too small for any student.
    """
    started = log.clock()
    progress("pruning a wide draw", 0, 1)
    student = ComponentStudent.draw(wide_draw(learn, budget, measure, key), learn, key)
    drawn, keep = student.width, student.width // WIDE
    student = refitted(_selected(student, keep, lessons, key), lessons)
    progress("pruning a wide draw", 1, 1)
    log.record(f"prune {drawn:,} random neurons to {keep}", student.error(check), log.clock() - started)
    student = _distilled(student, lessons, check, effort, log, key, progress)
    started, keep = log.clock(), max(2, student.width // 2)
    smaller = refitted(_selected(student, keep, lessons, key), lessons)
    log.record(f"prune to {keep} neurons, refit", smaller.error(check), log.clock() - started)
    less = replace(effort, evaluations=max(1, effort.evaluations // 4))
    smaller = _distilled(smaller, lessons, check, less, log, key, progress)
    return [student.network, smaller.network]


def wide_draw(
    learn: OperatorDataset, budget: Budget, measure: Callable[[ComponentNetwork], Package], key: int = 0
) -> ComponentOperator:
    """An operator four times as wide as the budget allows a student, `LARGEST_WIDTH` students at most.

    More components than usual are kept where the budget has room for them and random neurons between them do better on
    held-out functions, as with functions that jump; fewer where there is no room for the usual ones.

    Raises:
        BudgetTooSmall: if not even a few neurons keep it.
    """
    functions, most = len(learn) - 1, (learn.inputs.shape[1], learn.outputs.shape[1])
    kept = [tuple(min(count, size, functions) for count, size in zip(counts, most, strict=True)) for counts in COUNTS]
    operators = [ComponentOperator(LARGEST_WIDTH, *counts) for counts in dict.fromkeys(kept)]
    fitting = within_budget(operators, budget, learn, measure, NARROWEST)
    usual = [operator for operator in fitting if operator.input_components >= kept[USUAL][0]]
    best = _best(usual, learn, key) if len(usual) > 1 else (usual or fitting[-1:])[0]
    return replace(best, width=WIDE * best.width)


def _best(operators: list[ComponentOperator], learn: OperatorDataset, key: int) -> ComponentOperator:
    """The one with the fewest components that is as good as any with random neurons, on a tenth of the functions."""
    order = np.random.default_rng(key).permutation(len(learn))
    judges = max(1, len(learn) // 10)
    check, rest = learn.take(order[:judges]), learn.take(order[judges:])
    errors = []
    for operator in operators:
        drawn = ComponentStudent.draw(replace(operator, width=min(operator.width, TRIAL_WIDTH)), rest, key)
        errors.append(refitted(drawn, rest).error(check))
    return next(o for o, error in zip(operators, errors, strict=True) if error <= AS_GOOD * min(errors))


class ComponentStudent:
    """A network between principal components as distillation needs it: an inner layer on rows, a linear outer layer.

    A row is one function, its targets the output components.
    """

    def __init__(self, network: ComponentNetwork) -> None:
        self.network = network
        self.width = network.weights.shape[1]

    @classmethod
    def draw(cls, spec: ComponentOperator, data: OperatorDataset, key: int) -> "ComponentStudent":
        """Random neurons on the data's principal components."""
        return cls(spec.initialise(data, jax.random.key(key)))

    def inner(self) -> PyTree:
        """The inner weights, which the slow timescale moves."""
        return (self.network.weights, self.network.biases)

    def hidden(self, weights: PyTree, rows: Array) -> Array:
        """The inner layer's values on rows."""
        return _component_hidden(self.network, weights, rows)

    def error(self, check: OperatorDataset) -> float:
        """Mean relative L2 error."""
        return mean_relative_error(np.asarray(self.network(check.inputs)), check.outputs)

    def batches(self, inputs: np.ndarray, outputs: np.ndarray) -> list[Batch]:
        """All rows and targets of some functions."""
        return [(self.network.features(inputs), self._targets(outputs))]

    def sample(self, inputs: np.ndarray, outputs: np.ndarray, rows: int, key: int) -> Batch:
        """Rows and targets drawn at random."""
        chosen = np.random.default_rng(key).permutation(len(inputs))[:rows]
        return self.network.features(inputs[chosen]), self._targets(outputs[chosen])

    def with_weights(self, weights: PyTree, outer: np.ndarray) -> "ComponentStudent":
        """The student with these inner weights and this outer layer."""
        return ComponentStudent(
            eqx.tree_at(
                lambda n: (n.weights, n.biases, n.outer), self.network, (*weights, jnp.asarray(outer, jnp.float32))
            )
        )

    def keep(self, neurons: np.ndarray) -> "ComponentStudent":
        """The student with only these neurons (its outer layer to be refitted)."""
        network = self.network
        rows = np.concatenate([neurons, np.arange(self.width, len(network.outer))])
        return ComponentStudent(
            eqx.tree_at(
                lambda n: (n.weights, n.biases, n.outer),
                network,
                (network.weights[:, neurons], network.biases[neurons], network.outer[rows]),
            )
        )

    def _targets(self, outputs: np.ndarray) -> np.ndarray:
        basis, mean = (
            np.asarray(self.network.output_basis, np.float64),
            np.asarray(self.network.output_mean, np.float64),
        )
        return (outputs - mean) @ basis


def refitted(student: ComponentStudent, lessons: OperatorDataset) -> ComponentStudent:
    """The student with its outer layer at the optimum over all lessons."""
    weights = student.inner()
    batches = student.batches(lessons.inputs, lessons.outputs)
    return student.with_weights(weights, refit_outer_layer(lambda rows: student.hidden(weights, rows), batches))


def _selected(student: ComponentStudent, keep: int, lessons: OperatorDataset, key: int) -> ComponentStudent:
    rows, _ = student.sample(lessons.inputs, lessons.outputs, ROWS_FOR_SELECTION, key)
    features = np.asarray(student.hidden(student.inner(), rows), np.float64)[:, : student.width]
    return student.keep(select_neurons(features, keep))


def _distilled(
    student: ComponentStudent,
    lessons: OperatorDataset,
    check: OperatorDataset,
    effort: Effort,
    log: StageLog,
    key: int,
    progress: Progress,
) -> ComponentStudent:
    started = log.clock()
    features, targets = student.sample(lessons.inputs, lessons.outputs, effort.rows, key)
    result = variable_projection(
        student.hidden,
        student.inner(),
        features,
        jnp.asarray(targets, jnp.float32),
        evaluations=effort.evaluations,
        progress=progress,
        stage="distilling (two timescales)",
    )
    moved = student.with_weights(
        result.weights, np.zeros((np.shape(features)[1] + student.width + 1, targets.shape[1]))
    )
    moved = refitted(moved, lessons)
    name = f"distil, {result.evaluations} steps in the two-timescale limit"
    log.record(name, moved.error(check), log.clock() - started)
    return moved


@eqx.filter_jit
def _component_hidden(network: ComponentNetwork, weights: PyTree, rows: Float[Array, "rows features"]) -> Array:
    moved = eqx.tree_at(lambda n: (n.weights, n.biases), network, weights)
    return moved.hidden(rows)
