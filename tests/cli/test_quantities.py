"""Quantities with units, against exact arithmetic with fractions."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foretrain.cli._quantities import DURATION, SHARE, SIZE

KINDS = {"share": SHARE, "size": SIZE, "duration": DURATION}
# Written a second time: what a unit means must not be read from the table under test.
UNITS = {
    "share": {"%": Fraction(1, 100)},
    "size": {"B": 1, "kB": 1000, "KB": 1000, "MB": 10**6, "GB": 10**9, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3},
    "duration": {"s": 1, "ms": Fraction(1, 1000), "us": Fraction(1, 10**6), "\u00b5s": Fraction(1, 10**6)},
}
PAIRS = [(kind, unit) for kind, units in UNITS.items() for unit in units]
NUMBERS = st.decimals(0, 10**6, places=6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_in_messages_are_the_same_quantity_twice(kind):
    first, second = KINDS[kind].examples.split(" or ")
    assert KINDS[kind].parse(first) == KINDS[kind].parse(second)


@settings(deadline=None)
@given(pair=st.sampled_from(PAIRS), number=NUMBERS, gap=st.sampled_from(["", " ", "\t"]))
@example(pair=("share", "%"), number=Decimal("0.1"), gap="")
def test_a_number_with_a_unit_is_the_nearest_float_or_the_whole_bytes_below(pair, number, gap):
    kind, unit = pair
    exact = Fraction(number) * UNITS[kind][unit]
    wanted = exact.numerator // exact.denominator if kind == "size" else float(exact)
    assert KINDS[kind].parse(f"{number}{gap}{unit}") == wanted


@settings(deadline=None)
@given(number=st.floats())
def test_a_plain_number_keeps_its_meaning(number):
    for kind in ("share", "duration"):
        assert repr(KINDS[kind].parse(repr(number))) == repr(number)


@settings(deadline=None)
@given(number=st.integers())
def test_a_plain_whole_number_is_bytes(number):
    assert SIZE.parse(str(number)) == number


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet=st.sampled_from("0123456789.+-eE%skKMiBmu_ \u00b5\u0663"), max_size=12) | st.text(max_size=12)
)
@example(text="1e999999999kB")
@example(text="\u0663%")
def test_any_text_is_a_quantity_or_refused_in_one_line(text):
    for kind, unit in KINDS.items():
        try:
            value = unit.parse(text)
        except ValueError as error:
            line = str(error)
            assert line.startswith(f"expected {unit.kind} such as {unit.examples}, came {text!r}; write "), line
            assert "\n" not in line
        else:
            assert isinstance(value, int if kind == "size" else float)


REFUSED = {
    "--max-error 2%%": "expected a share such as 2% or 0.02, came '2%%'; write one of the units %",
    "--max-error little": "expected a share such as 2% or 0.02, came 'little'; write a number and a unit",
    "--max-bytes 200kb": "expected a size such as 200kB or 200000, came '200kb'; write one of the units B, kB, MB, GB",
    "--max-bytes 1e40MB": "came '1e40MB'; write a smaller number",
    "--max-latency 1min": "expected a time such as 1ms or 0.001, came '1min'; write one of the units s, ms, us",
    "--max-latency 1ms2": "came '1ms2'; write one of the units",
    "--max-error -1%": "max_error: expected a positive number, came -0.01",
    "--max-error inf": "max_error: expected a positive number, came inf",
    "--max-bytes 0.4B": "max_bytes: expected a whole number, at least 1, came 0",
    "--max-latency 0ms": "max_latency: expected a positive number, came 0.0",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_budgets_that_cannot_be_meant_are_refused_in_one_line(flags, refused):
    line = refused(f"compress . {flags}")
    assert REFUSED[flags] in line
    assert len(line) < 200


def test_a_unit_works_wherever_an_error_is_asked_for(refused, said, good):
    said(refused("plan good.npz --target-error 200%"), r"target_error: expected a number between 0 and 1 .* came 2\.0")
    said(refused("run good.npz --error-budget 0%"), r"error_budget: expected a positive number, came 0\.0")
    said(refused("forecast good.npz --target-error 0%"), r"target_error: expected a number between 0 and 1")
