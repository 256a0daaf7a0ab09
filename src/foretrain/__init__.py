"""foretrain: forecast how the training of a neural operator will go, train it with a certificate, shrink it to ship.

import foretrain as ft

data = ft.problems.burgers()
train, test = data.split(test=200, key=0)
plan = ft.plan(train, target_error=0.02, test=test)
run = ft.train(train, plan, test=test)
exact = ft.InfiniteWidthOperator().fit(train)
small = ft.compress(exact, ft.Budget(error=0.012, numbers=20_000), test=test)
small.export("model.onnx")
"""

import functools

from foretrain import compression, data, deployment, models, problems, studies, tangent, training
from foretrain._foundation import DataError, ForetrainError, MemoryBudgetError, MissingExtraError
from foretrain.compression import Budget, CompressedModel
from foretrain.data import OperatorDataset, load, load_split
from foretrain.deployment import OnnxPackager, compress_with_trust
from foretrain.forecast import (
    Chebyshev,
    Forecast,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    Nesterov,
    Outlook,
    Plan,
    ScheduledDescent,
    StochasticDescent,
    explain_modes,
    forecast,
    forecast_adam,
    plan,
    save_adam_checkpoint,
)
from foretrain.models import (
    FNO,
    MLP,
    DeepONet,
    FilteredFourierOperator,
    ShallowFourierOperator,
    ShallowOperator,
    StepNetwork,
)
from foretrain.report import report
from foretrain.studies import Comparison, compare
from foretrain.tangent import InfiniteWidthOperator, empirical_kernel, tangent_kernel
from foretrain.training import (
    BlendedOperator,
    Certificate,
    LayerwiseOperator,
    Run,
    TrainedFourierOperator,
    TwoTimescale,
    TwoTimescaleForecast,
    forecast_two_timescales,
    train,
)

__version__ = "0.1.0"

compress = functools.partial(compression.compress, package=OnnxPackager())
"""`foretrain.compression.compress` with ONNX files as packages."""

__all__ = [
    "FNO",
    "MLP",
    "BlendedOperator",
    "Budget",
    "Certificate",
    "Chebyshev",
    "Comparison",
    "CompressedModel",
    "DataError",
    "DeepONet",
    "FilteredFourierOperator",
    "Forecast",
    "ForetrainError",
    "GradientDescent",
    "GradientFlow",
    "HeavyBall",
    "InfiniteWidthOperator",
    "LayerwiseOperator",
    "MemoryBudgetError",
    "MissingExtraError",
    "Nesterov",
    "OperatorDataset",
    "Outlook",
    "Plan",
    "Run",
    "ScheduledDescent",
    "ShallowFourierOperator",
    "ShallowOperator",
    "StepNetwork",
    "StochasticDescent",
    "TrainedFourierOperator",
    "TwoTimescale",
    "TwoTimescaleForecast",
    "compare",
    "compress",
    "compress_with_trust",
    "compression",
    "data",
    "deployment",
    "empirical_kernel",
    "explain_modes",
    "forecast",
    "forecast_adam",
    "forecast_two_timescales",
    "load",
    "load_split",
    "models",
    "plan",
    "problems",
    "report",
    "save_adam_checkpoint",
    "studies",
    "tangent",
    "tangent_kernel",
    "train",
    "training",
]
