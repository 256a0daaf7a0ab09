import itertools
import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, compress
from foretrain.deployment import OnnxPackager
from foretrain.models import ShallowOperator
from foretrain.problems import burgers
from foretrain.tangent import FourierSettings, InfiniteWidthOperator
from foretrain.training import Run

NUMBERS = 2000
FEW_NUMBERS = 500
LIGHT = {"package": OnnxPackager(latency_repeats=3), "fresh": 200, "rows": 6000, "evaluations": 20}


@pytest.fixture(scope="module")
def parts(circle):
    return circle.split(12, key=0)


@pytest.fixture(scope="module")
def exact(parts):
    return InfiniteWidthOperator(settings=FourierSettings("matern72")).fit(parts[0])


@pytest.fixture(scope="module")
def shipped(exact, parts):
    """From a fitted operator, judged by test functions."""
    return compress(exact, Budget(error=0.2, numbers=FEW_NUMBERS), test=parts[1], **LIGHT)


@pytest.fixture(scope="module")
def run(interval):
    """A network as it was drawn: what it answers does not matter, only that students follow it."""
    return Run(ShallowOperator(16, 4).initialise(interval, jax.random.key(0)), None, None, interval, 0.0)


@pytest.fixture(scope="module")
def impossible(run):
    """From a run, judged by held-out training functions, for an error nothing reaches."""
    return compress(run, Budget(error=1e-6, numbers=NUMBERS), **LIGHT)


def relative_error(prediction, truth):
    return np.mean(np.linalg.norm(prediction - truth, axis=1) / np.linalg.norm(truth, axis=1))


def answers_of(file, inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.astype(np.float32)})[0]


