"""Tangent kernels as linear operators: closed forms on grids, matrix-free for drawn networks, Krylov bounds."""

from foretrain.tangent._activations import KNOWN_ACTIVATIONS, Activation, activation
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel, activation_kernels
from foretrain.tangent._circulant import CirculantKernel
from foretrain.tangent._closed_forms import BranchTrunkSettings, Settings
from foretrain.tangent._empirical import EmpiricalKernel, empirical_kernel
from foretrain.tangent._fourier_kernel import FourierKernel, FourierSettings
from foretrain.tangent._grid import GridKernel, Solution, Term
from foretrain.tangent._infinite_width import FormReport, InfiniteWidthOperator
from foretrain.tangent._krylov import (
    EigenPair,
    KrylovBasis,
    Quadrature,
    extend,
    gauss_radau_rule,
    gauss_rule,
    integrate_bounds,
    lanczos,
    lanczos_until,
    largest_eigenvalue,
)
from foretrain.tangent._limits import limit_kernel, tangent_kernel
from foretrain.tangent._selection import Candidate

__all__ = [
    "KNOWN_ACTIVATIONS",
    "Activation",
    "BranchTrunkKernel",
    "BranchTrunkSettings",
    "Candidate",
    "CirculantKernel",
    "EigenPair",
    "EmpiricalKernel",
    "FormReport",
    "FourierKernel",
    "FourierSettings",
    "GridKernel",
    "InfiniteWidthOperator",
    "KrylovBasis",
    "Quadrature",
    "Settings",
    "Solution",
    "Term",
    "activation",
    "activation_kernels",
    "empirical_kernel",
    "extend",
    "gauss_radau_rule",
    "gauss_rule",
    "integrate_bounds",
    "lanczos",
    "lanczos_until",
    "largest_eigenvalue",
    "limit_kernel",
    "tangent_kernel",
]
