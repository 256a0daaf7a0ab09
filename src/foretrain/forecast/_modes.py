"""Which modes of the target are learnt by a step and which are not, and what those look like on the query grid."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError
from foretrain.forecast._methods import Method
from foretrain.forecast._mode_shapes import STEP_GRID, ResidualShapes, residual_shapes, settling_step
from foretrain.forecast._spectral import SpectralCurves

Array = np.ndarray
LEARNT_BELOW = 0.05
NOT_LEARNT_ABOVE = 0.5
GROUPS = ("learnt", "half-learnt", "unresolved", "not learnt")
CLEARLY = 0.1
"""A mode of which the energy kept is known more closely than this is resolved, on whichever side of a limit it is."""


@dataclass(frozen=True)
class ModeGroup:
    """Modes that fare alike.

    Attributes:
        name: learnt (keeps less than 5 % of its energy), half-learnt, not learnt (keeps more than 50 %), or unresolved
            (its eigenvalue is known only to within an interval on which those differ).
        modes: how many Ritz vectors.
        share: of the energy of the initial residual that lies in them.
        kept: the part of the energy of the initial residual that they still hold.
    """

    name: str
    modes: int
    share: float
    kept: float


@dataclass(frozen=True)
class ModeReport:
    """What is learnt after some number of steps, and what is not.

    Energy is the sum of squares of the residual; shares are fractions of that of the initial residual.

    Attributes:
        steps: k.
        groups: learnt, half-learnt, unresolved, not learnt: their shares sum to one.
        initial, learnt, remaining: r_0, r_0 - r_k and r_k by their shapes.
        learnt_share: 1 - |r_k|^2 / |r_0|^2, lower and upper bound of the forecast.
        steps_needed: the steps after which 90 % of what remains at step k is learnt too, by the lower and by the upper
            bound of the loss; None if not before 1e12.
        query_points: where the shapes live.
        marks, group_shares, kept: steps, the share of each group and the energy kept after each, for charts.
    """

    steps: int
    groups: tuple[ModeGroup, ...]
    initial: ResidualShapes
    learnt: ResidualShapes
    remaining: ResidualShapes
    learnt_share: tuple[float, float]
    steps_needed: tuple[int | None, int | None]
    query_points: Float[Array, "points dimension"]
    marks: Float[Array, " marks"] = field(repr=False)
    group_shares: Float[Array, "groups marks"] = field(repr=False)
    kept: Float[Array, " marks"] = field(repr=False)

    @property
    def unresolved(self) -> float:
        """The share of the energy in modes of which the Krylov space cannot say whether they are learnt."""
        return next(group.share for group in self.groups if group.name == "unresolved")

    @property
    def summary(self) -> str:
        """One sentence for people."""
        low, high = (_percent(share) for share in self.learnt_share)
        learnt = low if low == high else f"{low[:-2]} to {high}"
        parts = [f"By step {self.steps:,}, {learnt} of the target is learnt"]
        if self.remaining.energy > 0:
            words = [self.remaining.roughness, f"needs {_steps_in_words(*self.steps_needed)}"]
            parts.append("what remains " + " and ".join(word for word in words if word))
        if self.unresolved >= 0.01:
            parts.append(
                f"{_percent(self.unresolved)} of the target lies in modes that this forecast cannot tell apart"
            )
        return "; ".join(parts) + "."

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for a file."""
        return {
            "steps": self.steps,
            "summary": self.summary,
            "learnt_share": list(self.learnt_share),
            "steps_needed": list(self.steps_needed),
            "groups": [vars(group) for group in self.groups],
            "residuals": [
                {**vars(part), "shapes": [{**vars(shape), "values": shape.values.tolist()} for shape in part.shapes]}
                for part in (self.initial, self.learnt, self.remaining)
            ],
            "query_points": self.query_points.tolist(),
            "marks": self.marks.tolist(),
            "group_shares": dict(zip(GROUPS, self.group_shares.tolist(), strict=True)),
            "kept": self.kept.tolist(),
        }


