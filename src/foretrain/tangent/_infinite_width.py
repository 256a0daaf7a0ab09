"""The infinitely wide operator, trained to the end in closed form."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError, Progress, ignore_progress
from foretrain.data import (
    OperatorDataset,
    OutputScale,
    PeriodicGrid,
    common_grid_shape,
    mean_relative_error,
    periodic_grid_shape,
)
from foretrain.tangent._closed_forms import (
    BranchTrunkSettings,
    BranchTrunkSolution,
    ClosedFormSolution,
    FourierSolution,
    Settings,
)
from foretrain.tangent._fourier_kernel import FourierSettings
from foretrain.tangent._selection import (
    Candidate,
    CoordinateSearch,
    Step,
    enough_points,
    enough_resolution,
    is_medium,
    refine_fourier,
    select_branch_trunk,
    select_fourier,
)
from foretrain.tangent._symmetry import Symmetry, grid_symmetries

Array = np.ndarray
HELD_OUT, LEARNT_ON, REFINED_ON = 100, 250, 600
HOPELESS = 3.0
"""A form whose best start has so many times the error of another one's is not looked at further."""


@dataclass(frozen=True)
class FormReport:
    """How one form did: what was chosen for it and why.

    Attributes:
        form: "branch-trunk" or "fourier".
        settings: the hyper-parameters chosen.
        held_out_error: mean relative L2 error on held-out training functions, by which forms are compared: before the
            last refinement on more functions, which not every form has.
        candidates: everything tried, in order.
        points_tried, points: how many points each candidate looked at, and how many the chosen settings are solved on;
            0 for all.
        steps: the settings looked at after the best start, with what each gave.
        seconds: time the choice took.
        learnt_on: how many functions each candidate was fitted to.
    """

    form: str
    settings: Settings
    held_out_error: float
    candidates: tuple[Candidate, ...]
    seconds: float
    learnt_on: int
    steps: tuple[Step, ...] = ()
    points_tried: int = 0
    points: int = 0

    @property
    def more_points(self) -> float:
        """How many times the points of the choice the final fit has."""
        return self.points / self.points_tried if self.points_tried and self.points else 1.0

    @property
    def seconds_each(self) -> float:
        """Median time of one candidate's fit and prediction."""
        return float(np.median([candidate.seconds for candidate in self.candidates]))


