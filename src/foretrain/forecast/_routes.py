"""Ways to a target error, compared before any of them is taken."""

from dataclasses import dataclass, replace
from typing import Literal

from foretrain._foundation import available_bytes
from foretrain.data import OperatorDataset
from foretrain.forecast._cost import Cost
from foretrain.forecast._curves import Forecast
from foretrain.forecast._descent_routes import (
    MOMENTA,
    OUTER_RATE,
    Reach,
    chebyshev,
    gradient_descent,
    heavy_ball,
    two_timescales,
)
from foretrain.forecast._route_pilots import AdamPilot
from foretrain.models import ShallowOperator
from foretrain.tangent import FormReport


@dataclass(frozen=True)
class Route:
    """One way to train.

    Attributes:
        name: in words.
        steps: to the target error, or to the least error forecast if that is larger; None where there are none.
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

    @property
    def fits(self) -> bool:
        """Whether its memory is free on this machine, as far as that is known."""
        free = available_bytes()
        return self.bytes is None or free is None or self.bytes <= free


def compare_routes(
    train: OperatorDataset,
    told: Forecast,
    forms: tuple[FormReport, ...],
    cost: Cost,
    target_error: float,
    *,
    model: ShallowOperator | None = None,
    learn: OperatorDataset | None = None,
    check: OperatorDataset | None = None,
    adam: AdamPilot | None = None,
) -> tuple[Route, ...]:
    """Every route this package can foretell; the fastest that fits into memory and reaches the target is chosen.

    If none is known to reach it, the one with the least error is. Plain descent, momentum and Chebyshev share the
    forecast's Krylov space: only the polynomial changes. **Their bands are wider than gradient descent's where they use
    step sizes nearer to the limit of stability;** what is compared here are the forecasts themselves.

    Arguments:
        train: the training data.
        told: the forecast of gradient descent on them.
        forms: closed forms that were tried.
        cost: of a training step.
        target_error: relative L2 test error wanted.
        model, learn, check: what is planned, the functions that `told.test_curves` learn from and those they are tested
            on: for the route of two timescales, left out without them.
        adam: a pilot, for the route of Adam, left out without it.
    """
    velocity = 4 * model.parameter_count(train) if model is not None else 0
    momentum, ball = heavy_ball(told, target_error)
    routes = [
        _descent_route("gradient descent", gradient_descent(told, target_error), told.bytes, cost),
        _descent_route(
            f"heavy ball, momentum {momentum:g}",
            ball,
            told.bytes + velocity,
            cost,
            f"the best of momenta {', '.join(f'{value:g}' for value in MOMENTA)}",
        ),
        _descent_route(
            "Chebyshev",
            chebyshev(told, target_error),
            told.bytes + velocity,
            cost,
            "step sizes and momenta made for this number of steps",
        ),
    ]
    if adam is not None:
        routes.append(_adam_route(adam, target_error, told.bytes + 2 * velocity, cost))
    if model is not None and learn is not None and check is not None and told.test_curves is not None:
        fast = two_timescales(told, model, learn, check, target_error)
        note = f"gradient descent with the outer layer trained too, {OUTER_RATE:g} times as fast"
        routes.append(_descent_route("two timescales (wide, outer layer fast)", fast, told.bytes, cost, note))
    routes += [_closed_form_route(train, report, cost) for report in forms]
    routes.append(
        Route(
            "two timescales (small network)",
            None,
            None,
            None,
            None,
            "estimate",
            "not forecast here: forecast_two_timescales rehearses one",
        )
    )
    return _with_choice(routes, target_error)


def _with_choice(routes: list[Route], target_error: float) -> tuple[Route, ...]:
    """One route chosen; those that do not fit say so, and are chosen only if none does."""
    free = available_bytes()
    routes = [
        route
        if route.fits
        else replace(
            route,
            note=f"{route.note}; does not fit: needs {(route.bytes or 0) / 1e9:.3g} GB, {(free or 0) / 1e9:.3g} free",
        )
        for route in routes
    ]
    known = [route for route in routes if route.test_error is not None]
    known = [route for route in known if route.fits] or known
    reaching = [r for r in known if (r.test_error or 0.0) <= target_error and r.seconds is not None]
    best = min(reaching, key=lambda r: r.seconds or 0.0) if reaching else min(known, key=lambda r: r.test_error or 0.0)
    return tuple(replace(route, chosen=route is best) for route in routes)


def _descent_route(name: str, reach: Reach, peak_bytes: int, cost: Cost, note: str = "") -> Route:
    where = (
        "reaches the target"
        if reach.reached
        else f"still at {100 * reach.error:.2g} % after {reach.steps:,} steps, "
        + ("as far as this forecast sees" if reach.steps == reach.last else f"the least of the {reach.last:,} it sees")
    )
    return Route(
        name,
        reach.steps,
        cost.seconds(reach.steps),
        peak_bytes,
        reach.error,
        "computation",
        f"{where}; {note}" if note else where,
        cost.price(reach.steps),
    )


def _adam_route(pilot: AdamPilot, target_error: float, peak_bytes: int, cost: Cost) -> Route:
    """Where the pilot's power law meets the target, or where it is given up."""
    reached = pilot.steps_to(target_error)
    steps = pilot.horizon if reached is None else reached
    error = pilot.error_at(steps)
    lower, upper = pilot.band_at(steps)
    if reached is None:
        where = f"still at {100 * error:.2g} % after {steps:,} steps ({100 * lower:.2g} to {100 * upper:.2g} %)"
    else:
        soonest, latest = pilot.steps_between(target_error)
        until = "never" if latest is None else f"{latest:,}"
        where = f"reaches the target between step {soonest or reached:,} and {until}"
    return Route(
        "Adam (estimated)",
        steps,
        cost.seconds(steps),
        peak_bytes,
        error,
        "estimate",
        f"{where}: a power law of a pilot's {pilot.steps[-1]:.0f} steps, width {pilot.width}, {pilot.functions} "
        f"functions, learning rate {pilot.learning_rate:g}; more functions do better",
        cost.price(steps),
    )


def _closed_form_route(train: OperatorDataset, report: FormReport, cost: Cost) -> Route:
    functions, points = train.outputs.shape
    if report.form == "fourier":
        # Building grows with the square of the number of functions, factorising with its cube.
        growth = (len(train) / report.learnt_on) ** 2.5 * report.more_points
        size = 2 if getattr(report.settings, "reflection", 0) else 1
        size_bytes = 16 * size * functions**2 * ((report.points or points) // 2 + 1) * 2
    else:
        growth = (len(train) / report.learnt_on * report.more_points) ** 2
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