def remaining_residual(curves: SpectralCurves, method: Method, steps: int) -> Float[Array, "functions points"]:
    """r_k = |r_0| Q S diag(P_k(nodes)) S^T e_1, the residual that k steps leave.

    **The Krylov space resolves step k:** exact for k below its size and once it is exhausted, otherwise as near as the
    bounds of the loss are to each other.
    """
    return _combine(curves, method.residual_factor(curves.nodes, np.array([steps]))[0])


def explain_modes(
    curves: SpectralCurves,
    method: Method,
    steps: int,
    *,
    count: int = 4,
    query_points: Float[Array, "points dimension"] | None = None,
) -> ModeReport:
    """Says which modes of the target are learnt by step k, which are not, and what those look like.

        r_0 = |r_0| sum_i S_0i V_i,    V_i = sum_j S_ji q_j,    mode i keeps P_k(node_i)^2 of its energy |r_0|^2 S_0i^2

    The shapes are the principal components over the query points of r_0, r_0 - r_k and r_k. Their number of steps
    follows the energy of the residual's projection on them, which several modes may share.

    Arguments:
        curves, method: of a forecast, the method with its step size.
        steps: k.
        count: at most so many shapes of each residual.
        query_points: of the columns of the residual; by default their numbers, as on a line.

    Raises:
        ForetrainError: residuals that are not functions x points, or that have overflowed by step k.
        DataError: another number of query points than the residual has columns.

    **Assumption:** the kernel stays what it is. The eigenvalues within V_i have mean node_i and the standard deviation
    |Theta V_i - node_i V_i|; a mode is unresolved where two of those either way change its group.

    Source: Parlett (1998), section 4.6, for the standard deviation.
    """
    points = _checked_points(curves, steps, count, query_points)
    with np.errstate(over="ignore", invalid="ignore"):
        factor = method.residual_factor(curves.nodes, np.array([steps]))[0]
    if not np.all(np.isfinite(factor)):
        raise ForetrainError(
            f"expected a training that converges, came one that overflows by step {steps:,}: lower the step size"
        )
    needed = _steps_needed(curves, method, steps)
    marks = _marks(steps, needed[0])
    group_shares, kept = _shares(curves, method, marks)
    start, remaining = _combine(curves, np.ones_like(factor)), _combine(curves, factor)
    parts = {"initial": start, "learnt": start - remaining, "remaining": remaining}
    return ModeReport(
        steps=steps,
        groups=_groups(curves, method, steps),
        learnt_share=_learnt_share(curves, method, steps),
        steps_needed=needed,
        query_points=points,
        marks=marks,
        group_shares=group_shares,
        kept=kept,
        **{
            name: residual_shapes(curves, method, name, part, points, count, steps if name == "remaining" else 0)
            for name, part in parts.items()
        },
    )


def _checked_points(curves: SpectralCurves, steps: int, count: int, query_points: Array | None) -> Array:
    if steps < 0 or count < 1:
        raise ForetrainError(f"expected a step and at least one shape, came step {steps} and {count} shapes")
    if curves.basis.vectors.ndim != 3:
        raise ForetrainError(
            "expected a residual of functions x points, came one of scattered rows: forecast functions on shared points"
        )
    columns = curves.basis.vectors.shape[2]
    points = np.arange(columns, dtype=float) if query_points is None else np.asarray(query_points, float)
    points = points.reshape(len(points), -1)
    if len(points) != columns:
        raise DataError(f"expected the {columns} query points of the residual's columns, came {len(points)}")
    return points


def _combine(curves: SpectralCurves, factor: Array) -> Array:
    """|r_0| Q S diag(factor) S^T e_1."""
    coefficients = curves.basis.norm * curves.vectors @ (factor * curves.vectors[0])
    return np.tensordot(coefficients, curves.basis.vectors, 1)


