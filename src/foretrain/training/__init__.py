"""Training with a certificate, and the two-timescale limit."""

from foretrain.training._certificate import Certificate, Check, Measurement, Theorem, certify
from foretrain.training._checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from foretrain.training._descent import Run, train
from foretrain.training._flow import FlowResult, integrate_flow
from foretrain.training._variable_projection import (
    ProjectionResult,
    optimal_outer_layer,
    refit_outer_layer,
    variable_projection,
)

__all__ = [
    "Certificate",
    "Check",
    "Checkpoint",
    "FlowResult",
    "Measurement",
    "ProjectionResult",
    "Run",
    "Theorem",
    "certify",
    "integrate_flow",
    "load_checkpoint",
    "optimal_outer_layer",
    "refit_outer_layer",
    "save_checkpoint",
    "save_weights",
    "train",
    "variable_projection",
]
