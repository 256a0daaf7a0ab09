"""What can be shipped: the candidate chosen, the budget it was held against, and both in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from foretrain.report._format import count, percent, seconds, size
from foretrain.report._run_folder import Record


@dataclass(frozen=True)
class Badge:
    """A verdict in one or two words; `tone` is good, warn, bad or quiet."""

    text: str
    tone: str


def shipping_sentence(compression: Record | None) -> tuple[str, Badge]:
    """One sentence on what can be shipped, honest when nothing can, and its verdict."""
    if compression is None:
        return "Nothing can be shipped yet, because no compressed model has been made.", Badge("not made yet", "quiet")
    rows, limits = compression.get("rows") or [], compression.get("budget") or {}
    if not rows:
        return "Nothing can be shipped, because compression left no candidate.", Badge("no candidate", "bad")
    row, budget = shipped(compression), budget_words(limits)
    if row is None:
        closest = min(rows, key=lambda row: _overshoot(row, limits))
        nearest = f"the closest candidate, {model_name(closest)}, has {_traits(closest)}"
        return f"Nothing can be shipped within {budget}: {nearest}.", Badge("nothing fits the budget", "bad")
    if not row["within_budget"]:
        text = f"The model chosen, {model_name(row)}, does not fit {budget}: it has {_traits(row)}."
        return text, Badge("over budget", "bad")
    within = f", within {budget}" if any(limits.values()) else ""
    return f"The model {model_name(row)} can be shipped: {_traits(row)}{within}.", Badge("within budget", "good")


def shipped(compression: Record | None) -> Record | None:
    """The candidate chosen; else the smallest one within the budget; else None."""
    rows = (compression or {}).get("rows") or []
    fitting = [row for row in rows if row["within_budget"] and row["format"] != "kernel"]
    return first(rows, "chosen") or min(fitting, key=lambda row: row.get("bytes") or float("inf"), default=None)


def model_name(row: Record) -> str:
    """A candidate's name with its number format, as it is written in a sentence."""
    return f"“{row['name']}” in {row['format']}"


def budget_words(budget: Record | None) -> str:
    """The budget in words, as "the budget of 1.2 % error and 20 000 numbers"; bare where nothing was limited."""
    limits = budget or {}
    parts = (
        ("error", lambda value: f"{percent(value, 3, trim=True)} error"),
        ("numbers", lambda value: f"{count(value)} numbers"),
        ("bytes", size),
        ("latency", seconds),
    )
    words = [write(limits[key]) for key, write in parts if limits.get(key) is not None]
    return f"the budget of {join(words)}" if words else "the budget"


def _traits(row: Record) -> str:
    """Error, size and latency of a candidate, as far as they are known."""
    digits = 2 if row["within_budget"] else 4  # an error just above its limit must not be rounded onto it
    known: list[str] = []
    if row.get("test_error") is not None:
        known.append(f"{percent(row['test_error'], digits, trim=True)} test error")
    if row.get("numbers") is not None:
        known.append(f"{count(row['numbers'])} numbers" + (f" ({size(row['bytes'])})" if row.get("bytes") else ""))
    if row.get("latency_seconds") is not None:
        known.append(f"{seconds(row['latency_seconds'])} per answer")
    return join(known) or "no measured properties"


def _overshoot(row: Record, budget: Record) -> float:
    """How many times the tightest limit is exceeded; infinite for the teacher, which is not a candidate."""
    if row["format"] == "kernel":
        return float("inf")
    pairs = (("test_error", "error"), ("numbers", "numbers"), ("bytes", "bytes"), ("latency_seconds", "latency"))
    ratios = [row[trait] / budget[limit] for trait, limit in pairs if row.get(trait) and budget.get(limit)]
    return max(ratios, default=0.0)


def first(rows: list[Record] | None, key: str) -> Record | None:
    """The first row in which `key` is set, or None."""
    return next((row for row in rows or [] if row.get(key)), None)


def join(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