def numbers_in(file):
    """Everything the file stores, counted without foretrain."""
    graph = onnx.load_model_from_string(file).graph
    constants = [a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    return sum(int(np.prod(tensor.dims)) for tensor in [*graph.initializer, *constants])


def test_the_teacher_comes_first_with_its_own_error(shipped, exact, parts):
    teacher = shipped.candidates[0]
    assert teacher.name == "teacher (infinite width)"
    assert (teacher.package, teacher.network, teacher.agreement, teacher.chosen) == (None, None, None, False)
    assert teacher.test_error == pytest.approx(exact.score(parts[1]), rel=1e-9)
    # What a kernel predictor has to keep: the training functions.
    assert teacher.numbers == parts[0].inputs.size + parts[0].outputs.size
    assert shipped.stages[0].error_after == teacher.test_error


def test_every_students_error_and_size_are_those_of_its_file(shipped, parts):
    test = parts[1]
    students = shipped.candidates[1:]
    assert [student.format for student in students] == ["float32", "float16", "int8 weights", "int8", "float32"]
    for student in students:
        answers = answers_of(student.package.file, test.inputs)
        assert student.test_error == pytest.approx(relative_error(answers, test.outputs), rel=1e-4)
        assert student.bytes == len(student.package.file)
        assert student.numbers == numbers_in(student.package.file)
        own = np.asarray(student.network(test.inputs), np.float64)
        agreement = np.linalg.norm(answers - own) / np.linalg.norm(own)
        assert student.agreement == pytest.approx(agreement, rel=1e-2, abs=1e-6)
        assert bool(student.excess) == (student.test_error > 0.2 or student.numbers > FEW_NUMBERS)
    assert students[0].agreement < 1e-5


def test_exactly_one_is_chosen_the_smallest_of_the_most_accurate_within_budget(shipped):
    chosen = [candidate for candidate in shipped.candidates if candidate.chosen]
    assert chosen == [shipped.chosen]
    allowed = [c for c in shipped.candidates[1:] if c.test_error <= 0.2 and c.numbers <= FEW_NUMBERS]
    best = min(candidate.test_error for candidate in allowed)
    assert chosen[0] in allowed
    assert chosen[0].test_error <= 1.02 * best
    assert all(c.bytes >= chosen[0].bytes for c in allowed if c.test_error <= 1.02 * best)


def test_the_float32_student_uses_the_numbers_it_may_and_no_more(shipped):
    widest = shipped.candidates[1]
    assert 0.9 * FEW_NUMBERS < widest.numbers <= FEW_NUMBERS


def test_the_exported_file_answers_as_predict_does(shipped, parts, tmp_path):
    path = shipped.export(tmp_path / "model.onnx")
    answers = answers_of(path.read_bytes(), parts[1].inputs)
    prediction = shipped.predict(parts[1].inputs)
    np.testing.assert_allclose(answers, prediction, atol=1e-6 * np.abs(prediction).max())
    assert relative_error(answers, parts[1].outputs) < 0.2


def test_each_stage_starts_from_the_error_the_one_before_left_and_descent_helps(shipped):
    stages = shipped.stages
    words = ["teacher labels 200 fresh inputs", "draw", "distil, 40 steps", "prune", "distil, 10 steps"]
    assert len(stages) == len(words)
    assert all(stage.name.startswith(word) for stage, word in zip(stages, words, strict=True))
    assert [stage.error_before for stage in stages[2:]] == [stage.error_after for stage in stages[1:-1]]
    distilled = [stage for stage in stages if stage.name.startswith("distil")]
    assert all(stage.error_after < stage.error_before for stage in distilled)
    # The last number of each family is what its float32 file was measured at.
    for stage, student in zip(distilled, (shipped.candidates[1], shipped.candidates[-1]), strict=True):
        assert stage.error_after == pytest.approx(student.test_error, rel=1e-4)


def test_the_table_is_plain_values(shipped):
    record = json.loads(json.dumps(shipped.as_dict()))
    assert record["budget"] == {"error": 0.2, "numbers": FEW_NUMBERS, "bytes": None, "latency": None}
    assert [row["chosen"] for row in record["rows"]].count(True) == 1
    for row, candidate in zip(record["rows"], shipped.candidates, strict=True):
        assert row["within_budget"] == (not candidate.excess)
        assert candidate.excess in row["note"]


def test_an_impossible_budget_ships_nothing_and_export_names_the_nearest(impossible, tmp_path):
    assert impossible.chosen is None
    assert not any(candidate.chosen for candidate in impossible.candidates)
    path = tmp_path / "model.onnx"
    with pytest.raises(ForetrainError) as refused:
        impossible.export(path)
    said = str(refused.value)
    nearest = min(impossible.candidates[1:], key=lambda candidate: candidate.test_error)
    assert f"{nearest.name} in {nearest.format}" in said
    assert f"error {nearest.test_error:.3g} over 1e-06" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_run_brings_its_data_and_is_judged_by_functions_held_out_of_them(impossible, run, interval):
    _, check = interval.split(13, key=0)
    teacher, student = impossible.candidates[:2]
    assert teacher.test_error == pytest.approx(run.score(check), rel=1e-5)
    assert teacher.numbers == sum(np.size(getattr(run.network, name)) for name in ("trunk", "branch", "outer"))
    answers = answers_of(student.package.file, check.inputs)
    assert student.test_error == pytest.approx(relative_error(answers, check.outputs), rel=1e-4)
    assert student.numbers <= NUMBERS


def test_the_same_answers_from_a_callable_give_the_same_files_bit_for_bit(shipped, exact, parts):
    again = compress(exact.predict, shipped.budget, parts[0], test=parts[1], **LIGHT)
    assert again.candidates[0].name == "teacher"
    for one, other in zip(shipped.candidates[1:], again.candidates[1:], strict=True):
        assert one.package.file == other.package.file
        assert (one.name, one.format, one.test_error) == (other.name, other.format, other.test_error)


def test_a_callable_without_training_data_is_refused(exact):
    with pytest.raises(ForetrainError, match="expected the training data beside this teacher"):
        compress(exact.predict, Budget(error=0.1), **LIGHT)


def test_the_student_is_better_than_a_linear_map_of_the_inputs_and_near_its_teacher(shipped, exact, parts):
    train, test = parts
    linear = np.linalg.lstsq(train.inputs, train.outputs, rcond=1e-3)[0]
    student = shipped.candidates[1]
    assert student.test_error < 0.3 * relative_error(test.inputs @ linear, test.outputs)
    assert student.test_error < 2 * exact.score(test)


@pytest.mark.slow
def test_a_budget_of_bytes_is_kept_by_the_float32_file(exact, parts):
    light = {**LIGHT, "fresh": 0, "evaluations": 1}
    widest = compress(exact, Budget(bytes=13_000), test=parts[1], **light).candidates[1]
    assert 12_700 < len(widest.package.file) <= 13_000


def test_another_budget_judges_the_same_files_again(shipped):
    loose = shipped.judged_by(Budget())
    assert loose.refused == ()
    assert [row.package for row in loose.candidates] == [row.package for row in shipped.candidates]
    assert shipped.judged_by(shipped.budget).candidates == shipped.candidates
    assert shipped.judged_by(Budget(error=1e-9)).chosen is None


def refusal_of_eight_bits(small):
    """Judges by an error between float32's and int8's; the line that refuses int8, which it has to name right."""
    rows = {row.format: row for row in small.candidates[1:5]}
    limit = float(np.sqrt(rows["int8"].test_error * rows["float32"].test_error))
    judged = small.judged_by(Budget(error=limit))
    assert judged.chosen.format != "int8"
    (line,) = (line for line in judged.refused if " in int8 is refused" in line)
    costs = 100 * rows["int8"].agreement
    assert f"in int8 is refused: error {rows['int8'].test_error:.3g} over {limit:.3g}; " in line
    assert f"rounding costs {costs:.2g} % of the answer; within it is {rows['int8'].name} in " in line
    named = line.split("within it is ")[1].split(" in ")[1].split(":")[0]
    assert any(row.format == named and not row.excess for row in judged.candidates[1:5])


def test_eight_bits_beyond_the_error_wanted_are_refused_with_what_would_do(shipped):
    refusal_of_eight_bits(shipped)


@pytest.mark.slow
def test_eight_bits_of_a_student_of_twenty_thousand_numbers_are_within_the_error_wanted_or_refused():
    train, test = burgers(samples=160, resolution=64, viscosity=0.05, time_steps=50).split(30, 0)
    exact = InfiniteWidthOperator(settings=FourierSettings("matern72")).fit(train)
    small = compress(exact, Budget(error=0.02, numbers=20_000), test=test, **{**LIGHT, "fresh": 300})
    rows = {row.format: row for row in small.candidates[1:5]}
    assert rows["float32"].test_error < 0.005 < rows["int8"].test_error < 0.02
    assert not rows["int8"].excess
    assert small.refused == ()
    refusal_of_eight_bits(small)


def test_shares_of_the_error_lead_from_the_teacher_to_the_file(shipped, exact, parts):
    test = parts[1]
    sizes = np.linalg.norm(test.outputs, axis=1)

    def distance(one, other):
        return np.sqrt(np.mean((np.linalg.norm(one - other, axis=1) / sizes) ** 2))

    wide, narrow = (np.asarray(shipped.candidates[place].network(test.inputs), np.float64) for place in (1, 5))
    teacher = exact.predict(test.inputs)
    for row, path in ((shipped.candidates[4], [teacher, wide]), (shipped.candidates[5], [teacher, wide, narrow])):
        stations = [test.outputs, *path, answers_of(row.package.file, test.inputs)]
        expected = [distance(after, before) for before, after in itertools.pairwise(stations)]
        assert [part.size for part in row.shares.parts] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert row.shares.total == pytest.approx(distance(stations[-1], test.outputs), rel=1e-4)
        assert row.shares.total >= row.test_error
    names = [part.name for part in shipped.candidates[5].shares.parts]
    assert names == ["teacher", "compression into the student", "pruning", "number format float32"]
