"""From a wide teacher to the smallest file within a budget."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.compression._budget import Budget, Candidate, CompressedModel, Packager, Stage
from foretrain.compression._input_model import GaussianInputs
from foretrain.compression._prune import select_neurons
from foretrain.compression._students import ComponentStudent, FourierStudent, Student
from foretrain.data import OperatorDataset, mean_relative_error, periodic_grid_shape
from foretrain.models import ComponentOperator, ShallowFourierOperator
from foretrain.tangent import FourierSettings, InfiniteWidthOperator
from foretrain.training import Run, refit_outer_layer, variable_projection

Teacher = Callable[[np.ndarray], np.ndarray]
WIDE = 4
LARGEST_STUDENT = 256
NUMBER_FORMATS = ("float32", "float16", "int8 weights", "int8")


def compress(
    teacher: InfiniteWidthOperator | Run | Teacher,
    budget: Budget,
    train: OperatorDataset | None = None,
    *,
    package: Packager,
    test: OperatorDataset | None = None,
    fresh: int = 1500,
    rows: int = 24_000,
    evaluations: int = 220,
    key: int = 0,
    card: Mapping[str, object] | None = None,
    progress: Progress = ignore_progress,
) -> CompressedModel:
    """Prunes and distils the teacher in the two-timescale limit, packages the student in several number formats.

    Steps: draw a student four times too wide; keep the neurons that pivoted QR picks; descend with the outer layer
    always at its optimum, on the training functions and on fresh inputs that the teacher labels; refit the outer layer
    on all of them; prune further for smaller members of the front; package.

    Arguments:
        teacher: a fitted infinite-width operator, a run, or any callable from inputs to outputs in physical units.
        budget: limits to keep.
        train: the training data; a run or a fitted operator brings its own.
        package: makes files; `foretrain.compress` uses ONNX.
        test: functions to judge candidates by; by default held-out training functions, which are then not learnt from.
        fresh: inputs drawn from a Gaussian model of the training inputs.
        rows: on which the inner layer descends; evaluations: of its loss (more is better and slower).
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
    stages: list[Stage] = []
    inputs, outputs = _lessons(answer, learn, fresh, key, stages, check, progress)
    judge = _Judge(learn, check, inputs, outputs, stages)
    student = _pruned_start(_drawn(teacher, learn, budget, key), inputs, outputs, judge, key, progress)
    student = _distilled(student, inputs, outputs, rows, evaluations, judge, key, progress)
    family = [(f"student, {student.width} neurons", student)]
    # A smaller member of the front starts from the neurons that span the trained student's, and descends on.
    smaller = _pruned(student, max(2, student.width // 2), inputs, outputs, judge, key)
    smaller = _distilled(smaller, inputs, outputs, rows, evaluations // 4, judge, key, progress)
    family.append((f"student, {smaller.width} neurons", smaller))
    candidates = [_teacher_candidate(teacher, answer, check, budget)]
    jobs = [
        (name, member, form)
        for name, member in family
        for form in NUMBER_FORMATS
        if form == "float32" or member is student
    ]
    for done, (name, member, number_format) in enumerate(jobs):
        progress("packaging", done, len(jobs))
        candidates.append(_packaged(name, member, number_format, package, learn, check, budget, card))
    progress("packaging", len(jobs), len(jobs))
    return CompressedModel(budget, _choose(candidates), tuple(stages))


class _Judge:
    """Measures students on the functions kept for that, and records what each stage did."""

    def __init__(
        self,
        learn: OperatorDataset,
        check: OperatorDataset,
        inputs: np.ndarray,
        outputs: np.ndarray,
        stages: list[Stage],
    ) -> None:
        self.learn, self.check, self.stages = learn, check, stages
        self._lessons = (inputs, outputs)
        self._last: float | None = None

    def refit(self, student: Student) -> Student:
        """The student with its outer layer at the optimum over all lessons."""
        weights = student.inner()
        outer = refit_outer_layer(lambda rows: student.hidden(weights, rows), student.batches(*self._lessons))
        return student.with_weights(weights, outer)

    def record(self, name: str, student: Student, started: float) -> None:
        """Adds a stage with the student's error now."""
        error = mean_relative_error(np.asarray(student.network(self.check.inputs)), self.check.outputs)
        self.stages.append(Stage(name, self._last, error, time.perf_counter() - started))
        self._last = error


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
    stages: list[Stage],
    check: OperatorDataset,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Training functions with their true outputs, fresh inputs with the teacher's."""
    started = time.perf_counter()
    drawn = GaussianInputs.fit(learn.inputs).draw(fresh, key + 1)
    pieces = []
    for start in range(0, fresh, 250):
        progress("asking the teacher", start, fresh)
        pieces.append(answer(drawn[start : start + 250]))
    progress("asking the teacher", fresh, fresh)
    error = mean_relative_error(answer(check.inputs), check.outputs)
    stages.append(Stage(f"teacher labels {fresh:,} fresh inputs", None, error, time.perf_counter() - started))
    return np.concatenate([learn.inputs, drawn]), np.concatenate([learn.outputs, *pieces])


def _drawn(teacher: Any, learn: OperatorDataset, budget: Budget, key: int) -> Student:
    """A student four times as wide as the budget allows, of the form that suits the data."""
    shape = periodic_grid_shape(learn)
    settings = getattr(teacher, "settings_", None)
    if shape is not None and not (settings is not None and not isinstance(settings, FourierSettings)):
        modes = _modes_needed(learn, shape, budget.error or 0.01)
        reflection = settings.reflection if isinstance(settings, FourierSettings) else 0
        spec = ShallowFourierOperator(WIDE * LARGEST_STUDENT, modes, reflection=reflection)
        features = _shapes(spec, learn).table.shape[1]
        width = _width(budget, fixed=4 * features, each=features + 2)
        return FourierStudent.draw(replace(spec, width=WIDE * width), learn, key)
    plain = ComponentOperator(WIDE * LARGEST_STUDENT)
    network = _shapes(plain, learn)
    sensors, features = network.input_basis.shape
    points, components = network.output_basis.shape
    fixed = sensors * (features + 1) + points * (components + 1) + (features + 1) * components
    width = _width(budget, fixed, each=features + 1 + components)
    return ComponentStudent.draw(replace(plain, width=WIDE * width), learn, key)


def _shapes(spec: ShallowFourierOperator | ComponentOperator, learn: OperatorDataset) -> Any:
    """The network without its weights, which would be drawn only to be counted."""
    return jax.eval_shape(lambda key: spec.initialise(learn, key), jax.random.key(0))


def _width(budget: Budget, fixed: int, each: int) -> int:
    """The widest student the budget of stored numbers allows, at most `LARGEST_STUDENT`."""
    limits = [budget.numbers] if budget.numbers is not None else []
    if budget.bytes is not None:
        limits.append(budget.bytes // 4)
    if not limits:
        return LARGEST_STUDENT
    # A few numbers more go into scalars and shapes.
    width = (min(limits) - fixed - 64) // each
    if width < 8:
        raise ForetrainError(
            f"expected a budget of at least {fixed + 64 + 8 * each:,} stored numbers, came {min(limits):,}; "
            "raise numbers or bytes"
        )
    return int(min(width, LARGEST_STUDENT))


def _modes_needed(data: OperatorDataset, shape: tuple[int, ...], error: float) -> int:
    """The wave number beyond which inputs and outputs hold less than half the error budget."""
    needed = 1
    for values, share in ((data.inputs, 1.0), (data.outputs, 0.5)):
        functions = values.reshape(len(values), *shape)
        power = np.mean(np.abs(np.fft.fftn(functions, axes=range(1, functions.ndim))) ** 2, axis=0)
        axes = np.meshgrid(*[np.abs(np.fft.fftfreq(size, 1 / size)) for size in shape], indexing="ij")
        largest = np.maximum.reduce(axes)
        order = np.arange(1, min(shape) // 2)
        tail = np.array([power[largest > k].sum() for k in order]) / power.sum()
        small = np.flatnonzero(np.sqrt(tail) <= share * error / 2)
        needed = max(needed, int(order[small[0]]) if len(small) else int(order[-1]))
    return min(needed, 24)


def _pruned_start(
    student: Student, inputs: np.ndarray, outputs: np.ndarray, judge: _Judge, key: int, progress: Progress
) -> Student:
    started = time.perf_counter()
    progress("pruning a wide draw", 0, 1)
    smaller = _selected(student, student.width // WIDE, inputs, outputs, key)
    smaller = judge.refit(smaller)
    progress("pruning a wide draw", 1, 1)
    judge.record(f"prune {student.width:,} random neurons to {smaller.width}", smaller, started)
    return smaller


def _selected(student: Student, keep: int, inputs: np.ndarray, outputs: np.ndarray, key: int) -> Student:
    rows, _ = student.sample(inputs, outputs, 4000, key)
    features = np.asarray(student.hidden(student.inner(), rows), np.float64)[:, : student.width]
    return student.keep(select_neurons(features, keep))


def _distilled(
    student: Student,
    inputs: np.ndarray,
    outputs: np.ndarray,
    rows: int,
    evaluations: int,
    judge: _Judge,
    key: int,
    progress: Progress,
) -> Student:
    started = time.perf_counter()
    features, targets = student.sample(inputs, outputs, rows, key)
    result = variable_projection(
        student.hidden,
        student.inner(),
        features,
        jnp.asarray(targets, jnp.float32),
        evaluations=evaluations,
        progress=progress,
        stage="distilling (two timescales)",
    )
    moved = student.with_weights(
        result.weights, np.zeros((np.shape(features)[1] + student.width + 1, targets.shape[1]))
    )
    moved = judge.refit(moved)
    judge.record(f"distil, {result.evaluations} steps in the two-timescale limit", moved, started)
    return moved


def _pruned(student: Student, keep: int, inputs: np.ndarray, outputs: np.ndarray, judge: _Judge, key: int) -> Student:
    started = time.perf_counter()
    smaller = judge.refit(_selected(student, keep, inputs, outputs, key))
    judge.record(f"prune to {keep} neurons, refit", smaller, started)
    return smaller


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
    student: Student,
    number_format: str,
    package: Packager,
    learn: OperatorDataset,
    check: OperatorDataset,
    budget: Budget,
    card: Mapping[str, object] | None,
) -> Candidate:
    made = package(student.network, number_format, learn.inputs, card)
    answer, own = made.predict(check.inputs), np.asarray(student.network(check.inputs), np.float64)
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
        network=student.network,
    )


def _choose(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Marks the most accurate student within the budget as the one to ship, the smaller of nearly equal ones."""
    allowed = [candidate for candidate in candidates if candidate.package is not None and not candidate.excess]
    if not allowed:
        return tuple(candidates)
    least = min(candidate.test_error for candidate in allowed)
    best = min((c for c in allowed if c.test_error <= 1.02 * least), key=lambda candidate: candidate.bytes)
    return tuple(replace(candidate, chosen=candidate is best) for candidate in candidates)
