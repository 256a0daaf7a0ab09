"""Tables and plots of benchmarks/field.py."""

import math
from html import escape
from typing import Any

from _shrink_plot import BOTTOM, GRID, HEIGHT, INK, LEFT, MUTED, RIGHT, TOP, WIDTH, Axis, text

Result = dict[str, Any]
COLOURS = ("#0b62a8", "#2f9e8f", "#7a9a01", "#6f42c1", "#b3362b", "#c77700", "#a0477d", "#6a737d")
SHARE_OF_TIME = 0.1
"""Of FNO's time to the same error, that this project's best may take."""


def markdown(results: list[Result], easy: dict[str, str], watts: float, header: str) -> str:
    """The verdicts, then every method on every problem."""
    problems = list(dict.fromkeys(result["problem"] for result in results))
    groups = {name: [result for result in results if result["problem"] == name] for name in problems}
    lines = [header, "", "Best of this project beside the best of the others", ""]
    lines += [
        "| problem | this project | the best other | time of an FNO, and of this project, to the same error | bars |",
        "|---|---|---|---|---|",
        *(verdict(name, group, easy.get(name, "")) for name, group in groups.items()),
    ]
    for name, group in groups.items():
        lines += ["", f"{name}" + (f" ({easy[name]})" if easy.get(name) else ""), ""]
        lines += [
            "| method | test error | training, processor s | one answer | numbers | peak memory | energy | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [row(result, watts) for result in sorted(group, key=lambda result: result["best_error_percent"])]
    return "\n".join(lines) + "\n"


def row(result: Result, watts: float) -> str:
    name = f"**{result['method']}**" if result["ours"] else result["method"]
    memory = f"{result['peak_megabytes']:,.0f} MB" if "peak_megabytes" in result else ""
    seconds = result["processor_seconds"]
    return (
        f"| {name} | {result['best_error_percent']:.3g} % | {seconds:,.0f} | "
        f"{1e3 * result['latency']['processor_seconds']:.3g} ms | {result['numbers']:,} | {memory} | "
        f"{watts * seconds / 1e3:.2g} kJ | {'' if result['converged'] else 'still falling'} |"
    )


def verdict(name: str, group: list[Result], easy: str) -> str:
    ours = [result for result in group if result["ours"]]
    others = [result for result in group if not result["ours"]]
    if not ours or not others:
        return f"| {name} | {'' if ours else 'missing'} | {'' if others else 'missing'} | | |"
    best = min(ours, key=lambda result: result["best_error_percent"])
    rival = min(others, key=lambda result: result["best_error_percent"])
    quick, words = beside_fno(best, group)
    wins = best["best_error_percent"] <= rival["best_error_percent"]
    bars = f"error {'passed' if wins else '**missed**'}, time {'passed' if quick else '**missed**'}"
    return (
        f"| {name}{f' ({easy})' if easy else ''} | {best['best_error_percent']:.3g} % ({best['method']}, "
        f"{best['processor_seconds']:,.0f} s) | {rival['best_error_percent']:.3g} % ({rival['method']}, "
        f"{rival['processor_seconds']:,.0f} s) | {words} | {bars} |"
    )


def beside_fno(best: Result, group: list[Result]) -> tuple[bool, str]:
    """Whether an FNO takes ten times as long to the same error, and what it does.

    Where no FNO gets to this project's best error, the comparison is at the least error of an FNO, which flatters it:
    the seconds are those of this project's quickest method that has no more, and the share an upper limit.
    """
    fnos = [result for result in group if result["method"].startswith("fno")]
    if not fnos:
        return False, "no FNO"
    least = min(fno["best_error_percent"] for fno in fnos)
    target = max(least, best["best_error_percent"])
    seconds = min(time_to(target, fno) for fno in fnos)
    enough = [result for result in group if result["ours"] and result["best_error_percent"] <= target]
    quickest = min(enough, key=lambda result: result["processor_seconds"])
    share = quickest["processor_seconds"] / seconds
    words = f"{seconds:,.0f} s to {target:.3g} %; {quickest['method']} {quickest['processor_seconds']:,.0f} s, "
    return share <= SHARE_OF_TIME, words + f"{'at most ' if target == least else ''}{share:.2g} of it"


def time_to(error: float, result: Result) -> float:
    curve = result["curve"]
    pairs = zip(curve["seconds"], curve["test_error_percent"], strict=True)
    return min((seconds for seconds, at in pairs if at <= error), default=math.inf)


def curve_plot(problem: str, group: list[Result]) -> str:
    """Test error against seconds of training, both logarithmic: a line for a network, a disc for a closed form."""
    if not group:
        return ""
    curves = []
    for result in sorted(group, key=lambda result: result["best_error_percent"]):
        curve = result.get("curve")
        seconds = curve["seconds"] if curve else [result["processor_seconds"]]
        errors = curve["test_error_percent"] if curve else [result["best_error_percent"]]
        curves.append((result, [max(second, 0.05) for second in seconds], errors))
    across = Axis([second for _, seconds, _ in curves for second in seconds], LEFT, WIDTH - RIGHT - 190)
    upward = Axis([error for _, _, errors in curves for error in errors], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22, f"{problem}: test error against processor seconds of training", 15),
    ]
    floor = HEIGHT - BOTTOM
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}" stroke="{GRID}"/>')
        parts.append(text(x, floor + 18, f"{value:g}", 12, "middle", MUTED))
    for value in upward.ticks():
        y = upward.place(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT - 190}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{value:.3g} %", 12, "end", MUTED))
    for number, (result, seconds, errors) in enumerate(curves):
        colour, width = COLOURS[number % len(COLOURS)], 3 if result["ours"] else 1.5
        places = [(across.place(second), upward.place(error)) for second, error in zip(seconds, errors, strict=True)]
        if len(places) > 1:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        else:
            x, y = places[0]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + width}" fill="{colour}"/>')
        name = escape(f"{result['method']}, {result['best_error_percent']:.3g} %")
        weight = ' font-weight="bold"' if result["ours"] else ""
        y = TOP + 18 * number + 12
        parts.append(f'<rect x="{WIDTH - RIGHT - 178}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 162}" y="{y}" font-size="12" fill="{INK}"{weight}>{name}</text>')
    parts.append(text((LEFT + WIDTH - RIGHT - 190) / 2, HEIGHT - 12, "processor seconds", 12, "middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"
