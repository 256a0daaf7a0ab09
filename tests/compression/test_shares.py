"""How the error of a file is taken apart."""

import json

import numpy as np
import pytest

from foretrain.compression import Budget, Candidate, CompressedModel, ErrorShares


def vectors(count=40, points=30, key=0):
    return np.random.default_rng(key).standard_normal((count, points))


def relative(values, truth):
    return np.sqrt(np.mean(np.sum(values**2, axis=1) / np.sum(truth**2, axis=1)))


def test_parts_are_the_distances_between_one_step_and_the_next():
    truth, first, second = vectors(), 0.1 * vectors(key=1), 0.02 * vectors(key=2)
    shares = ErrorShares.of(truth, [("teacher", truth + first), ("student", truth + first + second)])
    assert [part.name for part in shares.parts] == ["teacher", "student"]
    assert [part.size for part in shares.parts] == pytest.approx([relative(first, truth), relative(second, truth)])
    assert shares.total == pytest.approx(relative(first + second, truth))
    assert sum(part.share for part in shares.parts) == pytest.approx(1)


def test_sums_of_squares_tell_the_total_where_parts_are_orthogonal_and_only_there():
    truth = vectors()
    first, second = np.zeros_like(truth), np.zeros_like(truth)
    first[:, ::2], second[:, 1::2] = 0.1 * truth[:, ::2], 0.05 * truth[:, 1::2]
    shares = ErrorShares.of(truth, [("a", truth + first), ("b", truth + first + second)])
    assert shares.if_independent == pytest.approx(shares.total)
    assert [part.share for part in shares.parts] == pytest.approx(
        [part.size**2 / shares.total**2 for part in shares.parts]
    )
    undone = ErrorShares.of(truth, [("a", 1.1 * truth), ("b", 1.04 * truth)])
    assert (undone.total, undone.parts[1].size) == pytest.approx((0.04, 0.06))
    assert undone.if_independent > 2 * undone.total
    assert [part.share for part in undone.parts] == pytest.approx([2.5, -1.5])


def test_an_exact_file_has_no_shares():
    truth = vectors()
    shares = ErrorShares.of(truth, [("a", truth), ("b", truth)])
    assert shares.total == 0
    assert [part.share for part in shares.parts] == [0, 0]


class Stub:
    file, numbers, bytes, latency_seconds = b"file", 10, 40, 1e-4


def candidate(form, error, size, budget, network, chosen=False):
    note = "" if form == "float32" else f"rounding costs {100 * error:.2g} % of the answer"
    excess = budget.excess(error, 10, size, 1e-4)
    return Candidate(
        "student", form, 10, size, 1e-4, error, 0.0, excess, note, chosen=chosen, package=Stub(), network=network
    )


def test_what_is_refused_says_why_and_what_is_nearest_within_the_budget():
    budget, wide, narrow = Budget(error=0.02), object(), object()
    rows = [
        candidate("float32", 0.01, 90, budget, wide, chosen=True),
        candidate("float16", 0.01, 50, budget, wide),
        candidate("int8", 0.03, 30, budget, wide),
        candidate("float32", 0.04, 45, budget, narrow),
    ]
    small = CompressedModel(budget, tuple(rows), ())
    assert small.refused == (
        "student in int8 is refused: error 0.03 over 0.02; rounding costs 3 % of the answer; "
        "within it is student in float16: 1 % with 10 numbers in 50 bytes",
        "student in float32 is refused: error 0.04 over 0.02; "
        "within it is student in float32: 1 % with 10 numbers in 90 bytes",
    )
    assert json.loads(json.dumps(small.as_dict()))["refused"] == list(small.refused)
    nothing = CompressedModel(budget, tuple(rows[2:]), ())
    assert nothing.nearest is rows[2]
    assert all(line.endswith("; nothing else keeps it either") for line in nothing.refused)
