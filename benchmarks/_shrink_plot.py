"""The plots of benchmarks/shrink.py: error against numbers, both axes logarithmic, as SVG that any page can show."""

import math
from html import escape
from itertools import pairwise

from _shrink_tables import Point, Result, points_of, teacher_of

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 44, 52
INK, MUTED, GRID = "#1b1f24", "#6a737d", "#e1e4e8"
FORMATS = {"float32": "#0b62a8", "float16": "#2f9e8f", "int8 weights": "#c77700", "int8": "#b3362b"}
PEER = "#6f42c1"


class Axis:
    """Values on a logarithmic axis to places on the page."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = math.log10(0.75 * min(values)), math.log10(1.35 * max(values))
        self.low, self.high, self.start, self.end = low, high, start, end

    def place(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of every power of ten on the axis, or powers alone where those crowd."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        every = [step * 10.0**power for power in powers for step in steps]
        return [value for value in every if self.low <= math.log10(value) <= self.high]


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "start", colour: str = INK) -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def disc(across: Axis, upward: Axis, point: Point, colour: str) -> str:
    x, y = across.place(point.numbers), upward.place(point.error)
    words = f"{point.name}: {100 * point.error:.3g} %, {point.numbers:,} numbers"
    title = f"<title>{escape(words)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.85">{title}</circle>'


def square(across: Axis, upward: Axis, point: Point) -> str:
    """A peer, its name on the side where there is room."""
    x, y = across.place(point.numbers), upward.place(point.error)
    left = x > 0.7 * WIDTH
    words = f"{point.name}, {100 * point.error:.3g} %"
    box = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{PEER}"/>'
    return box + text(x - 9 if left else x + 9, y + 4, words, 12, "end" if left else "start", PEER)


def frontier(points: list[Point]) -> list[Point]:
    """Points with less error than all smaller ones."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.numbers, point.error)):
        if not kept or point.error < kept[-1].error:
            kept.append(point)
    return kept


def front_plot(problem: str, results: list[Result], peers: list[Result]) -> str:
    """One problem; empty if there is nothing to show."""
    points, others = points_of(results), [Point.of_peer(peer) for peer in peers]
    if not points and not others:
        return ""
    teacher = teacher_of(results)
    errors = [point.error for point in [*points, *others]] + ([teacher["test_error"]] if teacher else [])
    across = Axis([float(point.numbers) for point in [*points, *others]], LEFT, WIDTH - RIGHT)
    upward = Axis(errors, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22, f"{problem}: test error against stored numbers", 15),
        *axes(across, upward),
    ]
    if teacher:
        y = upward.place(teacher["test_error"])
        dashes = f'stroke="{MUTED}" stroke-dasharray="5 4"'
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {dashes}/>')
        words = f"teacher, {100 * teacher['test_error']:.3g} %"
        parts.append(text(WIDTH - RIGHT, y - 5, words, 12, "end", MUTED))
    for before, after in pairwise(frontier(points)):
        ends = [across.place(before.numbers), upward.place(before.error)]
        ends += [across.place(after.numbers), upward.place(after.error)]
        x1, y1, x2, y2 = (f"{value:.1f}" for value in ends)
        parts.append(f'<polyline points="{x1},{y1} {x2},{y1} {x2},{y2}" fill="none" stroke="{MUTED}"/>')
    parts += [disc(across, upward, point, FORMATS[point.name.rsplit(", ", 1)[-1]]) for point in points]
    parts += [square(across, upward, point) for point in others]
    return "\n".join([*parts, *legend(points), "</svg>"]) + "\n"


def axes(across: Axis, upward: Axis) -> list[str]:
    """Grid, ticks and what they measure."""
    parts, floor = [], HEIGHT - BOTTOM
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}" stroke="{GRID}"/>')
        parts.append(text(x, floor + 18, f"{value:,.0f}", 12, "middle", MUTED))
    for value in upward.ticks():
        y = upward.place(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{100 * value:.3g} %", 12, "end", MUTED))
    return [*parts, text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "numbers (peers: weights)", 12, "middle")]


def legend(points: list[Point]) -> list[str]:
    """Number formats that occur, above the axes on the right."""
    shown = {point.name.rsplit(", ", 1)[-1] for point in points}
    parts, x = [], float(WIDTH - RIGHT)
    for name in reversed([name for name in FORMATS if name in shown]):
        parts.append(text(x, 22, name, 12, "end", FORMATS[name]))
        x -= 7.2 * len(name) + 14
    return parts
