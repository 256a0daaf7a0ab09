"""From a wide teacher to the smallest file within a budget."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.compression._box_student import box_operator, box_students, with_images
from foretrain.compression._budget import Budget, Candidate, CompressedModel, Package, Packager
from foretrain.compression._component_student import component_students
from foretrain.compression._fourier_student import fourier_students
from foretrain.compression._input_model import GaussianInputs
from foretrain.compression._stages import Effort, StageLog
from foretrain.data import OperatorDataset, mean_relative_error, periodic_grid_shape
from foretrain.tangent import FourierSettings, InfiniteWidthOperator
from foretrain.training import Run

Teacher = Callable[[np.ndarray], np.ndarray]
PATTERNS_SEEN, MOST_PATTERN_VALUES = 100, 16
IMAGES = 2
"""Of each training function under the operator's symmetries, itself included."""
NUMBER_FORMATS = ("float32", "float16", "int8 weights", "int8")


def compress(
    teacher: InfiniteWidthOperator | Run | Teacher,
    budget: Budget,
    train: OperatorDataset | None = None,
    *,
    package: Packager,
    test: OperatorDataset | None = None,
    fresh: int = 1500,
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
        fresh: inputs drawn from a Gaussian model of the training inputs.
        rows: of the lessons on which the inner layer descends: functions, or on a periodic grid samples of functions;
            evaluations: of its loss (more is better and slower). On a periodic grid wide students take fewer
            evaluations and narrow ones up to twice as many, for about the same time.
        key: seed.
        card: what to write into the files about the model.

    Raises:
        ForetrainError: a callable teacher without training data, a budget too small for any student, or nothing to
            learn by.
    """
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
    lessons = _lessons(answer, learn, 0 if patterned else fresh, key, log, check, progress)
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
        networks = list(component_students(learn, lessons, check, budget, effort, log, key, progress))
    family = [(f"student, {len(network.biases)} neurons", network) for network in networks]
    candidates = [_teacher_candidate(teacher, answer, check, budget)]
    jobs = [
        (name, member, form)
        for name, member in family
        for form in NUMBER_FORMATS
        # A box has no products of matrices of weights, which is what static int8 turns into whole numbers.
        if form == "float32" or (member is networks[0] and not (form == "int8" and box is not None))
    ]
    for done, (name, member, number_format) in enumerate(jobs):
        progress("packaging", done, len(jobs))
        candidates.append(_packaged(name, member, number_format, package, learn, check, budget, card))
    progress("packaging", len(jobs), len(jobs))
    return CompressedModel(budget, _choose(candidates), tuple(log.stages))


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


def _lessons(
    answer: Teacher,
    learn: OperatorDataset,
    fresh: int,
    key: int,
    log: StageLog,
    check: OperatorDataset,
    progress: Progress,
) -> OperatorDataset:
    """Training functions with their true outputs, fresh inputs with the teacher's."""
    started = log.clock()
    drawn = GaussianInputs.fit(learn.inputs).draw(fresh, key + 1)
    pieces = []
    for start in range(0, fresh, 250):
        progress("asking the teacher", start, fresh)
        pieces.append(answer(drawn[start : start + 250]))
    progress("asking the teacher", fresh, fresh)
    error = mean_relative_error(answer(check.inputs), check.outputs)
    log.record(f"teacher labels {fresh:,} fresh inputs", error, log.clock() - started)
    outputs = np.concatenate([learn.outputs, *pieces])
    return replace(learn, inputs=np.concatenate([learn.inputs, drawn]), outputs=outputs)


def _equivariant(teacher: Any, learn: OperatorDataset) -> bool:
    """Whether to shift the input is to shift the output, as far as the grid and a teacher with settings tell."""
    settings = getattr(teacher, "settings_", None)
    return periodic_grid_shape(learn) is not None and (settings is None or isinstance(settings, FourierSettings))


def _teacher_candidate(teacher: Any, answer: Teacher, check: OperatorDataset, budget: Budget) -> Candidate:
    prediction = answer(check.inputs)
    answer(check.inputs[:1])
    started = time.perf_counter()
    answer(check.inputs[:1])
    latency = time.perf_counter() - started
    numbers = _teacher_numbers(teacher, check)
    error = mean_relative_error(prediction, check.outputs)
    name = "teacher (infinite width)" if isinstance(teacher, InfiniteWidthOperator) else "teacher"
    excess = budget.excess(error, numbers, 8 * numbers, latency)
    return Candidate(name, "kernel", numbers, 8 * numbers, latency, error, None, excess)


def _teacher_numbers(teacher: Any, check: OperatorDataset) -> int:
    if isinstance(teacher, Run):
        return sum(int(np.size(getattr(teacher.network, name))) for name in ("trunk", "branch", "outer"))
    if isinstance(teacher, InfiniteWidthOperator):
        data = teacher.solution_.train
        return int(data.inputs.size + data.outputs.size)
    return 0


def _packaged(
    name: str,
    network: Any,
    number_format: str,
    package: Packager,
    learn: OperatorDataset,
    check: OperatorDataset,
    budget: Budget,
    card: Mapping[str, object] | None,
) -> Candidate:
    made = package(network, number_format, learn.inputs, card)
    answer, own = made.predict(check.inputs), np.asarray(network(check.inputs), np.float64)
    error = mean_relative_error(answer, check.outputs)
    agreement = float(np.linalg.norm(answer - own) / np.linalg.norm(own))
    excess = budget.excess(error, made.numbers, made.bytes, made.latency_seconds)
    note = "" if number_format == "float32" else f"rounding costs {100 * agreement:.2g} % of the answer"
    return Candidate(
        name,
        number_format,
        made.numbers,
        made.bytes,
        made.latency_seconds,
        error,
        agreement,
        excess,
        note,
        package=made,
        network=network,
    )


def _choose(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Marks the most accurate student within the budget as the one to ship, the smaller of nearly equal ones."""
    allowed = [candidate for candidate in candidates if candidate.package is not None and not candidate.excess]
    if not allowed:
        return tuple(candidates)
    least = min(candidate.test_error for candidate in allowed)
    best = min((c for c in allowed if c.test_error <= 1.02 * least), key=lambda candidate: candidate.bytes)
    return tuple(replace(candidate, chosen=candidate is best) for candidate in candidates)
