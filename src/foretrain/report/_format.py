"""Numbers as a reader wants them: rounded to what matters, with a unit, thousands set apart by a thin space."""

import math
from typing import Any

THIN = "\u202f"  # narrow no-break space: groups thousands, and keeps a number and its unit on one line
MINUS = "\u2212"
DASH = "\u2013"  # stands where a number is not known
TIMES = "\u00d7"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHORT = (("trillion", 1e12), ("billion", 1e9), ("million", 1e6))


def number(value: float | None, digits: int = 3, trim: bool = False) -> str:
    """`value` to `digits` significant digits, as `m × 10ⁿ` when plain decimals would be long; a dash for None.

    `trim` drops trailing zeros after the decimal point, for figures that were chosen and not measured.
    """
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 6:
        text = _grouped(value, max(0, digits - 1 - power))
        return _trimmed(text) if trim else text
    mantissa = (_trimmed(mantissa) if trim else mantissa).replace("-", MINUS)
    return f"{mantissa}{THIN}{TIMES}{THIN}10{str(power).translate(_SUPERSCRIPTS)}"


def percent(value: float | None, digits: int = 2, trim: bool = False) -> str:
    """The fraction `value` in per cent, written as by `number`."""
    text = number(None if value is None else 100 * value, digits, trim)
    return text if value is None or not math.isfinite(value) else f"{text}{THIN}%"


def signed_percent(value: float | None) -> str:
    """Like `percent`, always with a sign: how far, and in which direction, one figure is from another."""
    if value is None:
        return DASH
    return f"{MINUS if value < 0 else '+'}{percent(abs(value))}"


def count(value: float | None) -> str:
    """A number of things, in full up to ten million and as millions or billions (two digits) beyond."""
    if value is None:
        return DASH
    if abs(value) < 1e7:
        return _grouped(round(value), 0)
    if abs(value) >= 1e15:
        return number(value)
    word, unit = next((word, unit) for word, unit in _SHORT if abs(value) >= unit)
    return f"{number(value / unit, 2 if abs(value) < 100 * unit else 3)}{THIN}{word}"


def about(value: float) -> str:
    """A forecast number of things: three significant digits, since the rest would be false precision."""
    if value < 1000 or value >= 1e7:
        return count(value)
    power = math.floor(math.log10(value))
    return count(round(value, 2 - power))


def seconds(value: float | None) -> str:
    """A duration in the unit a person would use, from microseconds to years."""
    if value is None:
        return DASH
    units = ((1e-4, "µs", 1e-6), (0.9995, "ms", 1e-3), (119.5, "s", 1), (7170, "min", 60), (172_800, "h", 3600))
    for limit, unit, scale in (*units, (63_072_000, "days", 86_400)):
        if abs(value) < limit:
            return f"{_short(value / scale)}{THIN}{unit}"
    return f"{_short(value / 31_536_000)}{THIN}years"


def size(value: float | None) -> str:
    """A number of bytes in decimal units: 1 kB is 1 000 bytes."""
    if value is None:
        return DASH
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= 0.9995 * scale:
            return f"{_short(value / scale)}{THIN}{unit}"
    return f"{_short(value)}{THIN}bytes"


def plain(value: Any) -> str:
    """A value of the plan as text: numbers rounded, yes and no for booleans, anything else as it is."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return number(value, 4, trim=True) if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    """Two digits below ten, whole numbers above, no trailing zero."""
    if abs(value) >= 9.95:
        return _grouped(round(value), 0) if abs(value) < 1e6 else number(value)
    return number(value, 2, trim=True)


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _grouped(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", MINUS).replace(",", THIN)
