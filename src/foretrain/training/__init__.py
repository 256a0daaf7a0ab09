"""Training with a certificate, and the two-timescale limit."""

from foretrain.training._blend_shares import Shares, blend_shares
from foretrain.training._blended_operator import BlendedOperator
from foretrain.training._certificate import Certificate, Check, Measurement, Theorem, certify
from foretrain.training._checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_weights
from foretrain.training._descent import Run, train
from foretrain.training._flow import FlowResult, integrate_flow
from foretrain.training._fourier_descent import FourierTraining, FourierTrainingPoint
from foretrain.training._fourier_prior import FourierPrior, FourierTrial, choose_fourier_prior
from foretrain.training._fourier_training import train_fourier_operator, two_timescale_run
from foretrain.training._layer_fit import LayerRecord
from foretrain.training._layerwise_operator import LayerwiseOperator
from foretrain.training._online_steps import OnlineRun, descend_online
from foretrain.training._outer_layer import OuterLayer, optimal_outer, split_outer
from foretrain.training._ratio import RatioChoice, choose_ratio
from foretrain.training._step_flow import StepFlow, flow_steps, limit_flow
from foretrain.training._step_limit import LimitEvent, LimitTrajectory, event_driven_limit, hitting_time
from foretrain.training._step_loss import limit_loss, optimal_heights, step_gradient, step_loss, step_moments
from foretrain.training._trained_fourier import TrainedFourierOperator
from foretrain.training._two_timescale_forecast import (
    Expected,
    LearningLaw,
    TwoTimescaleForecast,
    forecast_two_timescales,
)
from foretrain.training._two_timescale_run import TwoTimescale, TwoTimescaleRecord, TwoTimescaleRun
from foretrain.training._two_timescales import train_two_timescales
from foretrain.training._variable_projection import (
    ProjectionResult,
    optimal_outer_layer,
    refit_outer_layer,
    variable_projection,
)

__all__ = [
    "BlendedOperator",
    "Certificate",
    "Check",
    "Checkpoint",
    "Expected",
    "FlowResult",
    "FourierPrior",
    "FourierTraining",
    "FourierTrainingPoint",
    "FourierTrial",
    "LayerRecord",
    "LayerwiseOperator",
    "LearningLaw",
    "LimitEvent",
    "LimitTrajectory",
    "Measurement",
    "OnlineRun",
    "OuterLayer",
    "ProjectionResult",
    "RatioChoice",
    "Run",
    "Shares",
    "StepFlow",
    "Theorem",
    "TrainedFourierOperator",
    "TwoTimescale",
    "TwoTimescaleForecast",
    "TwoTimescaleRecord",
    "TwoTimescaleRun",
    "blend_shares",
    "certify",
    "choose_fourier_prior",
    "choose_ratio",
    "descend_online",
    "event_driven_limit",
    "flow_steps",
    "forecast_two_timescales",
    "hitting_time",
    "integrate_flow",
    "limit_flow",
    "limit_loss",
    "load_checkpoint",
    "optimal_heights",
    "optimal_outer",
    "optimal_outer_layer",
    "refit_outer_layer",
    "save_checkpoint",
    "save_weights",
    "split_outer",
    "step_gradient",
    "step_loss",
    "step_moments",
    "train",
    "train_fourier_operator",
    "train_two_timescales",
    "two_timescale_run",
    "variable_projection",
]
