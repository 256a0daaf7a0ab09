"""Loss and test error before the first step, with bounds; the plan and the routes to a target."""

from foretrain.forecast._adam import AdamForecast, forecast_adam
from foretrain.forecast._adam_checkpoint import AdamCheckpoint, load_adam_checkpoint, save_adam_checkpoint
from foretrain.forecast._adam_relay import TestFunctions
from foretrain.forecast._adam_stage import AdamSettings, Moments, adam_state
from foretrain.forecast._chebyshev import Chebyshev
from foretrain.forecast._cost import Cost, measure_cost
from foretrain.forecast._curves import Forecast
from foretrain.forecast._decisions import Decision
from foretrain.forecast._descent_model import choose_descent_model
from foretrain.forecast._descent_step import descend, training_arrays, training_step
from foretrain.forecast._forecast import forecast
from foretrain.forecast._kernels import drawn_kernels, normalised_outputs, outputs_on, trained_outputs
from foretrain.forecast._methods import GradientDescent, GradientFlow, Method, ScheduledDescent
from foretrain.forecast._mode_shapes import ResidualShapes, Shape
from foretrain.forecast._modes import ModeGroup, ModeReport, explain_modes, remaining_residual
from foretrain.forecast._momentum import HeavyBall, Nesterov
from foretrain.forecast._motion import Motion, advance, motion_of
from foretrain.forecast._outlook import Bulletin, Outlook
from foretrain.forecast._pilot import log_spaced_steps
from foretrain.forecast._plan import Plan, load_plan_settings, plan, toml_value
from foretrain.forecast._routes import Route
from foretrain.forecast._spectral import SpectralCurves, spectral_curves
from foretrain.forecast._stochastic import StochasticCurves, StochasticDescent, stochastic_curves
from foretrain.forecast._torch_adam import TorchAdamKernel, load_torch_checkpoint
from foretrain.forecast._torch_forecast import forecast_torch
from foretrain.forecast._width import WidthDeviation, measure_width_deviation
from foretrain.forecast._width_plan import PlannedWidths, plan_widths

__all__ = [
    "AdamCheckpoint",
    "AdamForecast",
    "AdamSettings",
    "Bulletin",
    "Chebyshev",
    "Cost",
    "Decision",
    "Forecast",
    "GradientDescent",
    "GradientFlow",
    "HeavyBall",
    "Method",
    "ModeGroup",
    "ModeReport",
    "Moments",
    "Motion",
    "Nesterov",
    "Outlook",
    "Plan",
    "PlannedWidths",
    "ResidualShapes",
    "Route",
    "ScheduledDescent",
    "Shape",
    "SpectralCurves",
    "StochasticCurves",
    "StochasticDescent",
    "TestFunctions",
    "TorchAdamKernel",
    "WidthDeviation",
    "adam_state",
    "advance",
    "choose_descent_model",
    "descend",
    "drawn_kernels",
    "explain_modes",
    "forecast",
    "forecast_adam",
    "forecast_torch",
    "load_adam_checkpoint",
    "load_plan_settings",
    "load_torch_checkpoint",
    "log_spaced_steps",
    "measure_cost",
    "measure_width_deviation",
    "motion_of",
    "normalised_outputs",
    "outputs_on",
    "plan",
    "plan_widths",
    "remaining_residual",
    "save_adam_checkpoint",
    "spectral_curves",
    "stochastic_curves",
    "toml_value",
    "trained_outputs",
    "training_arrays",
    "training_step",
]
