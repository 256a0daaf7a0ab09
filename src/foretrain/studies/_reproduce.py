"""The published two-timescale experiments, all of them, beside what was published."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.studies._disturbed_data import DisturbedComparison, compare_on_disturbed_data
from foretrain.studies._one_start import OneStart, Trajectory, follow_one_start
from foretrain.studies._published_claims import Claim, covered_counts, covered_starts, published_claims, share_interval
from foretrain.studies._step_coverage import (
    EQUAL_RATES,
    RATIO_SWEEP,
    TWO_TIMESCALES,
    TWO_TIMESCALES_FINISHED,
    CoverageSetting,
    StepCoverage,
    drawn_positions,
    step_coverage,
)
from foretrain.studies._two_timescale_settings import (
    EQUAL_RATES_STEP_SIZES,
    SAMPLED_SETTINGS,
    SampledSetting,
    run_equal_rates,
    run_sampled,
)

QUICK_STEP_SIZE = 1e-3
"""A hundred times the published one: seconds instead of minutes, at the price of a loss near 0.010 instead of 0.008."""
SAMPLED_NAMES = {"steps-2d": "2-D steps", "steps-10d": "10-D steps", "relu": "ReLU teacher"}
DISTURBED_NAMES = {"steps-2d": "2-D steps", "relu": "ReLU teacher"}


@dataclass(frozen=True)
class ReproductionSettings:
    """How much to run.

    Attributes:
        key: of every start, sample and noise.
        full: the published step size (1.75e8 steps), 100 starts for the shares and 20 elsewhere.
        uniform: starts uniform on [0, 1], as published; otherwise redrawn until every piece of the target holds two
            neurons, as the theorem needs.
        seeds: starts of every part, instead of those.

    Raises:
        ForetrainError: for fewer than one seed, or a negative key.
    """

    key: int = 0
    full: bool = False
    uniform: bool = False
    seeds: int | None = None

    def __post_init__(self) -> None:
        if self.key < 0:
            raise ForetrainError(f"key: expected a whole number, at least 0, came {self.key}")
        if self.seeds is not None and self.seeds < 1:
            raise ForetrainError(f"seeds: expected a whole number, at least 1, came {self.seeds}")

    @property
    def neurons_in_every_piece(self) -> int:
        """At every start."""
        return 0 if self.uniform else 2

    @property
    def coverage_seeds(self) -> int:
        """Starts for the shares."""
        return self.seeds or (100 if self.full else 20)

    @property
    def sweep_seeds(self) -> int:
        """Starts at each ratio."""
        return self.seeds or 20

    @property
    def sampled_seeds(self) -> int:
        """Of the experiments on fixed samples, by far the most expensive."""
        return self.seeds or (20 if self.full else 2)

    @property
    def disturbed_seeds(self) -> int:
        """Of the experiments on disturbed samples: few give wide intervals and hardly a verdict."""
        return self.seeds or (20 if self.full else 3)


@dataclass(frozen=True)
class SampledComparison:
    """One experiment on a fixed sample, by several ways to train.

    Attributes:
        title, setting: which.
        training, test: root-mean-square errors of each way, [seeds]: "equal rates" at the setting's step size, "equal
            rates, best step size" of several, "two timescales", "limit".
        seconds: processor time of everything.
    """

    title: str
    setting: SampledSetting
    training: Mapping[str, Float[np.ndarray, " seeds"]]
    test: Mapping[str, Float[np.ndarray, " seeds"]]
    seconds: float

    def medians(self, way: str) -> tuple[float, float]:
        """Of training and test errors."""
        return float(np.median(self.training[way])), float(np.median(self.test[way]))


@dataclass(frozen=True)
class Reproduction:
    """Everything that was run.

    Attributes:
        settings: how much.
        start: one start by every dynamics.
        sweep: the ratios, from the largest.
        equal_rates, two_timescales: shares of starts that end with every jump covered.
        sampled: the experiments on fixed samples.
        disturbed: two of them under noise and covariate shift.
        seconds: processor time of everything, compilation included.
    """

    settings: ReproductionSettings
    start: OneStart
    sweep: tuple[StepCoverage, ...]
    equal_rates: StepCoverage
    two_timescales: StepCoverage
    sampled: tuple[SampledComparison, ...]
    disturbed: tuple[DisturbedComparison, ...]
    seconds: float

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Measured against published."""
        return published_claims(self)

    def as_dict(self, trajectories: bool = True) -> dict[str, Any]:
        """Plain values for a file."""
        start = self.start
        return {
            "study": "two-timescale",
            "settings": vars(self.settings),
            "claims": [{**vars(claim), "verdict": claim.verdict} for claim in self.claims],
            "one_start": {
                "finish_time": start.finish_time,
                "distance_to_limit": start.distance_to_limit,
                "distance_to_steep_limit": start.distance_to_steep_limit,
                "events": [vars(event) for event in start.events],
                "dynamics": {
                    each.name: _trajectory_record(start, each, trajectories) for each in (*start.dynamics, start.equal)
                },
            },
            "sweep": [_coverage_record(coverage) for coverage in self.sweep],
            "coverage": [_coverage_record(coverage) for coverage in (self.equal_rates, self.two_timescales)],
            "sampled": [{**vars(each), "setting": vars(each.setting)} for each in self.sampled],
            "disturbed": [each.as_dict() for each in self.disturbed],
            "seconds": self.seconds,
        }


