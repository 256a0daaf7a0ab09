"""How wide a student may be: files of two widths tell what each neuron costs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax

from foretrain._foundation import ForetrainError
from foretrain.compression._budget import Budget, Package
from foretrain.data import OperatorDataset
from foretrain.models import ComponentOperator, FilteredBoxOperator, FilteredFourierOperator

Operator = TypeVar("Operator", FilteredFourierOperator, FilteredBoxOperator, ComponentOperator)
NARROWEST = 4
LENGTHS = 128
"""Bytes by which lengths and factors written into a file may grow with what they count."""
_UNITS = {"numbers": "stored numbers", "bytes": "bytes"}


class BudgetTooSmall(ForetrainError):
    """No student of any use keeps the limits on numbers and bytes."""


def within_budget(
    operators: Sequence[Operator],
    budget: Budget,
    data: OperatorDataset,
    measure: Callable[[Any], Package],
    narrowest: int = NARROWEST,
) -> list[Operator]:
    """Each as wide as its float32 file keeps the limits on numbers and bytes, at its own width at most.

    The file is measured as it will be shipped: what the packager puts into it beside the network counts.
    Those narrower than `narrowest`, too narrow to be of use, are left out.

    Raises:
        BudgetTooSmall: if all are.
    """
    limits = {name: getattr(budget, name) for name in ("numbers", "bytes") if getattr(budget, name) is not None}
    fitting, least = [], dict.fromkeys(limits, sys.maxsize)
    for operator in operators:
        width = operator.width
        if not limits:
            fitting.append(operator)
            continue
        # What a file stores is affine in the width: two files tell it.
        narrow, wide = (measure(replace(operator, width=width).initialise(data, jax.random.key(0))) for width in (1, 2))
        for name, limit in limits.items():
            each = getattr(wide, name) - getattr(narrow, name)
            fixed = getattr(narrow, name) - each + (LENGTHS if name == "bytes" else 0)
            width = min(width, (limit - fixed) // each)
            least[name] = min(least[name], fixed + narrowest * each)
        if width >= narrowest:
            fitting.append(replace(operator, width=width))
    if not fitting:
        needed = " and ".join(f"{count:,} {_UNITS[name]}" for name, count in least.items())
        came = " and ".join(f"{limit:,}" for limit in limits.values())
        raise BudgetTooSmall(f"expected a budget of at least {needed}, came {came}; raise numbers or bytes")
    return fitting
