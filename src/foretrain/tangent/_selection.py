"""Hyper-parameters of the closed forms, chosen on held-out training functions."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress
from foretrain.data import OperatorDataset, OutputScale, mean_relative_error
from foretrain.tangent._closed_forms import BranchTrunkSettings, BranchTrunkSolution, FourierSolution, Settings
from foretrain.tangent._fourier_kernel import FourierSettings


@dataclass(frozen=True)
class Candidate:
    """One choice of hyper-parameters, its mean relative L2 error on held-out functions, and the seconds it took."""

    settings: Settings
    error: float
    seconds: float


Evaluate = Callable[[Any], float]
WORTHWHILE = 0.995
"""A move is made if it lowers the error at least this much: held-out errors are no sharper than that."""


def coordinate_search(
    starts: Iterable[Any],
    moves: dict[str, Callable[[Any], Iterable[Any]]],
    evaluate: Evaluate,
    progress: Progress,
    stage: str,
) -> list[Candidate]:
    """Tries all starts, then improves the best by one setting at a time, going on in a direction while it helps.

    Arguments:
        starts: settings to begin with.
        moves: for each setting's name, the neighbouring values to try given the best settings so far.
        evaluate: error of a candidate; infinite where it cannot be computed.
    """
    tried: dict[Any, Candidate] = {}

    def attempt(settings: Any) -> float:
        if settings not in tried:
            started = time.perf_counter()
            error = evaluate(settings)
            tried[settings] = Candidate(settings, error, time.perf_counter() - started)
            progress(stage, len(tried), 0, {"held-out error": min(candidate.error for candidate in tried.values())})
        return tried[settings].error

    best = min(starts, key=attempt)
    for name, neighbours in moves.items():
        before = None
        while best != before:
            before = best
            rival = min((replace(best, **{name: value}) for value in neighbours(best)), key=attempt, default=best)
            best = rival if attempt(rival) < WORTHWHILE * attempt(best) else best
    return list(tried.values())


def _held_out_error(solve: Callable[[], Any], check: OperatorDataset) -> float:
    try:
        prediction = solve().predict(check.inputs, check.query_points)
    except ForetrainError:
        # A kernel that rounding has made indefinite beyond repair is a candidate that lost, not a failure.
        return float("inf")
    return mean_relative_error(prediction, check.outputs) if np.all(np.isfinite(prediction)) else float("inf")


def select_branch_trunk(
    learn: OperatorDataset, check: OperatorDataset, activation: str, progress: Progress
) -> list[Candidate]:
    """Activation, input norm, point scale and ridge of the branch-trunk form."""
    scale = OutputScale.of(learn.outputs)

    def evaluate(settings: BranchTrunkSettings) -> float:
        return _held_out_error(lambda: BranchTrunkSolution.solve(learn, settings, scale), check)

    names = ("relu", "erf", "relu2") if activation == "auto" else (activation,)
    trunk = "relu" if activation == "auto" else activation
    starts = [BranchTrunkSettings(name, trunk, norm) for name in names for norm in (0.5, 2.0)]
    moves: dict[str, Callable[[BranchTrunkSettings], Iterable[Any]]] = {
        "input_norm": lambda best: (best.input_norm / 2, best.input_norm * 2),
        "ridge": lambda best: (1e-6,) if best.ridge == 0 else (best.ridge * 100,),
        "point_scale": lambda best: (best.point_scale / 2, best.point_scale * 2),
        "outer_rate": lambda best: (1.0,),
    }
    return coordinate_search(starts, moves, evaluate, progress, "choosing the branch-trunk form")


def select_fourier(
    learn: OperatorDataset,
    check: OperatorDataset,
    grid_shape: tuple[int, ...],
    activation: str,
    progress: Progress,
) -> list[Candidate]:
    """Activation, input norm, filter prior, reflection and ridge of the Fourier form."""
    scale = OutputScale.of(learn.outputs)

    def evaluate(settings: FourierSettings) -> float:
        return _held_out_error(lambda: FourierSolution.solve(learn, settings, scale, grid_shape), check)

    if activation == "auto":
        starts = [FourierSettings("matern72"), FourierSettings("matern52"), FourierSettings("relu", train_filters=True)]
    else:
        starts = [FourierSettings(activation, train_filters=not activation.startswith(("matern", "cosine")))]
    moves: dict[str, Callable[[FourierSettings], Iterable[Any]]] = {
        "reflection": lambda best: (-1, 1) if best.reflection == 0 else (),
        "input_norm": lambda best: (best.input_norm / 2, best.input_norm * 2),
        "mode_scale": lambda best: (best.mode_scale / 2, best.mode_scale * 2),
        "decay": lambda best: (max(0.25, best.decay - 0.5), best.decay + 0.5),
        "ridge": lambda best: (best.ridge * 100,),
    }
    return coordinate_search(starts, moves, evaluate, progress, "choosing the Fourier form")