def reproduce_two_timescales(
    settings: ReproductionSettings | None = None, progress: Progress = ignore_progress
) -> Reproduction:
    """Runs the published experiments on two timescales, and two of them under noise and covariate shift.

    One start, the sweep over ratios, shares, fixed samples, disturbed samples. Takes about a minute of one core, `full`
    about eight.

    Raises:
        ForetrainError: as the parts do.

    Source: Marion, Berthier, "Leveraging the two-timescale regime" (NeurIPS 2023).
    """
    settings = settings or ReproductionSettings()
    key, in_every_piece, clock = settings.key, settings.neurons_in_every_piece, time.process_time()
    two, equal = TWO_TIMESCALES, EQUAL_RATES
    if not settings.full:
        two = with_step_size(two, QUICK_STEP_SIZE)
    positions = drawn_positions(two.target, two.neurons, np.random.default_rng([key, 0]), in_every_piece)
    start = follow_one_start(positions, two, equal, key, progress=progress)

    def covered(setting: CoverageSetting, seeds: int) -> StepCoverage:
        return step_coverage(replace(setting, neurons_in_every_piece=in_every_piece), seeds, key, progress)

    sweep = tuple(covered(setting, settings.sweep_seeds) for setting in RATIO_SWEEP)
    of_equal = covered(EQUAL_RATES, settings.coverage_seeds)
    of_two = covered(TWO_TIMESCALES_FINISHED, settings.coverage_seeds)
    seeds = range(key, key + settings.sampled_seeds)
    sampled = tuple(
        compare_on_samples(title, SAMPLED_SETTINGS[name], seeds, progress) for name, title in SAMPLED_NAMES.items()
    )
    disturbed_seeds = range(key, key + settings.disturbed_seeds)
    disturbed = tuple(
        compare_on_disturbed_data(title, SAMPLED_SETTINGS[name], disturbed_seeds, progress)
        for name, title in DISTURBED_NAMES.items()
    )
    seconds = time.process_time() - clock
    return Reproduction(settings, start, sweep, of_equal, of_two, sampled, disturbed, seconds)


def with_step_size(setting: CoverageSetting, step_size: float) -> CoverageSetting:
    """The same slow time by larger or smaller steps."""
    return replace(setting, step_size=step_size, steps=round(setting.steps * setting.step_size / step_size))


def compare_on_samples(
    title: str, setting: SampledSetting, seeds: Sequence[int], progress: Progress = ignore_progress
) -> SampledComparison:
    """Equal rates at the setting's and at a better step size, two timescales, the limit: same samples and starts."""
    equal = run_sampled(setting, 1.0, seeds, progress)
    smaller = run_equal_rates(setting, seeds, progress, multiples=EQUAL_RATES_STEP_SIZES[1:])
    ways = {
        "equal rates": equal,
        "equal rates, best step size": min(equal, smaller, key=lambda result: float(np.median(result.training_error))),
        "two timescales": run_sampled(setting, None, seeds, progress),
        "limit": run_sampled(setting, 0.0, seeds, progress),
    }
    return SampledComparison(
        title,
        setting,
        {way: each.training_error for way, each in ways.items()},
        {way: each.test_error for way, each in ways.items()},
        sum(each.seconds for way, each in ways.items()),
    )


def _trajectory_record(start: OneStart, each: Trajectory, whole: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "final_loss": float(each.loss[-1]),
        "covered": start.covered(each),
        "steps": each.steps,
        "seconds": each.seconds,
    }
    if whole:
        arrays = ("slow_times", "positions", "outer", "loss")
        record |= {name: getattr(each, name) for name in arrays} | {"step_width": each.step_width}
    return record


def _coverage_record(coverage: StepCoverage) -> dict[str, Any]:
    seeds = len(coverage.losses)
    return {
        "setting": {name: value for name, value in vars(coverage.setting).items() if name != "target"},
        "seeds": seeds,
        "share": coverage.share,
        "share_interval": share_interval(covered_starts(coverage), seeds),
        "covered_jumps": covered_counts(coverage),
        "losses": coverage.losses,
        "limit_finish_times": coverage.limit_finish_times,
        "seconds": coverage.seconds,
    }
