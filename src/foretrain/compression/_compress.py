"""From a wide teacher to the smallest file within a budget."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.compression._box_student import box_operator, box_students, with_images
from foretrain.compression._budget import Budget, Candidate, CompressedModel, Package, Packager
from foretrain.compression._component_student import component_students
from foretrain.compression._fourier_student import fourier_students
from foretrain.compression._lessons import lessons_of
from foretrain.compression._shares import ErrorShares
from foretrain.compression._stages import Effort, StageLog
from foretrain.data import OperatorDataset, mean_relative_error, periodic_grid_shape
from foretrain.tangent import FourierSettings, InfiniteWidthOperator
from foretrain.training import Run

Teacher = Callable[[np.ndarray], np.ndarray]
PATTERNS_SEEN, MOST_PATTERN_VALUES = 100, 16
IMAGES = 2
"""Of each training function under the operator's symmetries, itself included."""
FRESH = 1500
"""Inputs that the teacher labels, where the caller does not say how many."""
NUMBER_FORMATS = ("float32", "float16", "int8 weights", "int8")


def compress(
    teacher: InfiniteWidthOperator | Run | Teacher,
    budget: Budget,
    train: OperatorDataset | None = None,
    *,
    package: Packager,
    test: OperatorDataset | None = None,
    unlabelled: Float[np.ndarray, "functions sensors"] | None = None,
    fresh: int | None = None,
    rows: int = 48_000,
    evaluations: int = 220,
    key: int = 0,
    card: Mapping[str, object] | None = None,
    progress: Progress = ignore_progress,
) -> CompressedModel:
    """Distils the teacher in the two-timescale limit, packages the students in several number formats.

    Steps: label fresh inputs; draw a student as wide as the budget allows; descend on its inner layer with the outer
    layer always at its optimum, on the training functions and on the fresh ones; prune it to half its neurons for a
    smaller member of the front, which descends on; package.

    Students of data on a periodic grid have a filter on either side of each neuron (`FilteredFourierOperator`), with
    wave numbers and prior chosen by random filters on held-out lessons. On other regular grids of one or two axes they
    have filters between series of cosines and sines (`FilteredBoxOperator`); where inputs have a few values only, such
    as two materials, the training functions' images under the teacher's symmetries replace fresh inputs. Others work
    between principal components (`ComponentOperator`) and are picked by pivoted QR from a draw four times too wide.

    Arguments:
        teacher: a fitted infinite-width operator, a run, or any callable from inputs to outputs in physical units.
        budget: limits to keep.
        train: the training data; a run or a fitted operator brings its own.
        package: makes files; `foretrain.compress` uses ONNX.
        test: functions to judge candidates by; by default held-out training functions, which are then not learnt from.
        unlabelled: your own inputs, for the teacher to label; real ones are better lessons than drawn ones, and for
            inputs of a few values the only ones.
        fresh: inputs drawn from a Gaussian model of the training inputs; by default 1,500 less those given.
        rows: of the lessons on which the inner layer descends: functions, or on a periodic grid samples of functions;
            evaluations: of its loss (more is better and slower). On a periodic grid wide students take fewer
            evaluations and narrow ones up to twice as many, for about the same time.
        key: seed.
        card: what to write into the files about the model.

    Raises:
        ForetrainError: a callable teacher without training data, or nothing to learn by.
        BudgetTooSmall: for any student.
        DataError: unlabelled inputs, or a teacher's answers, that do not fit the data.
    """
    if fresh is None:
        fresh = max(0, FRESH - (0 if unlabelled is None else len(unlabelled)))
    if fresh < 0 or rows < 1 or evaluations < 1:
        raise ForetrainError(
            f"compress: expected fresh >= 0, rows >= 1 and evaluations >= 1, came {fresh}, {rows} and {evaluations}"
        )
    train = train if train is not None else _training_data(teacher)
    learn, check = (train, test) if test is not None else train.split(max(2, min(200, len(train) // 6)), key)
    answer = _answers(teacher, check)
    log = StageLog()
    periodic = _equivariant(teacher, learn)
    box = None if periodic else box_operator(learn, budget)
    # A Gaussian model of inputs with a few values would make lessons of another kind.
    patterned = box is not None and len(np.unique(learn.inputs[:PATTERNS_SEEN])) <= MOST_PATTERN_VALUES
    lessons = lessons_of(answer, learn, unlabelled, 0 if patterned else fresh, key, log, check, progress)
    effort = Effort(rows, evaluations)

    def measure(network: Any) -> Package:
        return package(network, "float32", learn.inputs, card)

    networks: list[Any]
    if periodic:
        networks = list(fourier_students(lessons, check, budget, measure, effort, log, key, progress))
    elif box is not None:
        symmetries = getattr(getattr(teacher, "settings_", None), "symmetries", ()) if patterned else ()
        lessons = with_images(lessons, symmetries, IMAGES, key)
        networks = list(box_students(box, learn, lessons, check, budget, measure, effort, log, key, progress))
    else:
        networks = list(component_students(learn, lessons, check, budget, measure, effort, log, key, progress))
    candidates = [_teacher_candidate(teacher, answer, check)]
    # A box has no products of matrices of weights, which is what static int8 turns into whole numbers.
    forms = [form for form in NUMBER_FORMATS if form != "int8" or box is None]
    jobs = [(networks[0], form) for form in forms] + [(networks[1], "float32")]
    # From the truth to a file's answers: the smaller student comes from the wider one, which comes from the teacher.
    steps = [("teacher", answer(check.inputs))]
    for done, (network, number_format) in enumerate(jobs):
        progress("packaging", done, len(jobs))
        if done in (0, len(forms)):
            own = np.asarray(network(check.inputs), np.float64)
            steps.append(("pruning" if done else "compression into the student", own))
        candidates.append(_packaged(network, number_format, package, learn, check, steps, card))
    progress("packaging", len(jobs), len(jobs))
    return CompressedModel(budget, tuple(candidates), tuple(log.stages)).judged_by(budget)


def _training_data(teacher: Any) -> OperatorDataset:
    if isinstance(teacher, Run):
        return teacher.train
    if isinstance(teacher, InfiniteWidthOperator) and hasattr(teacher, "solution_"):
        return teacher.solution_.train
    raise ForetrainError("compress: expected the training data beside this teacher, came none; pass train=...")


def _answers(teacher: Any, data: OperatorDataset) -> Teacher:
    if isinstance(teacher, InfiniteWidthOperator):
        return lambda inputs: teacher.predict(inputs)
    if isinstance(teacher, Run):
        return lambda inputs: np.asarray(teacher.network(inputs, data.query_points), np.float64)
    return lambda inputs: np.asarray(teacher(inputs), np.float64)


def _equivariant(teacher: Any, learn: OperatorDataset) -> bool:
    """Whether to shift the input is to shift the output, as far as the grid and a teacher with settings tell."""
    settings = getattr(teacher, "settings_", None)
    moves = settings is None or (isinstance(settings, FourierSettings) and not settings.place)
    return periodic_grid_shape(learn) is not None and moves


def _teacher_candidate(teacher: Any, answer: Teacher, check: OperatorDataset) -> Candidate:
    prediction = answer(check.inputs)
    answer(check.inputs[:1])
    started = time.perf_counter()
    answer(check.inputs[:1])
    latency = time.perf_counter() - started
    numbers = _teacher_numbers(teacher, check)
    error = mean_relative_error(prediction, check.outputs)
    name = "teacher (infinite width)" if isinstance(teacher, InfiniteWidthOperator) else "teacher"
    return Candidate(name, "kernel", numbers, 8 * numbers, latency, error, None)


def _teacher_numbers(teacher: Any, check: OperatorDataset) -> int:
    if isinstance(teacher, Run):
        return sum(int(np.size(getattr(teacher.network, name))) for name in ("trunk", "branch", "outer"))
    if isinstance(teacher, InfiniteWidthOperator):
        data = teacher.solution_.train
        return int(data.inputs.size + data.outputs.size)
    return 0


def _packaged(
    network: Any,
    number_format: str,
    package: Packager,
    learn: OperatorDataset,
    check: OperatorDataset,
    steps: Sequence[tuple[str, np.ndarray]],
    card: Mapping[str, object] | None,
) -> Candidate:
    """Arguments: steps: names and answers from the teacher to this network, whose answers are the last."""
    made = package(network, number_format, learn.inputs, card)
    answer, own = made.predict(check.inputs), steps[-1][1]
    error = mean_relative_error(answer, check.outputs)
    agreement = float(np.linalg.norm(answer - own) / np.linalg.norm(own))
    note = "" if number_format == "float32" else f"rounding costs {100 * agreement:.2g} % of the answer"
    return Candidate(
        f"student, {len(network.biases)} neurons",
        number_format,
        made.numbers,
        made.bytes,
        made.latency_seconds,
        error,
        agreement,
        note=note,
        package=made,
        network=network,
        shares=ErrorShares.of(check.outputs, [*steps, (f"number format {number_format}", answer)]),
    )
