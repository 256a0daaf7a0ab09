"""Quantities as people write them: 2%, 200kB, 1ms; a plain number is a share, bytes, seconds."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

# Of few digits, so that no exponent keeps the arithmetic busy.
_PATTERN = re.compile(r"([+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:e[+-]?\d{1,3})?)\s*(\D.*)", re.IGNORECASE | re.ASCII)
_LARGEST = 10**18


@dataclass(frozen=True)
class Unit:
    """What may follow a number, and what a number without it means.

    Attributes:
        kind: what is measured, for messages.
        examples: two that work.
        factors: unit -> how many of the plain unit it is.
        whole: whether only whole numbers are meant; what is left over is dropped, so that no limit is loosened.
    """

    kind: str
    examples: str
    factors: dict[str, str]
    whole: bool = False

    def parse(self, text: str) -> float:
        """The quantity in plain units, an int where only whole numbers are meant.

        Raises:
            ValueError: what was expected, what came, what to do.
        """
        stripped = text.strip()
        plain = self._plain(stripped)
        if plain is not None:
            return plain
        match = _PATTERN.fullmatch(stripped)
        if match is None:
            raise ValueError(f"expected {self.kind} such as {self.examples}, came {text!r}; write a number and a unit")
        number, unit = match.groups()
        if unit not in self.factors:
            known = ", ".join(dict.fromkeys(_shown(name) for name in self.factors))
            raise ValueError(
                f"expected {self.kind} such as {self.examples}, came {text!r}; write one of the units {known}"
            )
        # In fractions, so that 0.1% is 0.001 to the last bit and 1.1kB is 1100 bytes.
        value = Fraction(number) * Fraction(self.factors[unit])
        if abs(value) > _LARGEST:
            raise ValueError(f"expected {self.kind} such as {self.examples}, came {text!r}; write a smaller number")
        return int(value) if self.whole else float(value)

    def _plain(self, text: str) -> float | None:
        try:
            return int(text) if self.whole else float(text)
        except ValueError:
            return None


SHARE = Unit("a share", "2% or 0.02", {"%": "0.01"})
SIZE = Unit(
    "a size",
    "200kB or 200000",
    {
        "B": "1",
        "kB": "1e3",
        "KB": "1e3",
        "MB": "1e6",
        "GB": "1e9",
        "KiB": str(2**10),
        "MiB": str(2**20),
        "GiB": str(2**30),
    },
    whole=True,
)
# Micro is two characters: the sign on keyboards and the Greek letter.
DURATION = Unit("a time", "1ms or 0.001", {"s": "1", "ms": "1e-3", "us": "1e-6", "\u00b5s": "1e-6", "\u03bcs": "1e-6"})


def _shown(unit: str) -> str:
    return {"KB": "kB", "\u00b5s": "us", "\u03bcs": "us"}.get(unit, unit)


def _required(unit: Unit, name: str) -> PrimitiveConstructorSpec[float]:
    """How a flag of this kind is read."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=name,
        instance_from_str=lambda words: unit.parse(words[0]),
        is_instance=lambda value: isinstance(value, int if unit.whole else int | float),
        str_from_instance=lambda value: [str(value)],
    )


def _optional(unit: Unit, name: str) -> PrimitiveConstructorSpec[float | None]:
    """The same with the word None for no limit: a union of types would bury what is wrong under their names."""
    required = _required(unit, name)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{name}",
        instance_from_str=lambda words: None if words == ["None"] else required.instance_from_str(words),
        is_instance=lambda value: value is None or required.is_instance(value) is True,
        str_from_instance=lambda value: [str(value)],
    )


Share = Annotated[float, _required(SHARE, "SHARE")]
ShareOrNone = Annotated[float | None, _optional(SHARE, "SHARE")]
SizeOrNone = Annotated[int | None, _optional(SIZE, "SIZE")]
DurationOrNone = Annotated[float | None, _optional(DURATION, "TIME")]