def _group_of(curves: SpectralCurves, method: Method, steps: Array) -> Float[Array, "steps nodes"]:
    """The number of each mode's group after each number of steps."""
    deviation = np.abs(curves.basis.off_diagonal[-1] * curves.vectors[-1])
    inside = [np.clip(curves.nodes + shift * deviation, 0, curves.nodes[-1]) for shift in (-2, -1, 0, 1, 2)]
    kept = np.stack([method.residual_factor(nodes, steps) ** 2 for nodes in inside])
    least, most = (_by_limits(value) for value in (kept.min(axis=0), kept.max(axis=0)))
    vague = (least != most) & (np.ptp(np.minimum(kept, 1), axis=0) > CLEARLY)
    return np.where(vague, GROUPS.index("unresolved"), _by_limits(kept[2]))


def _by_limits(kept: Array) -> Array:
    names = [GROUPS.index(name) for name in ("learnt", "half-learnt", "not learnt")]
    return np.select([kept < LEARNT_BELOW, kept <= NOT_LEARNT_ABOVE], names[:2], names[2])


def _groups(curves: SpectralCurves, method: Method, steps: int) -> tuple[ModeGroup, ...]:
    moment = np.array([steps])
    group_of, kept = _group_of(curves, method, moment)[0], method.residual_factor(curves.nodes, moment)[0] ** 2
    weights = curves.vectors[0] ** 2
    members = [group_of == number for number in range(len(GROUPS))]
    return tuple(
        ModeGroup(name, int(np.sum(inside)), float(weights @ inside), float((weights * kept) @ inside))
        for name, inside in zip(GROUPS, members, strict=True)
    )


@np.errstate(over="ignore", invalid="ignore")
def _shares(curves: SpectralCurves, method: Method, marks: Array) -> tuple[Array, Array]:
    weights, group_of = curves.vectors[0] ** 2, _group_of(curves, method, marks)
    shares = np.stack([(group_of == number) @ weights for number in range(len(GROUPS))])
    return shares, method.residual_factor(curves.nodes, marks) ** 2 @ weights


def _learnt_share(curves: SpectralCurves, method: Method, steps: int) -> tuple[float, float]:
    lower, upper = (bound[0] * curves.rows / curves.basis.norm**2 for bound in curves.loss(method, np.array([steps])))
    return float(max(0.0, 1 - upper)), float(max(0.0, 1 - lower))


def _steps_needed(curves: SpectralCurves, method: Method, steps: int) -> tuple[int | None, int | None]:
    on_grid, now = curves.loss(method, STEP_GRID), curves.loss(method, np.array([steps]))

    def needed(side: int) -> int | None:
        return settling_step(lambda marks: curves.loss(method, marks)[side], on_grid[side], 0.1 * float(now[side][0]))

    return needed(0), needed(1)


def _marks(steps: int, needed: int | None) -> Array:
    """Steps evenly spread over a logarithmic axis, to ten times k or to where what remains is learnt."""
    last = int(np.clip(needed or 10 * steps, 10 * max(steps, 1), 1000 * max(steps, 1)))
    return np.unique(np.round(np.logspace(0, np.log10(last), 100))).astype(int)


def _percent(share: float) -> str:
    """Whole per cent; one digit of what is missing close to none and to all."""
    value = 100 * share
    if value < 1:
        return "0 %" if value <= 0 else f"{value:.1g} %" if value >= 0.01 else "under 0.01 %"
    if value > 99:
        return f"{100 - float(f'{100 - value:.1g}'):.10g} %" if value <= 99.99 else "over 99.99 %"
    return f"{value:.0f} %"


def _steps_in_words(least: int | None, most: int | None) -> str:
    if least is None:
        return "more than 1e12 steps"
    if most is None or most > 2 * least + 1:
        return f"at least {_rounded(least)} steps"
    return f"about {_rounded((least * most) ** 0.5)} steps"


def _rounded(value: float) -> str:
    """Two digits: in full up to ten million, as 4e8 beyond."""
    text = f"{value:.1e}" if value else "0"
    if value < 1e7:
        return f"{round(float(text)):,}"
    mantissa, power = text.split("e")
    return f"{float(mantissa):g}e{int(power)}"
