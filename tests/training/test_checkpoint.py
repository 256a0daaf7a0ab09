from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from foretrain._foundation import DataError, ForetrainError
from foretrain.forecast import Cost
from foretrain.training import save_weights, train

KILLED_AT = 20


class Killed(BaseException):
    """Stands for a signal."""


def kill(stage, done, total, figures=None):
    if stage == "training" and done >= KILLED_AT:
        raise Killed


@pytest.fixture
def interrupted(data, unseen, planned, narrow, tmp_path):
    """The checkpoint of a run that was killed half way."""
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        train(data, **planned(narrow), test=unseen, checkpoint=path, progress=kill)
    return path


def without_seconds(run):
    return [replace(measurement, seconds=0.0) for measurement in run.certificate.measurements]


def weights(run):
    return [np.asarray(getattr(run.network, name)) for name in ("trunk", "branch", "outer")]


def test_a_killed_run_goes_on_to_the_same_bits(data, unseen, planned, narrow, interrupted):
    whole = train(data, **planned(narrow), test=unseen)
    heard = []

    def listen(stage, done, total, figures=None):
        if stage == "training":
            heard.append(done)

    options = {**planned(narrow), "test": unseen, "checkpoint": interrupted}
    resumed = train(data, **options, resume=True, progress=listen)
    assert min(heard) > KILLED_AT / 2
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.certificate.checks == whole.certificate.checks
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_run_is_read_back_without_a_step(data, unseen, planned, narrow, interrupted):
    options = {**planned(narrow), "test": unseen, "checkpoint": interrupted, "resume": True}
    finished = train(data, **options)
    # The listener would raise at any step.
    again = train(data, **options, progress=kill)
    assert again.certificate.measurements == finished.certificate.measurements
    for one, other in zip(weights(again), weights(finished), strict=True):
        np.testing.assert_array_equal(one, other)


def test_how_often_the_listener_is_called_does_not_change_a_bit(data, planned, narrow):
    at_once = train(data, **planned(narrow))
    slow = replace(planned(narrow)["told"], cost=Cost(1.0, 10**6))
    step_by_step = train(data, **{**planned(narrow), "told": slow})
    assert without_seconds(step_by_step) == without_seconds(at_once)
    for one, other in zip(weights(step_by_step), weights(at_once), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_resume_a_checkpoint_is_written_over(data, planned, narrow, interrupted):
    fresh = train(data, **planned(narrow), checkpoint=interrupted)
    assert fresh.steps[0] == 0
    stored = safetensors.numpy.load_file(interrupted)
    np.testing.assert_array_equal(stored["branch"], np.asarray(fresh.network.branch))


def refusal(**options):
    with pytest.raises(ForetrainError) as refused:
        train(resume=True, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_checkpoint_of_another_run_is_refused(data, unseen, planned, narrow, interrupted):
    same = {**planned(narrow), "data": data, "test": unseen, "checkpoint": interrupted}
    told = same["told"]
    cases = {
        "data": {"data": data.take(slice(0, 11))},
        "test functions": {"test": None},
        "width": {"plan_or_model": replace(narrow, branch_width=5)},
        "activation": {"plan_or_model": replace(narrow, activation="erf")},
        "step size": {"told": replace(told, step_size=told.step_size / 2)},
        "key": {"key": 1},
    }
    for name, change in cases.items():
        assert "expected a checkpoint of this run" in refusal(**{**same, **change}), name


def test_a_checkpoint_of_more_steps_than_asked_for_is_refused(data, unseen, planned, narrow, interrupted):
    asked = {**planned(narrow), "steps": 5, "data": data, "test": unseen, "checkpoint": interrupted}
    assert "expected a checkpoint of at most 5 steps" in refusal(**asked)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"nonsense" * 40],
    ids=["empty", "cut off", "not safetensors"],
)
def test_a_damaged_checkpoint_is_refused(data, unseen, planned, narrow, interrupted, damage):
    interrupted.write_bytes(damage(interrupted.read_bytes()))
    said = refusal(**planned(narrow), data=data, test=unseen, checkpoint=interrupted)
    assert "came a damaged one" in said


def test_a_file_of_weights_alone_is_not_taken_for_a_checkpoint(data, planned, narrow, tmp_path):
    run = train(data, **planned(narrow))
    path = save_weights(tmp_path / "weights.safetensors", run.network)
    with pytest.raises(DataError, match="expected a checkpoint"):
        train(data, **planned(narrow), checkpoint=path, resume=True)
