"""The tables of benchmarks/shrink.py, and what the bars are."""

from dataclasses import dataclass
from typing import Any

TEACHER, COMPRESS, PEER_FILE = "teacher", "compress", "peer file"
ERROR_BARS = {
    "Burgers 0.1/(2 pi)": {20_000: 0.006, 100_000: 0.003},
    "Darcy 29x29": {20_000: 0.024, 100_000: 0.021},
}
SHOWN_AT = (20_000, 100_000)
PEER_BARS = {"deeponet": (0.1, 0.5), "fno": (0.2, 0.2)}
"""Shares of a peer's weights and of its latency."""
PEER_NAMES = {"fno": "FNO", "deeponet": "DeepONet", "pod-deeponet": "POD-DeepONet"}
SECONDS_BAR = 120.0
Result = dict[str, Any]


def percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def milliseconds(value: float) -> str:
    return f"{1000 * value:.3g} ms"


def share(value: float) -> str:
    """Of one, as one over something."""
    return f"1/{1 / value:.3g}" if value < 1 else f"{value:.2g} times"


def held(values: list[float], bars: list[float]) -> str:
    return "yes" if all(value <= bar for value, bar in zip(values, bars, strict=True)) else "NO"


@dataclass(frozen=True)
class Point:
    """A candidate, or a peer, as the comparison sees it; error as a fraction.

    Latency is the median by the clock on the wall, processor the mean by that of the processor.
    """

    name: str
    numbers: int
    bytes: int
    error: float
    latency: float
    processor: float

    @classmethod
    def of_candidate(cls, row: Result) -> "Point":
        name = f"{row['name']}, {row['format']}"
        return cls(
            name, row["numbers"], row["bytes"], row["test_error"], row["median_seconds"], row["processor_seconds"]
        )

    @classmethod
    def of_peer(cls, peer: Result) -> "Point":
        times = [peer["latency"][name] for name in ("median_seconds", "processor_seconds")]
        return cls(peer_name(peer), peer["parameters"], 4 * peer["numbers"], peer["best_error_percent"] / 100, *times)


def peer_name(peer: Result) -> str:
    dense = ", dense branch" if peer["settings"].get("dense_branch") else ""
    return PEER_NAMES[peer["peer"]] + dense


def points_of(results: list[Result]) -> list[Point]:
    """All candidates of all budgets."""
    return [Point.of_candidate(row) for result in results for row in result.get("candidates", ())]


def teacher_of(results: list[Result]) -> Result | None:
    return next((result for result in results if result["section"] == TEACHER), None)


def usable(peer: Result, results: list[Result]) -> bool:
    """Whether a peer saw the same functions as what it is compared with."""
    names = ("train_fingerprint", "test_fingerprint")
    return all(peer[name] == result[name] for result in results for name in names)


def table_of_front(problem: str, results: list[Result], peers: list[Result]) -> list[str]:
    """Every candidate, then the peers."""
    lines = [
        f"{problem}: all candidates",
        "",
        "| budget, numbers | candidate | numbers | bytes | test error | latency (10th, 90th percentile), processor |",
        "|" + "---|" * 6,
    ]
    for result in results:
        if "refused" in result:
            lines.append(f"| {result['name'].split(' | ')[-1]} | refused: {result['refused']} | | | | |")
        for row in result.get("candidates", ()):
            around = f"{milliseconds(row['tenth_seconds'])}, {milliseconds(row['ninetieth_seconds'])}"
            lines.append(
                f"| {result['budget']:,} | {row['name']}, {row['format']}{' (to ship)' if row['chosen'] else ''} | "
                f"{row['numbers']:,} | {row['bytes']:,} | {percent(row['test_error'])} | "
                f"{milliseconds(row['median_seconds'])} ({around}), {milliseconds(row['processor_seconds'])} |"
            )
    for peer in peers:
        point, latency = Point.of_peer(peer), peer["latency"]
        kept = peer.get("latency_kept")
        beside = f"; {milliseconds(kept['median_seconds'])} with the trunk's answers kept" if kept else ""
        around = f"{milliseconds(latency['tenth_seconds'])}, {milliseconds(latency['ninetieth_seconds'])}"
        lines.append(
            f"| peer | {point.name}, {peer['processor_seconds']:.0f} processor seconds, {peer['verdict']} | "
            f"{peer['parameters']:,} weights, {peer['numbers']:,} in all | {point.bytes:,} | {percent(point.error)} "
            f"(at the end {peer['final_error_percent']:.3g} %) | {milliseconds(point.latency)} "
            f"({around}), {milliseconds(point.processor)}{beside} |"
        )
    return [*lines, "", *(f"{name}: missing, not compared." for name in missing(peers))]


def missing(peers: list[Result]) -> list[str]:
    there = {peer["peer"] for peer in peers}
    return [PEER_NAMES[name] for name in PEER_BARS if name not in there]


