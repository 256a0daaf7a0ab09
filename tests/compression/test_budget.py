from dataclasses import dataclass

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, Candidate, CompressedModel


@dataclass(frozen=True)
class Stub:
    """A package that answers with its own number."""

    value: float
    file: bytes = b"file"
    numbers: int = 10
    bytes: int = 40
    latency_seconds: float = 1e-4

    def predict(self, inputs):
        return np.full(np.shape(inputs), self.value)


def candidate(name, error, size, budget, package=None, chosen=False):
    excess = budget.excess(error, 10, size, 1e-4)
    return Candidate(name, "float32", 10, size, 1e-4, error, None, excess, chosen=chosen, package=package)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["error", "numbers", "bytes", "latency"])
def test_a_limit_that_is_not_positive_is_refused(name, limit):
    with pytest.raises(ForetrainError, match=f"expected a positive budget, came {name} = {limit}"):
        Budget(**{name: limit})


def test_nothing_exceeds_no_limit_nor_a_limit_that_is_met_exactly():
    assert Budget().excess(1e9, 10**12, 10**12, 1e9) == ""
    budget = Budget(error=0.02, numbers=100, bytes=400, latency=1e-3)
    assert budget.excess(0.02, 100, 400, 1e-3) == ""
    assert budget.worst_ratio(0.02, 50, 400, 1e-4) == 1


def test_each_excess_is_named_with_what_came_and_what_was_allowed():
    budget = Budget(error=0.02, numbers=20_000, bytes=400, latency=1e-3)
    assert budget.excess(0.03, 20_001, 400, 1e-4) == "error 0.03 over 0.02, numbers 20,001 over 20,000"
    assert budget.excess(0.01, 1, 500, 0.0025) == "bytes 500 over 400, latency 0.0025 over 0.001"
    assert budget.worst_ratio(0.03, 20_001, 400, 1e-4) == pytest.approx(1.5)


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_keep_no_budget(error):
    assert Budget().excess(error, 1, 1, 1e-6) == "answers that are not finite"
    assert Budget(error=0.1).worst_ratio(error, 1, 1, 1e-6) == float("inf")


def test_the_chosen_candidate_is_exported_and_predicts(tmp_path):
    budget = Budget(error=0.5)
    teacher, small = candidate("teacher", 0.0, 0, budget), candidate("small", 0.1, 40, budget, Stub(7.0), chosen=True)
    model = CompressedModel(budget, (teacher, small), ())
    assert model.chosen is small
    assert model.export(tmp_path / "deeper" / "model.onnx").read_bytes() == b"file"
    np.testing.assert_array_equal(model.predict(np.zeros((2, 3))), np.full((2, 3), 7.0))


def test_without_a_choice_export_names_the_candidate_nearest_to_the_budget_and_writes_nothing(tmp_path):
    budget = Budget(error=0.1, bytes=40)
    rows = [
        candidate("teacher", 0.0, 0, budget),
        candidate("accurate", 0.05, 400, budget, Stub(1.0)),
        candidate("near", 0.12, 44, budget, Stub(2.0)),
        candidate("broken", float("nan"), 40, budget, Stub(3.0)),
    ]
    model = CompressedModel(budget, tuple(rows), ())
    with pytest.raises(ForetrainError) as refused:
        model.export(tmp_path / "model.onnx")
    assert "the nearest is near in float32 (error 0.12 over 0.1, bytes 44 over 40)" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ForetrainError, match="no model to predict with"):
        model.predict(np.zeros((2, 3)))
