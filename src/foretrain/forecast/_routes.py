"""Ways to a target error, compared before any of them is taken."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foretrain.data import OperatorDataset
from foretrain.forecast._cost import Cost
from foretrain.forecast._curves import Forecast, horizon_of
from foretrain.forecast._momentum import HeavyBall
from foretrain.tangent import FormReport

MOMENTUM = 0.99


@dataclass(frozen=True)
class Route:
    """One way to train.

    Attributes:
        name: in words.
        steps: to the target error (or those looked at, if it is not reached), None where there are none.
        seconds, price: on this machine; None if unknown.
        bytes: peak memory; None if unknown.
        test_error: what the route reaches; None if not forecast.
        status: what the numbers rest on.
        note: what to know.
        chosen: whether the plan recommends it.
    """

    name: str
    steps: int | None
    seconds: float | None
    bytes: int | None
    test_error: float | None
    status: Literal["guarantee", "computation", "estimate"]
    note: str
    price: float | None = None
    chosen: bool = False


def compare_routes(
    train: OperatorDataset,
    told: Forecast,
    forms: tuple[FormReport, ...],
    cost: Cost,
    target_error: float,
) -> tuple[Route, ...]:
    """Gradient descent, momentum, the closed forms and two timescales; the fastest that reaches the target is chosen.

    If none is known to reach it, the one with the least error is.
    """
    routes = [
        _descent_route("gradient descent", told, target_error, cost),
        _momentum_route(told, target_error, cost),
        *(_closed_form_route(train, report, cost) for report in forms),
        Route(
            "two timescales (small network)",
            None,
            None,
            None,
            None,
            "estimate",
            "not forecast: compress trains one and measures it",
        ),
    ]
    reaching = [
        r for r in routes if r.test_error is not None and r.test_error <= target_error and r.seconds is not None
    ]
    known = [route for route in routes if route.test_error is not None]
    best = min(reaching, key=lambda r: r.seconds or 0.0) if reaching else min(known, key=lambda r: r.test_error or 1.0)
    return tuple(Route(**{**vars(route), "chosen": route is best}) for route in routes)


def _descent_route(name: str, told: Forecast, target_error: float, cost: Cost, note: str = "") -> Route:
    steps = told.steps_to(target_error)
    horizon = told.horizon
    if steps is not None:
        return Route(
            name,
            steps,
            cost.seconds(steps),
            told.bytes,
            told.error_at(steps),
            "computation",
            note or "reaches the target",
            cost.price(steps),
        )
    error = told.error_at(horizon)
    return Route(
        name,
        horizon,
        cost.seconds(horizon),
        told.bytes,
        error,
        "computation",
        f"still at {100 * error:.2g} % after {horizon:,} steps, as far as this forecast sees",
        cost.price(horizon),
    )


def _momentum_route(told: Forecast, target_error: float, cost: Cost) -> Route:
    method = HeavyBall(MOMENTUM).with_step_size(told.eigenvalue_max)
    horizon = horizon_of(told.curves, method)
    curves = told.test_curves or told.curves
    grid = np.unique(np.round(np.logspace(0, np.log10(max(horizon, 2)), 300)))
    error = curves.test_error(method, grid) if curves.has_test else np.sqrt(curves.loss(method, grid)[0])
    reached = np.flatnonzero(error <= target_error)
    index = int(reached[0]) if len(reached) else len(grid) - 1
    steps = int(grid[index])
    note = (
        "reaches the target"
        if len(reached)
        else f"still at {100 * error[index]:.2g} % after {steps:,} steps, as far as this forecast sees"
    )
    return Route(
        f"heavy ball, momentum {MOMENTUM:g}",
        steps,
        cost.seconds(steps),
        told.bytes,
        float(error[index]),
        "computation",
        note,
        cost.price(steps),
    )


def _closed_form_route(train: OperatorDataset, report: FormReport, cost: Cost) -> Route:
    functions, points = train.outputs.shape
    if report.form == "fourier":
        # Building grows with the square of the number of functions, factorising with its cube.
        growth = (len(train) / report.learnt_on) ** 2.5
        size = 2 if getattr(report.settings, "reflection", 0) else 1
        size_bytes = 16 * size * functions**2 * (points // 2 + 1) * 2
    else:
        growth = (len(train) / report.learnt_on) ** 2
        size_bytes = 8 * (8 * functions**2 + 8 * points**2 + 3 * functions * points)
    return Route(
        f"closed form, {report.form}",
        None,
        report.seconds_each * growth,
        size_bytes,
        report.held_out_error,
        "estimate",
        f"held-out error of a fit to {report.learnt_on} functions; more functions do better",
        report.seconds_each * growth / 3600 * cost.price_per_hour,
    )
