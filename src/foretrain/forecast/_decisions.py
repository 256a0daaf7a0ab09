"""The plan in words: every number, why it was chosen, and what it rests on."""

from dataclasses import dataclass
from typing import Literal

from foretrain.forecast._curves import Forecast
from foretrain.forecast._descent_model import DescentCandidate
from foretrain.forecast._routes import Route
from foretrain.forecast._width import WidthDeviation
from foretrain.models import ShallowOperator
from foretrain.tangent import FormReport

Status = Literal["guarantee", "computation", "estimate"]


@dataclass(frozen=True)
class Decision:
    """One number of the plan.

    Attributes:
        name, value: what was decided.
        reason: why, in words a user can check.
        status: what it rests on: a theorem, a computation with its bounds, or an estimate with its band.
    """

    name: str
    value: str
    reason: str
    status: Status


def explain(
    model: ShallowOperator,
    tried: tuple[DescentCandidate, ...],
    told: Forecast,
    deviation: WidthDeviation,
    wanted: float,
    tolerance: float,
    routes: tuple[Route, ...],
    forms: tuple[FormReport, ...],
) -> tuple[Decision, ...]:
    """All decisions of a plan, in the order they were made."""
    best = tried[0]
    chosen = next(route for route in routes if route.chosen)
    at_end = told.error_at(told.steps)
    decisions = [
        Decision("route", chosen.name, _why(chosen), chosen.status),
        Decision(
            "activation",
            best.activation,
            _activation_reason(tried, told.steps),
            "computation",
        ),
        Decision(
            "input scale", f"{best.input_norm:g}", "typical length of the scaled input vector; likewise", "computation"
        ),
        Decision(
            "form and branch width",
            f"{model.form}, {model.branch_width}",
            "own branch neurons for each trunk neuron: at equal cost less noise than shared ones",
            "estimate",
        ),
        _width_decision(model, deviation, wanted, tolerance),
        Decision(
            "step size",
            f"{told.step_size:.3g}",
            f"1 / largest eigenvalue ({told.eigenvalue_max:.4g}); training is stable below twice that",
            "computation",
        ),
        Decision(
            f"loss after {told.steps:,} steps",
            f"{told.loss[-1]:.4g}",
            f"kernel of infinite width, {told.curves.basis_size} Krylov vectors; 90 % band "
            f"{told.lower[-1]:.4g} to {told.upper[-1]:.4g}",
            "computation",
        ),
        Decision(
            f"test error after {told.steps:,} steps", _percent(at_end), "same kernel, same Krylov space", "computation"
        ),
        Decision(
            "worst-case rate",
            f"{told.worst_case_rate or 0.0:.2g} per step",
            "least eigenvalues of the two terms; guaranteed once the width is as large as the theorem asks",
            "guarantee",
        ),
        Decision(
            "time",
            f"{told.seconds:.0f} s",
            f"{1e3 * told.cost.seconds_per_step:.3g} ms a step, timed at small widths on this machine",
            "estimate",
        ),
        Decision("memory", f"{told.bytes / 1e6:.0f} MB", "activations, weights and gradients of one step", "estimate"),
    ]
    for report in forms:
        decisions.append(
            Decision(
                f"closed form, {report.form}",
                report.settings.activation,
                f"least held-out error ({_percent(report.held_out_error)}) of {len(report.candidates)} settings tried",
                "estimate",
            )
        )
    return tuple(decisions)


def _activation_reason(tried: tuple[DescentCandidate, ...], steps: int) -> str:
    best, ahead = tried[0], [candidate for candidate in tried if candidate.error < tried[0].error]
    reason = f"forecast error {_percent(best.error)} after {steps:,} steps on a subset, the least of {len(tried)} tried"
    if ahead:
        other = min(ahead, key=lambda candidate: candidate.error)
        reason += (
            f" with a positive definite kernel ({other.activation}: {_percent(other.error)}, but its kernel is "
            "singular to rounding and the theorem silent)"
        )
    return reason


def _width_decision(model: ShallowOperator, deviation: WidthDeviation, wanted: float, tolerance: float) -> Decision:
    reason = (
        f"losses stay within {100 * tolerance:.2g} % of the drawn weights' forecast in 90 % of draws, by "
        f"{deviation.pilots} pilots of width {deviation.width}"
    )
    if wanted > model.width:
        reason = (
            f"the largest this planner takes; {100 * tolerance:.2g} % would need about {wanted:,.0f} by "
            f"{deviation.pilots} pilots of width {deviation.width}"
        )
    return Decision("width", f"{model.width:,}", reason, "estimate")


def _why(route: Route) -> str:
    time = f"about {route.seconds:.2g} s" if route.seconds is not None else "unknown time"
    error = f"{_percent(route.test_error)} error" if route.test_error is not None else "unknown error"
    return f"{error} in {time}: the fastest known to reach the target, or else the most accurate"


def _percent(error: float | None) -> str:
    return "unknown" if error is None else f"{100 * error:.3g} %"
