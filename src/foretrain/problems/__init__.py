"""One file per equation: parameters, a trusted solver, a dataset of any size."""

from foretrain.problems._advection import advection
from foretrain.problems._antiderivative import antiderivative
from foretrain.problems._burgers import burgers
from foretrain.problems._darcy import darcy
from foretrain.problems._heat import heat
from foretrain.problems._steps import PUBLISHED_STEPS, PiecewiseConstant, random_steps

__all__ = [
    "PUBLISHED_STEPS",
    "PiecewiseConstant",
    "advection",
    "antiderivative",
    "burgers",
    "darcy",
    "heat",
    "random_steps",
]
