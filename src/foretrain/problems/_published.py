"""The field's published set-ups by name: sizes, parameters, where they come from, how easy they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.problems._cache import cached

LU = "Lu et al., 'A comprehensive and fair comparison of two neural operators' (CMAME 2022)"
DE_HOOP = "de Hoop, Huang, Qian and Stuart, 'The cost-accuracy trade-off in operator learning' (2022)"


@dataclass(frozen=True)
class PublishedSetup:
    """A set-up that papers report errors on.

    Attributes:
        name: as in `PUBLISHED`.
        problem, parameters: what to call.
        train, test: how many functions were published.
        source: the paper whose set-up it is; errors of many methods on all of them are in Batlle et al. (2023).
        too_easy: why errors on it say little about learning nonlinear operators, or None.
        remark: where our data may differ from the published.
    """

    name: str
    problem: str
    parameters: Mapping[str, Any]
    train: int
    test: int
    source: str
    too_easy: str | None = None
    remark: str | None = None


_SETUPS = (
    PublishedSetup(
        "burgers",
        "burgers",
        MappingProxyType({"viscosity": 0.1, "resolution": 128}),
        1000,
        200,
        LU,
        "nearly linear: the viscosity leaves little but decaying waves",
        "a linear model is at 7 %, that of the published data at 36 %: they are not of this viscosity on this interval",
    ),
    PublishedSetup("darcy", "darcy", MappingProxyType({"resolution": 29}), 1000, 200, LU),
    PublishedSetup(
        "advection I",
        "advection",
        MappingProxyType({"setup": "I"}),
        1000,
        1000,
        LU,
        "linear: outputs are inputs in another order",
    ),
    PublishedSetup(
        "advection II",
        "advection",
        MappingProxyType({"setup": "II"}),
        20_000,
        20_000,
        DE_HOOP,
        "linear, and no model whatever gets below about 11 %: one output of each jump is undetermined",
        "functions that agree at all points are kept once; of the 40,000 published half are repetitions",
    ),
    PublishedSetup(
        "helmholtz",
        "helmholtz",
        MappingProxyType({"elements": 100}),
        20_000,
        20_000,
        DE_HOOP,
        None,
        "by bilinear elements, as published, three quarters away from the true solution; a linear model is at 11.0 % "
        "after 1,000 functions, that of the published data at 10.6 %",
    ),
    PublishedSetup(
        "navier-stokes",
        "navier_stokes",
        MappingProxyType({}),
        20_000,
        20_000,
        DE_HOOP,
        None,
        "mildly nonlinear: a linear model is at 5.9 % after 1,000 functions, that of the published data at 5.4 %; the "
        "initial state is a draw of our own from the published distribution",
    ),
)
PUBLISHED: Mapping[str, PublishedSetup] = MappingProxyType({setup.name: setup for setup in _SETUPS})
"""Published set-ups by name."""


def published(
    name: str,
    train: int | None = None,
    test: int | None = None,
    key: int = 0,
    *,
    cache: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> tuple[OperatorDataset, OperatorDataset]:
    """A published set-up as (train, test): our solver, the published distributions, sizes and parameters.

    Functions are drawn independently, so the first `train` of them are learnt from and the next `test` held out: with
    fewer of the former, the latter are others.

    Arguments:
        name: "burgers", "darcy", "advection I", "advection II", "helmholtz" or "navier-stokes".
        train, test: how many functions, by default as published; of 40,000 Helmholtz functions the simulation takes
            the better part of an hour and the data 13 GB.
        key: seed.
        cache: folder in which the data are kept, see `cached`.

    Raises:
        ForetrainError: no such set-up, or fewer than two functions on either side.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: see `PUBLISHED[name].source`; errors of other methods: Batlle et al. (2023).
    """
    setup = PUBLISHED.get(name)
    if setup is None:
        raise ForetrainError(f"expected a published set-up among {', '.join(PUBLISHED)}, came {name!r}")
    learn, held_out = setup.train if train is None else train, setup.test if test is None else test
    if learn < 2 or held_out < 2:
        raise ForetrainError(f"{name}: expected train >= 2 and test >= 2 functions, came {learn} and {held_out}")
    data = cached(setup.problem, cache, progress=progress, **setup.parameters, samples=learn + held_out, key=key)
    return data.take(np.arange(learn)), data.take(np.arange(learn, learn + held_out))
