"""Two timescales beside equal rates as the training data get worse: label noise, input noise, covariate shift."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.studies._compare import Effect, paired_effect
from foretrain.studies._two_timescale_settings import (
    EQUAL_RATES_STEP_SIZES,
    SampledResult,
    SampledSetting,
    run_equal_rates,
    run_sampled,
)

DISTURBANCES = ("label noise", "input noise", "covariate shift")
DISTURBANCE_LEVELS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "label noise": (0.0, 0.05, 0.1, 0.2, 0.5),
        "input noise": (0.0, 0.02, 0.05, 0.1, 0.2),
        "covariate shift": (0.0, 1.0, 3.0),
    }
)
"""Standard deviations, and s of the training density Beta(1, 1 + s)."""
_VERDICTS = {"better": "two timescales better", "worse": "equal rates better"}


@dataclass(frozen=True)
class RobustnessTable:
    """Test errors under a disturbance of the training data that grows.

    Attributes:
        kind: "label noise", "input noise" or "covariate shift".
        levels: standard deviations, or s of the training density Beta(1, 1 + s).
        equal_rates, two_timescales: test errors, [levels, seeds]; infinite if diverged.
        equal_rates_step_size: what equal rates used, chosen on the undisturbed sample.
    """

    kind: str
    levels: tuple[float, ...]
    equal_rates: Float[np.ndarray, "levels seeds"]
    two_timescales: Float[np.ndarray, "levels seeds"]
    equal_rates_step_size: float

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Of two timescales against equal rates, level by level: a ratio of test errors, paired by seed."""
        return tuple(map(paired_effect, self.two_timescales, self.equal_rates))

    @property
    def effect(self) -> Effect:
        """The same over all levels above 0 (over level 0 if there is no other).

        A seed's levels share its points, noise and start: their geometric mean is one observation, not several.
        """
        counted = np.array(self.levels) > 0 if max(self.levels) > 0 else np.array(self.levels) == 0
        two, equal = (
            np.exp(np.log(errors[counted]).mean(axis=0)) for errors in (self.two_timescales, self.equal_rates)
        )
        return paired_effect(two, equal)

    @property
    def verdict(self) -> str:
        """Over all levels above 0: "two timescales better", "equal rates better" or "no difference seen"."""
        return plain_verdict(self.effect)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Level by level."""
        return tuple(map(plain_verdict, self.effects))

    @property
    def exceptions(self) -> tuple[tuple[float, str], ...]:
        """Levels above 0 at which one way is better, and which, where that is not the verdict over all of them."""
        pairs = zip(self.levels, self.verdicts, strict=True)
        return tuple(
            (level, verdict)
            for level, verdict in pairs
            if level > 0 and verdict in _VERDICTS.values() and verdict != self.verdict
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        effects, verdicts = [vars(each) for each in self.effects], self.verdicts
        return {
            "kind": self.kind,
            "equal_rates_step_size": self.equal_rates_step_size,
            "verdict": self.verdict,
            "effect": {**vars(self.effect), "verdict": self.verdict},
            "exceptions": [{"level": level, "verdict": verdict} for level, verdict in self.exceptions],
            "levels": [
                {
                    "level": level,
                    "equal_rates": self.equal_rates[index],
                    "two_timescales": self.two_timescales[index],
                    "median_equal_rates": float(np.median(self.equal_rates[index])),
                    "median_two_timescales": float(np.median(self.two_timescales[index])),
                    "effect": {**effects[index], "verdict": verdicts[index]},
                }
                for index, level in enumerate(self.levels)
            ],
        }


@dataclass(frozen=True)
class DisturbedComparison:
    """One experiment on a fixed sample under every disturbance.

    Attributes:
        title, setting: which, undisturbed.
        tables: one for each disturbance.
        seconds: processor time of everything.
    """

    title: str
    setting: SampledSetting
    tables: tuple[RobustnessTable, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {**vars(self), "setting": vars(self.setting), "tables": [table.as_dict() for table in self.tables]}


def plain_verdict(effect: Effect) -> str:
    """An effect of two timescales against equal rates, in words that name the better one."""
    return _VERDICTS.get(effect.verdict, effect.verdict)


def compare_on_disturbed_data(
    title: str,
    setting: SampledSetting,
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
    *,
    levels: Mapping[str, Sequence[float]] = DISTURBANCE_LEVELS,
) -> DisturbedComparison:
    """Equal rates and two timescales under every disturbance: same points, noise and starts.

    Raises:
        ForetrainError: as `robustness_sweep`.
    """
    clock = time.process_time()
    tables = _sweeps(setting, levels, seeds, progress)
    return DisturbedComparison(title, setting, tables, time.process_time() - clock)


def robustness_sweep(
    setting: SampledSetting,
    kind: str,
    levels: Sequence[float],
    seeds: Sequence[int] = range(20),
    progress: Progress = ignore_progress,
) -> RobustnessTable:
    """Test errors of equal rates and of two timescales as a disturbance of the training data grows.

    The same points, noise and starts are used at all levels and for both, so that columns and rows are paired.

    Arguments:
        setting: without the disturbance.
        kind: "label noise", "input noise" (levels: standard deviations), or "covariate shift" (levels s: coordinates
            of the training points follow Beta(1, 1 + s), those of the test points stay uniform).
        levels: at least 0.

    Raises:
        ForetrainError: for another kind, no level or a level below 0.

    **Assumption:** the step size that serves equal rates best without a disturbance serves them under it.
    """
    return _sweeps(setting, {kind: levels}, seeds, progress)[0]


def _sweeps(
    setting: SampledSetting, levels: Mapping[str, Sequence[float]], seeds: Sequence[int], progress: Progress
) -> tuple[RobustnessTable, ...]:
    """One table for each kind; what is undisturbed runs once for all."""
    for kind, chosen in levels.items():
        if kind not in DISTURBANCES or not chosen or min(chosen) < 0:
            raise ForetrainError(
                f"robustness_sweep: expected one of {', '.join(DISTURBANCES)} and levels of at least 0, "
                f"came {kind!r} and {list(chosen)}"
            )
    counted = [(kind, level) for kind, chosen in levels.items() for level in chosen if level > 0]
    runs, calls = len(EQUAL_RATES_STEP_SIZES) + 1 + 2 * len(counted), count(1)

    def told(stage: str, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        # Every run tells of each seed's start and end.
        progress(f"{setting.name}, disturbed", next(calls), 2 * len(seeds) * runs)

    # Errors at the end are all that is wanted: on the way they would cost a third of the time.
    equal = run_equal_rates(setting, seeds, told, records=1)
    two = run_sampled(setting, None, seeds, told, records=1)
    step_size = equal.setting.step_size

    def ran(kind: str, level: float) -> tuple[SampledResult, SampledResult]:
        if level == 0:
            return equal, two
        disturbed = _disturbed(setting, kind, level)
        return (
            run_sampled(replace(disturbed, step_size=step_size), 1.0, seeds, told, records=1),
            run_sampled(disturbed, None, seeds, told, records=1),
        )

    tables = []
    for kind, chosen in levels.items():
        pairs = [ran(kind, level) for level in chosen]
        errors = [np.array([pair[way].test_error for pair in pairs]) for way in range(2)]
        tables.append(RobustnessTable(kind, tuple(chosen), errors[0], errors[1], step_size))
    return tuple(tables)


def _disturbed(setting: SampledSetting, kind: str, level: float) -> SampledSetting:
    if kind == "label noise":
        return replace(setting, label_noise=level)
    if kind == "input noise":
        return replace(setting, input_noise=level)
    return replace(setting, density=(1.0, 1.0 + level))
