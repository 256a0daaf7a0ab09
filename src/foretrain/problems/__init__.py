"""One file per equation: parameters, a trusted solver, a dataset of any size."""

from foretrain.problems._advection import advection
from foretrain.problems._antiderivative import antiderivative
from foretrain.problems._burgers import burgers
from foretrain.problems._cache import cache_file, cached
from foretrain.problems._catalogue import PROBLEMS, Problem, problem
from foretrain.problems._darcy import darcy
from foretrain.problems._heat import heat
from foretrain.problems._helmholtz import helmholtz
from foretrain.problems._navier_stokes import navier_stokes
from foretrain.problems._pendulum import pendulum
from foretrain.problems._poisson import poisson
from foretrain.problems._published import PUBLISHED, PublishedSetup, published
from foretrain.problems._steps import PUBLISHED_STEPS, PiecewiseConstant, random_steps
from foretrain.problems._wave import wave

__all__ = [
    "PROBLEMS",
    "PUBLISHED",
    "PUBLISHED_STEPS",
    "PiecewiseConstant",
    "Problem",
    "PublishedSetup",
    "advection",
    "antiderivative",
    "burgers",
    "cache_file",
    "cached",
    "darcy",
    "heat",
    "helmholtz",
    "navier_stokes",
    "pendulum",
    "poisson",
    "problem",
    "published",
    "random_steps",
    "wave",
]