class InfiniteWidthOperator:
    """The limit of infinite width and infinite training time: kernel interpolation with the tangent kernel.

        G(u)(y) = Theta((u, y), train) Theta(train, train)^{-1} Z

    Two forms: *branch-trunk* (the shallow operator; any points) and *fourier* (one periodic grid for inputs and
    outputs; translation-equivariant, or with biases that vary with the place). With "auto", forms and hyper-parameters
    are compared on held-out training functions, which the final fit then uses as well.

    Arguments:
        form: "branch-trunk", "fourier" or "auto".
        activation: by name, or "auto".
        symmetries: those to test on held-out functions, used if they help: "auto" for reflections, exchanges of axes
            and changes of sign that the points allow, your own, or () for none. For the branch-trunk form.
        key: seed of the held-out draw.
        progress: called while choosing and fitting.

    Attributes after `fit`:
        form_, settings_: what was chosen.
        reports_: a `FormReport` for each form tried (empty if nothing was to choose).
        relative_residual_: of the linear solve; jitter_: what it needed on the diagonal.

    **Assumption:** as the width grows the weights stay near their start, so the tangent kernel is constant in training.

    Source: Jacot, Gabriel, Hongler (2018); Xu, Li, Huang, arXiv 2412.05545, for operators.
    """

    def __init__(
        self,
        form: Literal["auto", "branch-trunk", "fourier"] = "auto",
        activation: str = "auto",
        settings: Settings | None = None,
        symmetries: Literal["auto"] | Sequence[Symmetry] = "auto",
        key: int = 0,
        progress: Progress = ignore_progress,
    ) -> None:
        self.form = form
        self.activation = activation
        self.settings = settings
        self.symmetries = symmetries
        self.key = key
        self.progress = progress

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments (scikit-learn's convention)."""
        names = ("form", "activation", "settings", "symmetries", "key", "progress")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> "InfiniteWidthOperator":
        """Changes constructor arguments; takes effect at the next `fit`."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ForetrainError(f"expected one of {', '.join(self.get_params())}, came {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, train: OperatorDataset) -> "InfiniteWidthOperator":
        """Chooses what is "auto", then solves on all training functions.

        Raises:
            DataError: the Fourier form on data that is not on one regular grid.
        """
        self.reports_ = self.choose(train) if self.settings is None else ()
        best = min(self.reports_, key=lambda report: report.held_out_error) if self.reports_ else None
        self.settings_ = best.settings if best else self.settings
        self.form_ = "fourier" if isinstance(self.settings_, FourierSettings) else "branch-trunk"
        self.solution_ = solve_closed_form(train, self.settings_, self.progress)  # type: ignore[arg-type]
        self.relative_residual_ = self.solution_.relative_residual
        self.jitter_ = self.solution_.jitter
        return self

    def predict(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The operator's values in physical units, at the training query points unless others are given.

        Raises:
            ForetrainError: before `fit`.
            DataError: inputs of another number of sensors, or points of another dimension, than the training data's;
                values that are not positive where the settings take their logarithm.
        """
        solution = self._fitted()
        return solution.predict(*_as_trained(solution.train, inputs, points), self.progress)

    def score(self, test: OperatorDataset) -> float:
        """Mean relative L2 error on the test functions (smaller is better, unlike scikit-learn's R^2)."""
        return mean_relative_error(self.predict(test.inputs, test.query_points), test.outputs)

    def std(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """Standard deviation of the Gaussian process with this kernel, in physical units.

        Zero at the training data, up to the ridge. In the Fourier form it takes the time and memory of the fit again.

        **Assumption:** the outputs are a draw of that process, scaled by the marginal likelihood's best amplitude.
        Raises as `predict` does.
        """
        solution = self._fitted()
        return solution.std(*_as_trained(solution.train, inputs, points))

    def _fitted(self) -> ClosedFormSolution:
        if not hasattr(self, "solution_"):
            raise ForetrainError("expected a fitted operator, came one that is not; call fit(train) first")
        return self.solution_

    def choose(self, train: OperatorDataset) -> tuple[FormReport, ...]:
        """Compares forms and hyper-parameters on held-out training functions, without the final fit.

        Raises:
            ForetrainError: an unknown form.
            DataError: the Fourier form asked for on data that is not on one regular grid.
        """
        if self.form not in ("auto", "branch-trunk", "fourier"):
            raise ForetrainError(f"expected the form 'auto', 'branch-trunk' or 'fourier', came {self.form!r}")
        shape = _closed_grid(train)
        if self.form == "fourier":
            shape = shape or _required_grid(train)
        searches: dict[str, CoordinateSearch] = {}
        rest, check = _held_out(train, self.key)
        learn = rest.take(slice(0, LEARNT_ON))
        points = None
        if self.form != "fourier":
            offered = self._candidates(train)
            points = enough_points(train, offered, self.key)
            # Of all functions: the final fit takes the logarithm of those that nothing was tried on, too.
            positive = is_medium(train.inputs)
            offer = learn, check, self.activation, offered, points, positive, self.progress
            searches["branch-trunk"] = select_branch_trunk(*offer)
        if shape is not None and self.form != "branch-trunk":
            searches["fourier"] = select_fourier(learn, check, shape, self.activation, self.progress)
        first = {form: search.begin() for form, search in searches.items()}
        bar = HOPELESS * min(search.best.error for search in first.values())
        reports = []
        for form, search in searches.items():
            # Settings seldom gain more than that: the rest of a search far behind would be for nothing.
            found = search.finish() if first[form].best.error <= bar else first[form]
            seconds = sum(candidate.seconds for candidate in found.candidates)
            best = found.best
            tried, candidates = _points_tried(found.candidates[0].settings, train, points), found.candidates
            own = len(train.query_points)
            reports.append(
                FormReport(form, best.settings, best.error, candidates, seconds, len(learn), found.steps, tried, own)
            )
        return tuple(self._refined(report, reports, rest, check, shape) for report in reports)

    def _refined(
        self,
        report: FormReport,
        reports: Sequence[FormReport],
        rest: OperatorDataset,
        check: OperatorDataset,
        shape: tuple[int, ...] | None,
    ) -> FormReport:
        """The Fourier form's settings looked at again on more functions, if it is the one that will be used."""
        settings, more = report.settings, rest.take(slice(0, REFINED_ON))
        if not isinstance(settings, FourierSettings) or shape is None:
            return report
        if settings.resolution:
            # That of the choice may be a coarse one.
            settings = replace(settings, resolution=enough_resolution(rest, shape))
        best = min(reports, key=lambda each: each.held_out_error)
        report = replace(report, points=math.prod(settings.resolution) if settings.resolution else report.points)
        if report.form != best.form or len(more) <= report.learnt_on:
            return replace(report, settings=settings)
        started = time.perf_counter()
        settings, steps = refine_fourier(settings, more, check, shape, self.progress)
        seconds = report.seconds + time.perf_counter() - started
        return replace(report, settings=settings, steps=report.steps + steps, seconds=seconds)

    def _candidates(self, train: OperatorDataset) -> tuple[Symmetry, ...]:
        if self.symmetries == "auto":
            return grid_symmetries(train)
        sizes = train.inputs.shape[1], train.outputs.shape[1]
        for symmetry in self.symmetries:
            came = len(symmetry.input_order), len(symmetry.output_order)
            if came != sizes:
                raise ForetrainError(
                    f"the symmetry {symmetry.name!r}: expected one of {sizes[0]} sensors and {sizes[1]} query points, "
                    f"came one of {came[0]} and {came[1]}; make it with Symmetry.of_coordinates from this data"
                )
        return tuple(self.symmetries)


def solve_closed_form(
    train: OperatorDataset, settings: Settings, progress: Progress = ignore_progress
) -> ClosedFormSolution:
    """The closed-form operator with given hyper-parameters."""
    scale = OutputScale.of(train.outputs)
    if isinstance(settings, BranchTrunkSettings):
        return BranchTrunkSolution.solve(train, settings, scale)
    return FourierSolution.solve(train, settings, scale, _required_grid(train), progress)


def _points_tried(settings: Settings, train: OperatorDataset, chosen: Array | None) -> int:
    """How many points a candidate with these settings looked at."""
    if isinstance(settings, FourierSettings) and settings.resolution:
        return math.prod(settings.resolution)
    return len(train.query_points) if isinstance(settings, FourierSettings) or chosen is None else len(chosen)


def _held_out(train: OperatorDataset, key: int) -> tuple[OperatorDataset, OperatorDataset]:
    """Functions to learn from, and others to choose by; the same where there are next to none."""
    held_out = max(2, min(HELD_OUT, len(train) // 4))
    return train.split(held_out, key) if len(train) >= 8 else (train, train)


def _as_trained(train: OperatorDataset, inputs: Any, points: Any) -> tuple[Array, Array | None]:
    """Inputs and points as arrays that fit the training data."""
    inputs = np.asarray(inputs, np.float64)
    inputs = inputs.reshape(len(inputs), -1) if inputs.ndim > 2 else inputs
    if inputs.ndim != 2 or inputs.shape[1] != train.inputs.shape[1]:
        raise DataError(
            f"inputs: expected [functions, {train.inputs.shape[1]} sensors] as in training, came an array of shape "
            f"{inputs.shape}; sample the functions at the training sensors"
        )
    if points is None:
        return inputs, None
    points = np.asarray(points, np.float64)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != train.query_points.shape[1]:
        raise DataError(
            f"points: expected [points, dimension {train.query_points.shape[1]}] as in training, came an array of "
            f"shape {points.shape}"
        )
    return inputs, points


def _closed_grid(train: OperatorDataset) -> tuple[int, ...] | None:
    """Points along each axis if functions close up on their grid, its end point listed once or twice."""
    listed = common_grid_shape(train)
    if listed is None:
        return None
    grid = PeriodicGrid.of(train, listed)
    closed = grid.own_points_of(train) if any(grid.repeated) else train
    return listed if periodic_grid_shape(closed) is not None else None


def _required_grid(train: OperatorDataset) -> tuple[int, ...]:
    shape = common_grid_shape(train)
    if shape is None:
        raise DataError(
            "the Fourier form: expected inputs and outputs on one regular grid, came other points; "
            "use form='branch-trunk'"
        )
    return shape
