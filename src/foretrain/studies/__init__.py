"""Whole studies: the main job end to end, and comparisons of ways to train."""

from foretrain.studies._compare import Comparison, Effect, compare
from foretrain.studies._environment import environment
from foretrain.studies._pipeline import (
    PipelineResult,
    PipelineSettings,
    checked_steps,
    run_pipeline,
    with_overrides,
)

__all__ = [
    "Comparison",
    "Effect",
    "PipelineResult",
    "PipelineSettings",
    "checked_steps",
    "compare",
    "environment",
    "run_pipeline",
    "with_overrides",
]
