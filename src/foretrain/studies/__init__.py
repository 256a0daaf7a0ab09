"""Whole studies: the main job end to end, and comparisons of ways to train."""

from foretrain.studies._compare import Comparison, Effect, compare
from foretrain.studies._disturbed_data import (
    DisturbedComparison,
    RobustnessTable,
    compare_on_disturbed_data,
    robustness_sweep,
)
from foretrain.studies._environment import environment
from foretrain.studies._one_start import OneStart, Trajectory
from foretrain.studies._pipeline import (
    PipelineResult,
    PipelineSettings,
    checked_steps,
    run_pipeline,
    with_overrides,
)
from foretrain.studies._published_claims import Claim, published_claims
from foretrain.studies._reproduce import (
    Reproduction,
    ReproductionSettings,
    SampledComparison,
    reproduce_two_timescales,
)
from foretrain.studies._step_coverage import (
    EQUAL_RATES,
    RATIO_SWEEP,
    TWO_TIMESCALES,
    TWO_TIMESCALES_FINISHED,
    CoverageSetting,
    StepCoverage,
    covered_jumps,
    drawn_positions,
    step_coverage,
)
from foretrain.studies._two_timescale_settings import (
    SAMPLED_SETTINGS,
    SampledResult,
    SampledSetting,
    run_equal_rates,
    run_sampled,
)

__all__ = [
    "EQUAL_RATES",
    "RATIO_SWEEP",
    "SAMPLED_SETTINGS",
    "TWO_TIMESCALES",
    "TWO_TIMESCALES_FINISHED",
    "Claim",
    "Comparison",
    "CoverageSetting",
    "DisturbedComparison",
    "Effect",
    "OneStart",
    "PipelineResult",
    "PipelineSettings",
    "Reproduction",
    "ReproductionSettings",
    "RobustnessTable",
    "SampledComparison",
    "SampledResult",
    "SampledSetting",
    "StepCoverage",
    "Trajectory",
    "checked_steps",
    "compare",
    "compare_on_disturbed_data",
    "covered_jumps",
    "drawn_positions",
    "environment",
    "published_claims",
    "reproduce_two_timescales",
    "robustness_sweep",
    "run_equal_rates",
    "run_pipeline",
    "run_sampled",
    "step_coverage",
    "with_overrides",
]
