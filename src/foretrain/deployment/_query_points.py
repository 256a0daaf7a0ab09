"""Query points as an input of the graph: output series evaluated wherever the caller asks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import regular_grid_shape
from foretrain.deployment._builder import GraphBuilder
from foretrain.models import FilteredBoxNetwork, FilteredFourierNetwork

Array = np.ndarray
QUERY_GRID = "query_grid"
"""The model card's entry."""
BEYOND = 1e-4
"""Of a box's extent, that points may lie outside for rounding."""


@dataclass(frozen=True)
class QueryGrid:
    """The regular grid a network answers on, in physical coordinates; answers elsewhere come from its series.

    Attributes:
        shape: points along each axis.
        origin, period: [axes], coordinates of the first point, and what the coordinates of one cell of the series
            span: a whole period, or from end to end of the box.
        periodic: whether the series repeats itself; a box's ends at the box.
    """

    shape: tuple[int, ...]
    origin: tuple[float, ...]
    period: tuple[float, ...]
    periodic: bool

    @classmethod
    def of(cls, query_points: Float[np.ndarray, "points dimension"], network: Any) -> "QueryGrid":
        """The grid of these points, for this network.

        Raises:
            ForetrainError: a network whose outputs are known at the training points only, or points that are not its
                regular grid.
        """
        if not isinstance(network, FilteredFourierNetwork | FilteredBoxNetwork):
            raise ForetrainError(
                f"query points as an input: expected a network with a series of waves as output, came a "
                f"{type(network).__name__}, whose outputs are known at the training points only; keep the points fixed"
            )
        points = np.asarray(query_points, np.float64)
        shape = regular_grid_shape(points) if points.ndim == 2 else None
        if shape is None or len(points) != _answers_of(network):
            raise ForetrainError(
                f"query points as an input: expected the regular grid of {_answers_of(network)} points that the "
                f"network answers on, came {list(points.shape)}; keep the points fixed"
            )
        periodic = isinstance(network, FilteredFourierNetwork)
        extent = np.ptp(points, axis=0)
        sizes = np.array(shape)
        period = extent * sizes / (sizes - 1) if periodic else extent
        return cls(shape, tuple(map(float, points.min(axis=0))), tuple(map(float, period)), periodic)

    @classmethod
    def from_card(cls, card: Any) -> "QueryGrid | None":
        """From the entry of a model card; None where there is none.

        Raises:
            ForetrainError: an entry that is no grid.
        """
        if card is None:
            return None
        try:
            shape, origin, period = (tuple(card[name]) for name in ("shape", "origin", "period"))
            if not (0 < len(shape) == len(origin) == len(period) and all(size >= 2 for size in shape)):
                raise ValueError
            return cls(shape, origin, period, bool(card["periodic"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ForetrainError(
                "metadata: expected the grid of the query points, came something else; export the model again"
            ) from error

    def as_card(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def points(self) -> Float[np.ndarray, "points dimension"]:
        """The grid itself, row by row."""
        steps = np.array(self.shape) - (0 if self.periodic else 1)
        axes = [
            start + span * np.arange(size) / count
            for start, span, size, count in zip(self.origin, self.period, self.shape, steps, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))

    def checked(self, points: Any) -> Float[np.ndarray, "points dimension"]:
        """The points, if the series can be evaluated there.

        Raises:
            DataError: points that are not finite coordinates of this dimension, or that lie outside the box.
        """
        values, axes = np.asarray(points), len(self.shape)
        values = values[:, None] if values.ndim == 1 and axes == 1 else values
        if values.ndim != 2 or values.shape[1] != axes or len(values) == 0 or values.dtype.kind not in "fiub":
            raise DataError(
                f"points: expected real coordinates [points, {axes}], came an array of shape {list(values.shape)} and "
                f"type {values.dtype}"
            )
        values = values.astype(np.float64)
        if not np.all(np.isfinite(values)):
            raise DataError("points: expected finite coordinates, came NaN or infinite ones; remove those points")
        away = (values - self.origin) / self.period
        outside = np.any((away < -BEYOND) | (away > 1 + BEYOND), axis=1)
        if not self.periodic and np.any(outside):
            last = np.add(self.origin, self.period)
            box = " x ".join(f"[{low:g}, {high:g}]" for low, high in zip(self.origin, last, strict=True))
            raise DataError(
                f"points: expected points in the box {box}, came {int(outside.sum())} outside, the first in row "
                f"{int(np.argmax(outside))}; the model knows nothing there"
            )
        return values


def periodic_waves(builder: GraphBuilder, grid: QueryGrid, waves: Float[np.ndarray, "modes axes"]) -> tuple[str, str]:
    """cos and sin of 2 pi k . x, [points, modes] each, x the input "points" in units of the period."""
    turns = builder.node("MatMul", _unit(builder, grid), builder.constant("point_waves", waves.T))
    # Whole turns off first: single precision keeps its digits for large k.
    turns = builder.node("Sub", turns, builder.node("Round", turns))
    angle = builder.node("Mul", turns, builder.constant("point_turn", 2 * np.pi))
    return builder.node("Cos", angle), builder.node("Sin", angle)


def box_waves(builder: GraphBuilder, grid: QueryGrid, modes: tuple[int, ...], sine: tuple[bool, ...]) -> str:
    """Products of sin(pi (k + 1) x) or cos(pi k x) along the axes, [points, modes of all axes]."""
    unit, table, count = _unit(builder, grid), "", 1
    for axis, (size, vanishing) in enumerate(zip(modes, sine, strict=True)):
        column = builder.node(
            "Slice",
            unit,
            *(builder.constant(f"point_{word}_{axis}", [value], np.int64) for word, value in _window(axis)),
        )
        angle = builder.node(
            "Mul", column, builder.constant(f"point_waves_{axis}", np.pi * np.arange(size) + np.pi * vanishing)
        )
        waves = builder.node("Sin" if vanishing else "Cos", angle)
        if not table:
            table, count = waves, size
            continue
        left, right = (
            builder.node("Unsqueeze", part, builder.constant(f"point_axis_{place}", [place], np.int64))
            for part, place in ((table, 2), (waves, 1))
        )
        count *= size
        product = builder.node("Mul", left, right)
        table = builder.node("Reshape", product, builder.constant("point_table", [-1, count], np.int64))
    return table


def _window(axis: int) -> tuple[tuple[str, int], ...]:
    return (("from", axis), ("to", axis + 1), ("of", 1))


def _unit(builder: GraphBuilder, grid: QueryGrid) -> str:
    """The input "points" in units of the period, from the origin."""
    moved = builder.node("Sub", "points", builder.constant("point_origin", grid.origin))
    return builder.node("Div", moved, builder.constant("point_period", grid.period))


def _answers_of(network: Any) -> int:
    return len(network.synthesis) if isinstance(network, FilteredFourierNetwork) else int(network.samples)
