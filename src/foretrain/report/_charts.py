"""What every chart shares: how it is described, its axes, its ticks. Colours are roles ("@forecast"), filled in by
the page from its style sheet, so that one chart serves light, dark and print."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from foretrain.report._format import count, number
from foretrain.report._run_folder import Record

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend; `mark` is line, dash, dot, ring, disc or band."""

    text: str
    mark: str
    role: str


@dataclass(frozen=True)
class Ramp:
    """The colours of a map from its least to its greatest value."""

    colours: tuple[str, ...]
    low: float
    high: float

    @property
    def scale(self) -> list[list[object]]:
        """As Plotly wants it."""
        return [[position / (len(self.colours) - 1), colour] for position, colour in enumerate(self.colours)]

    @property
    def gradient(self) -> str:
        """As a style sheet wants it."""
        return f"linear-gradient(to right, {', '.join(self.colours)})"


@dataclass(frozen=True)
class Chart:
    """A chart: its title, its description for those who cannot see it, its legend, and its Plotly traces and layout.

    A chart without a height in its layout keeps its `aspect`, width over height, however wide the page is.
    """

    identifier: str
    title: str
    description: str
    keys: tuple[Key, ...]
    data: list[Record]
    layout: Record
    aspect: float = 1.0
    ramp: Ramp | None = None

    @property
    def payload(self) -> Record:
        """What the page's script needs to draw it."""
        return {"id": self.identifier, "data": self.data, "layout": self.layout}


def layout(height: int | None, **axes_and_more: object) -> Record:
    """The layout common to all charts, in the page's type and colours."""
    return {
        **({"height": height} if height else {}),
        "autosize": True,
        "margin": {"l": 52, "r": 10, "t": 8, "b": 40},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "@font", "size": 12, "color": "@ink"},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@muted", "font": {"color": "@ink", "family": "@font"}},
        **axes_and_more,
    }


def axis(**settings: object) -> Record:
    """A plain axis: a hairline grid, no zero line, nothing to drag."""
    style = {"gridcolor": "@grid", "linecolor": "@muted", "tickcolor": "@muted", "zeroline": False, "fixedrange": True}
    return {**style, "automargin": False, **settings}


def log_axis(values: Iterable[float], write: Callable[[float], str], title: str = "") -> Record:
    """A logarithmic axis over the positive `values`, its ticks at round numbers written by `write`."""
    positive = [value for value in values if value is not None and value > 0 and math.isfinite(value)]
    low, high = (min(positive), max(positive)) if positive else (0.1, 1.0)
    low, high = (low / 1.5, high * 1.5) if high < 1.3 * low else (low, high)
    margin = 0.04 * math.log10(high / low)
    limits = [math.log10(low) - margin, math.log10(high) + margin]
    ticks = log_ticks(10 ** limits[0], 10 ** limits[1])
    labels = [write(tick) for tick in ticks]
    text = {"title": {"text": title, "standoff": 8}} if title else {}
    return axis(type="log", range=limits, tickmode="array", tickvals=ticks, ticktext=labels, **text)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`: the sparsest familiar sequence with at least three of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for multiples in _MULTIPLES:
        ticks = [float(f"{m}e{power}") for power in range(first, last + 1) for m in multiples]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 7)]
    step = 10 ** math.floor(math.log10((high - low) / 2))
    return [compact([step * k])[0] or 0.0 for k in range(math.ceil(low / step), math.floor(high / step) + 1)][:8]


def write_step(value: float) -> str:
    """A step on an axis: in full up to 10 000, as a power of ten beyond."""
    if value <= 10_000:
        return count(value)
    mantissa, power = f"{value:.0e}".split("e")
    power_text = "10" + str(int(power)).translate(_SUPERSCRIPTS)
    return power_text if mantissa == "1" else f"{mantissa}·{power_text}"


def write_value(value: float) -> str:
    """A value on an axis: short, as a power of ten where decimals would be long."""
    if 1e-3 <= value < 1e5:
        return f"{value:,.10g}".replace(",", "\u202f")
    mantissa, power = f"{value:.0e}".split("e")
    power_text = "10" + str(int(power)).translate(_SUPERSCRIPTS)
    return power_text if mantissa == "1" else f"{mantissa}·{power_text}"


def panel_title(text: str, height: float) -> Record:
    """A small title at the top left of one of several panels; `height` is in fractions of the plot."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": height, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, **place, "showarrow": False, "font": {"size": 11, "color": "@muted"}}


def compact(values: Iterable[float | None] | np.ndarray) -> list[float | None]:
    """Five significant digits, which is finer than a pixel; None for what is not finite."""
    return [float(f"{v:.5g}") if v is not None and math.isfinite(v) else None for v in values]


def label(text: object) -> str:
    """Text from the data as Plotly text, which reads a subset of HTML."""
    return escape(str(text), quote=False)


def curve(
    steps: Sequence[float],
    values: Sequence[float | None],
    role: str,
    name: str,
    write: Callable[[float], str],
    **more: object,
) -> Record:
    """A line over the steps, with a hover text for each of its points."""
    hover = [
        f"{name}<br>step {count(step)}: {write(v) if v is not None else ''}"
        for step, v in zip(steps, values, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(steps),
        "y": compact(values),
        "line": {"color": role, "width": 2},
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        **more,
    }


def significant(value: float) -> str:
    """Four significant digits, for hover texts."""
    return number(value, 4)