def summary(results: dict[str, list[Result]]) -> list[str]:
    """One row for each problem: teacher, errors at the budgets of the bars, seconds."""
    lines = [
        "Teacher, least error of candidates within so many numbers, and time of one compression",
        "",
        "| problem | teacher's error | its fit, wall (processor) | "
        + " | ".join(f"{numbers:,} numbers" for numbers in SHOWN_AT)
        + " | compress, longest: wall (processor) | under two minutes |",
        "|" + "---|" * (5 + len(SHOWN_AT)),
    ]
    for problem, every in results.items():
        teacher, points = teacher_of(every), points_of(every)
        fitted = [percent(teacher["test_error"]), clocks(teacher)] if teacher else ["not run", "not run"]
        cells = [cell_at(problem, numbers, points) for numbers in SHOWN_AT]
        ran = [result for result in every if "candidates" in result]
        longest = max(ran, key=lambda result: result["wall_seconds"], default=None)
        time = [clocks(longest), held([longest["wall_seconds"]], [SECONDS_BAR])] if longest else ["not run", ""]
        lines.append(f"| {problem} | {' | '.join([*fitted, *cells, *time])} |")
    return lines


def clocks(result: Result) -> str:
    return f"{result['wall_seconds']:.0f} ({result['processor_seconds']:.0f}) s"


def cell_at(problem: str, numbers: int, points: list[Point]) -> str:
    within, bar = [point for point in points if point.numbers <= numbers], ERROR_BARS.get(problem, {}).get(numbers)
    best = min(within, key=lambda point: point.error, default=None)
    wanted = f"; to be {percent(bar)}: {held([best.error if best else 1.0], [bar])}" if bar else ""
    return (f"{percent(best.error)} ({best.numbers:,})" if best else "none") + wanted


def sentence(peer: Result, results: list[Result]) -> str:
    """The smallest candidate that is at least as good as a peer, in shares of the peer."""
    point = Point.of_peer(peer)
    said = f"{point.name} ({percent(point.error)}, {point.numbers:,} weights, {milliseconds(point.latency)})"
    if not usable(peer, results):
        return f"- {said}: trained on other functions, not compared."
    good = [candidate for candidate in points_of(results) if candidate.error <= point.error]
    bars = PEER_BARS.get(peer["peer"])
    wanted = f"; to be {share(bars[0])} and {share(bars[1])}: " if bars else ""
    if not good:
        return f"- {said}: no candidate is as good{missed(peer, point, teacher_of(results), wanted)}."
    best = min(good, key=lambda candidate: (candidate.numbers, candidate.bytes))
    shares = [best.numbers / point.numbers, best.latency / point.latency, best.processor / point.processor]
    # A long call is interrupted more often than a short one: by both clocks, or a busy machine would flatter.
    wanted += held(shares, [*bars, bars[1]]) if bars else ""
    return (
        f"- {said}: {best.name} has {percent(best.error)} with {best.numbers:,} numbers, {share(shares[0])} of the "
        f"weights, and {milliseconds(best.latency)}, {share(shares[1])} of the latency, {share(shares[2])} by the "
        f"processor's clock{wanted}.{as_file(best, point.name, results)}"
    )


def missed(peer: Result, point: Point, teacher: Result | None, wanted: str) -> str:
    """What it means that no candidate is as good: the bar beside FNO holds only where the teacher is."""
    if teacher is None:
        return ""
    if teacher["test_error"] <= point.error:
        return f", the teacher is ({percent(teacher['test_error'])}){wanted and wanted + 'NO'}"
    excused = peer["peer"] == "fno"
    return f", nor is the teacher ({percent(teacher['test_error'])}){'' if excused or not wanted else wanted + 'NO'}"


def as_file(best: Point, name: str, results: list[Result]) -> str:
    """The same comparison of latencies where the peer is an ONNX file as well."""
    file = next((result for result in results if result["section"] == PEER_FILE and result["peer"] == name), None)
    if file is None:
        return ""
    shares = [best.latency / file["median_seconds"], best.processor / file["processor_seconds"]]
    return (
        f" As an ONNX file with its trunk folded in, it takes {milliseconds(file['median_seconds'])}: the candidate "
        f"takes {shares[0]:.2g} times that, {shares[1]:.2g} times by the processor's clock."
    )


def markdown(shown: list[Result], peers: dict[str, list[Result]], header: str) -> str:
    """All tables."""
    results: dict[str, list[Result]] = {}
    for result in shown:
        results.setdefault(result["problem"], []).append(result)
    parts = [[header], summary(results)]
    for problem, every in results.items():
        lines = [f"{problem}: at a peer's error or better, the smallest candidate", ""]
        lines += [sentence(peer, every) for peer in peers[problem]]
        lines += [f"- {name}: no result here; make bench-shrink-peers trains it." for name in missing(peers[problem])]
        parts += [lines, table_of_front(problem, every, peers[problem])]
    headers = dict.fromkeys(peer.get("latency_header", peer["header"]) for every in peers.values() for peer in every)
    if headers:
        parts.append(["Peers:", "", *(f"- {each}" for each in headers)])
    return "\n\n".join("\n".join(part).rstrip("\n") for part in parts) + "\n"


def one_line(result: Result) -> str:
    """What is said when a case is done."""
    if "refused" in result:
        return f"refused, {result['refused']}"
    if result["section"] == PEER_FILE:
        return f"{milliseconds(result['median_seconds'])}, {milliseconds(result['processor_seconds'])} of the processor"
    if result["section"] == TEACHER:
        return f"test error {percent(result['test_error'])} in {clocks(result)}"
    best = min(points_of([result]), key=lambda point: point.error)
    return (
        f"{best.name}: {percent(best.error)} with {best.numbers:,} numbers, {milliseconds(best.latency)}; "
        f"compressed in {clocks(result)}"
    )
