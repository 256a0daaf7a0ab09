"""Hyper-parameters of the closed forms, chosen on held-out training functions."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse.csgraph
from jaxtyping import Float, Int

from foretrain._foundation import ForetrainError, Progress
from foretrain.data import (
    OperatorDataset,
    OutputScale,
    PeriodicGrid,
    mean_relative_error,
    regular_grid_shape,
    sufficient_resolution,
)
from foretrain.tangent._closed_forms import BranchTrunkSettings, BranchTrunkSolution, FourierSolution, Settings
from foretrain.tangent._fourier_kernel import FourierSettings
from foretrain.tangent._symmetry import Symmetry, SymmetryGroup

Array = np.ndarray


@dataclass(frozen=True)
class Candidate:
    """One choice of hyper-parameters, its mean relative L2 error on held-out functions, and the seconds it took."""

    settings: Settings
    error: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """One setting that was looked at while the others stayed.

    Attributes:
        name: of the setting.
        value: its best rival value.
        before, after: held-out error with the value it had, and with the rival.
        adopted: whether the rival was better by enough to be taken.
        learnt_on: how many functions either was fitted to.
    """

    name: str
    value: Any
    before: float
    after: float
    adopted: bool
    learnt_on: int

    @property
    def value_text(self) -> str:
        """The rival value in words."""
        if isinstance(self.value, tuple):
            return " and ".join(getattr(each, "name", str(each)) for each in self.value) or "none"
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)

    def __str__(self) -> str:
        change = f"held-out error {100 * self.before:.4g} % -> {100 * self.after:.4g} %"
        return f"{self.name.replace('_', ' ')} {self.value_text}: {change}, {'taken' if self.adopted else 'left'}"


@dataclass(frozen=True)
class Search:
    """Everything tried, in order, the steps from the best start, and where they led."""

    candidates: tuple[Candidate, ...]
    steps: tuple[Step, ...]
    best: Candidate


Evaluate = Callable[[Any], float]
Moves = dict[str, Callable[[Any], Iterable[Any]]]
WORTHWHILE = 0.995
"""A move is made if it lowers the error at least this much: held-out errors are no sharper than that."""

LOST, LOST_IN_CHOICE = 2e-5, 1e-3
"""Relative L2 norm of what smooth outputs may lose on a coarser grid: far below the error of any operator, and below
what a choice of settings gains, for the grid that they are chosen on."""

POINTS_IN_CHOICE = 300

SPREAD = 1.5
"""Largest over least value of positive inputs, from which on a logarithm differs enough to be tried."""

UNSOLVED = 1e-3
"""Relative residual of a system, from which on its solution is not one."""

LEAST_POINT_SCALE = 1 / 16
"""Below, the trunk can no longer tell neighbouring points apart and predictions between them suffer."""


class CoordinateSearch:
    """Tries all starts, then improves the best by one setting at a time, going on in a direction while it helps.

    Arguments:
        starts: settings to begin with.
        moves: for each setting's name, the neighbouring values to try given the best settings so far.
        evaluate: error of a candidate; infinite where it cannot be computed.
        learnt_on: how many functions it is fitted to, for the record.
    """

    def __init__(
        self,
        starts: Iterable[Any],
        moves: Moves,
        evaluate: Evaluate,
        learnt_on: int,
        progress: Progress,
        stage: str,
    ) -> None:
        self._starts, self._moves, self._evaluate = tuple(starts), moves, evaluate
        self._learnt_on, self._progress, self._stage = learnt_on, progress, stage
        self._tried: dict[Any, Candidate] = {}

    def begin(self) -> Search:
        """Only the starts."""
        best = min(self._starts, key=self._attempt)
        return Search(tuple(self._tried.values()), (), self._tried[best])

    def finish(self) -> Search:
        """All of it; what was tried before is not tried again."""
        best, steps = self.begin().best.settings, []
        for name, neighbours in self._moves.items():
            adopted = True
            while adopted:
                rivals = [replace(best, **{name: value}) for value in neighbours(best) if value != getattr(best, name)]
                if not rivals:
                    break
                rival = min(rivals, key=self._attempt)
                before, after = self._attempt(best), self._attempt(rival)
                adopted = after < WORTHWHILE * before
                steps.append(Step(name, getattr(rival, name), before, after, adopted, self._learnt_on))
                best = rival if adopted else best
        return Search(tuple(self._tried.values()), tuple(steps), self._tried[best])

    def _attempt(self, settings: Any) -> float:
        if settings not in self._tried:
            started = time.perf_counter()
            error = self._evaluate(settings)
            self._tried[settings] = Candidate(settings, error, time.perf_counter() - started)
            least = min(candidate.error for candidate in self._tried.values())
            self._progress(self._stage, len(self._tried), 0, {"held-out error": least})
        return self._tried[settings].error


def climb(
    settings: Any, name: str, factor: float, evaluate: Evaluate, learnt_on: int, progress: Progress, stage: str
) -> tuple[Any, tuple[Step, ...]]:
    """Multiplies one setting by `factor` for as long as that helps; returns the settings and what was tried."""
    steps: list[Step] = []
    error = evaluate(settings)
    while not steps or steps[-1].adopted:
        progress(stage, len(steps), 0, {"held-out error": error})
        rival = replace(settings, **{name: getattr(settings, name) * factor})
        after = evaluate(rival)
        steps.append(Step(name, getattr(rival, name), error, after, after < WORTHWHILE * error, learnt_on))
        if steps[-1].adopted:
            settings, error = rival, after
    return settings, tuple(steps)


def is_medium(inputs: Float[Array, "functions sensors"]) -> bool:
    """Whether all inputs are positive, and spread enough for their logarithm to differ from them."""
    return bool(0 < np.min(inputs) < np.max(inputs) / SPREAD)


def _held_out_error(solve: Callable[[], Any], inputs: Array, outputs: Array) -> float:
    try:
        solution = solve()
        # Rounding that already counts is worse with more functions, whatever the error with these.
        if solution.relative_residual > UNSOLVED:
            return float("inf")
        prediction = solution.predict(inputs, None)
    except ForetrainError:
        # A kernel that rounding has made indefinite beyond repair is a candidate that lost, not a failure.
        return float("inf")
    return mean_relative_error(prediction, outputs) if np.all(np.isfinite(prediction)) else float("inf")


def select_branch_trunk(
    learn: OperatorDataset,
    check: OperatorDataset,
    activation: str,
    symmetries: tuple[Symmetry, ...],
    points: Int[Array, " some"] | None,
    positive: bool,
    progress: Progress,
) -> CoordinateSearch:
    """Activation, scales, symmetries, priors of the input weights, depth and ridge of the branch-trunk form.

    Arguments:
        symmetries: those worth testing.
        points: numbers of the query points to look at, by default all.
        positive: whether the logarithm of the inputs is tried as well.
    """
    scale = OutputScale.of(learn.outputs)
    wanted = check.outputs if points is None else check.outputs[:, points]

    def evaluate(settings: BranchTrunkSettings) -> float:
        return _held_out_error(lambda: BranchTrunkSolution.solve(learn, settings, scale, points), check.inputs, wanted)

    names = ("relu", "erf", "relu2", "matern52") if activation == "auto" else (activation,)
    trunk = "relu" if activation == "auto" else activation
    # A positive medium is more often seen rightly by its logarithm.
    ways = (False, True) if positive else (False,)
    starts = [
        BranchTrunkSettings(name, trunk, norm, logarithm=way) for way in ways for name in names for norm in (0.5, 2.0)
    ]
    moves: Moves = {"symmetries": lambda best: _larger_groups(best.symmetries, symmetries)}
    if regular_grid_shape(learn.sensor_points) is not None:
        moves |= {
            "mode_scale": lambda best: (best.mode_scale / 2, best.mode_scale * 2) if best.has_prior else (2.0, 8.0),
            "local_share": lambda best: () if best.local_share else (0.3,),
        }
    moves |= {
        "input_norm": lambda best: (best.input_norm / 2, best.input_norm * 2),
        "field_norm": lambda best: (best.field_norm / 2, best.field_norm * 2) if best.local_share else (),
        "field_width": lambda best: (best.field_width / 1.5, best.field_width * 1.5) if best.local_share else (),
        "branch_depth": lambda best: (2,) if best.branch_depth == 1 and not best.local_share else (),
        "ridge": lambda best: (1e-6,) if best.ridge == 0 else (best.ridge * 100,),
        "point_scale": lambda best: (max(best.point_scale / 2, LEAST_POINT_SCALE), best.point_scale * 2),
        "outer_rate": lambda best: () if best.outer_rate else (1.0,),
    }
    return CoordinateSearch(starts, moves, evaluate, len(learn), progress, "choosing the branch-trunk form")


def _larger_groups(used: tuple[Symmetry, ...], offered: tuple[Symmetry, ...]) -> Iterable[tuple[Symmetry, ...]]:
    """The groups one generator larger, and at first the one of all that leave signs alone, each of them once."""
    spatial = tuple(each for each in offered if each.input_sign > 0 and each.output_sign > 0)
    choices = [(*used, each) for each in offered]
    choices += [spatial] if not used and len(spatial) > 1 else []
    known = {_actions(used)} if used else set()
    for choice in choices:
        try:
            actions = _actions(choice)
        except ForetrainError:
            continue  # more elements than are worth their kernels
        if actions not in known:
            known.add(actions)
            yield choice


def _actions(generators: tuple[Symmetry, ...]) -> frozenset[Any]:
    return frozenset(element.action for element in SymmetryGroup.generated_by(generators).elements)


def select_fourier(
    learn: OperatorDataset,
    check: OperatorDataset,
    grid_shape: tuple[int, ...],
    activation: str,
    progress: Progress,
) -> CoordinateSearch:
    """Activation, input norm, filter prior, reflection, depth and ridge of the Fourier form, and the grid it needs.

    Where the outputs are smooth, everything is tried on the coarsest grid that holds them. The inputs may have finer
    features that matter: in the end the data's own grid is tried as well.
    """
    if activation == "auto":
        starts = [FourierSettings("matern72"), FourierSettings("matern52"), _trained_filters("relu")]
        # The smoother ones, where the operator differs from place to place.
        starts += [
            FourierSettings("matern72", 0.25, place=0.25),
            replace(_trained_filters("relu2"), bias=1.0, place=0.5),
        ]
    elif activation.startswith(("matern", "cosine")):
        starts = [FourierSettings(activation), FourierSettings(activation, 0.25, place=0.25)]
    else:
        starts = [_trained_filters(activation), replace(_trained_filters(activation), place=0.25)]
    moves: Moves = {
        # Before the reflection: an operator that no translation leaves alone may look like one that a reflection does.
        "place": lambda best: (best.place / 2, best.place * 2) if best.place else (best.input_norm,),
        "reflection": lambda best: (-1, 1) if best.reflection == 0 else (),
        "input_norm": lambda best: (best.input_norm / 2, best.input_norm * 2),
        "bias": lambda best: (best.bias / 2, best.bias * 2) if best.bias else (),
        "mode_scale": lambda best: (best.mode_scale / 2, best.mode_scale * 2),
        "decay": lambda best: (max(0.25, best.decay - 0.5), best.decay + 0.5),
        "ridge": lambda best: (best.ridge * 100, best.ridge / 100),
        "depth": lambda best: (2,) if best.depth == 1 else (),
        "resolution": lambda best: finer[finer.index(best.resolution) + 1 :][:1],
    }
    finer = list(dict.fromkeys([*(enough_resolution(learn, grid_shape, lost) for lost in (LOST_IN_CHOICE, LOST)), ()]))
    starts = [replace(start, resolution=finer[0]) for start in starts]
    evaluate = _fourier_error(learn, check, grid_shape)
    return CoordinateSearch(starts, moves, evaluate, len(learn), progress, "choosing the Fourier form")


def refine_fourier(
    settings: FourierSettings,
    learn: OperatorDataset,
    check: OperatorDataset,
    grid_shape: tuple[int, ...],
    progress: Progress,
) -> tuple[FourierSettings, tuple[Step, ...]]:
    """The input norm once more, on more functions: the best one grows with their number."""
    evaluate = _fourier_error(learn, check, grid_shape)
    return climb(settings, "input_norm", 2**0.5, evaluate, len(learn), progress, "refining the Fourier form")


def _fourier_error(learn: OperatorDataset, check: OperatorDataset, grid_shape: tuple[int, ...]) -> Evaluate:
    scale = OutputScale.of(learn.outputs)

    def evaluate(settings: FourierSettings) -> float:
        return _held_out_error(
            lambda: FourierSolution.solve(learn, settings, scale, grid_shape), check.inputs, check.outputs
        )

    return evaluate


def enough_resolution(train: OperatorDataset, grid_shape: tuple[int, ...], lost: float = LOST) -> tuple[int, ...]:
    """The coarsest grid on which outputs lose no more than `lost`; empty for the data's own."""
    grid = PeriodicGrid.of(train, grid_shape)
    enough = sufficient_resolution(grid.own(train.outputs), grid.shape, lost)
    return () if enough == grid.shape else enough


def enough_points(train: OperatorDataset, symmetries: tuple[Symmetry, ...], key: int) -> Int[Array, " some"] | None:
    """Numbers of about `POINTS_IN_CHOICE` random query points that the symmetries map onto one another; None for all.

    Settings say how functions are learnt from, which fewer points tell as well at a fraction of the price.
    """
    count = len(train.query_points)
    if count <= POINTS_IN_CHOICE:
        return None
    rows = np.tile(np.arange(count), len(symmetries))
    columns = np.concatenate([each.output_order for each in symmetries]) if symmetries else rows
    links = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), (count, count))
    number, orbit = scipy.sparse.csgraph.connected_components(links, directed=False)
    order = np.random.default_rng(key).permutation(number)
    sizes = np.cumsum(np.bincount(orbit)[order])
    taken = order[: int(np.searchsorted(sizes, POINTS_IN_CHOICE)) + 1]
    return np.flatnonzero(np.isin(orbit, taken))


def _trained_filters(activation: str) -> FourierSettings:
    # Without biases a ReLU operator would be positively homogeneous.
    return FourierSettings(activation, bias=0.5, train_filters=True)
