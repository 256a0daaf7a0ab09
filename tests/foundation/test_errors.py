import json as plain_json

import pytest

from foretrain._foundation import (
    DataError,
    ForetrainError,
    MemoryBudgetError,
    MissingExtraError,
    available_bytes,
    require_extra,
    require_memory,
)


@pytest.mark.parametrize(
    ("ours", "builtin"), [(DataError, ValueError), (MemoryBudgetError, MemoryError), (MissingExtraError, ImportError)]
)
def test_errors_can_be_caught_as_ours_or_as_pythons(ours, builtin):
    with pytest.raises(ForetrainError):
        raise ours("message")
    with pytest.raises(builtin, match="message"):
        raise ours("message")


def test_a_package_that_is_there_is_imported():
    assert require_extra("json", "report") is plain_json


def test_a_missing_package_is_answered_with_the_extra_that_brings_it():
    with pytest.raises(MissingExtraError) as refusal:
        require_extra("no_such_package.inner", "onnx")
    assert "'no_such_package'" in str(refusal.value)
    assert "pip install 'foretrain[onnx]'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_memory_that_is_there_may_be_asked_for_and_more_may_not():
    require_memory(1, "a test", "nothing")
    with pytest.raises(MemoryBudgetError, match=r"^a test: expected at most .* came a need of 1e\+12 GB; use less$"):
        require_memory(10**21, "a test", "use less")


def test_available_memory_is_positive_or_unknown():
    available = available_bytes()
    assert available is None or 10**6 < available < 10**15


def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("foretrain._foundation._memory.available_bytes", lambda: None)
    require_memory(10**30, "a test", "nothing")
