"""Tangent kernels as linear operators: closed forms on grids, matrix-free for drawn networks, Krylov bounds."""

from foretrain.tangent._activations import KNOWN_ACTIVATIONS, Activation, activation
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel, activation_kernels
from foretrain.tangent._circulant import CirculantKernel
from foretrain.tangent._closed_forms import BranchTrunkSettings, Settings, settings_record
from foretrain.tangent._convergence import ConvergenceQuantities, convergence_quantities
from foretrain.tangent._deep import Layers
from foretrain.tangent._empirical import EmpiricalKernel, bytes_per_function, empirical_kernel, functions_at_once
from foretrain.tangent._fourier_kernel import FourierKernel, FourierSettings
from foretrain.tangent._fourier_likelihood import fourier_likelihood
from foretrain.tangent._fourier_limit import fourier_limit
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
from foretrain.tangent._left_out import fit_leaving_out
from foretrain.tangent._likelihood import GridLikelihood, Likelihood, branch_trunk_likelihood, grid_likelihood
from foretrain.tangent._likelihood_ascent import LikelihoodAscent, maximise_likelihood
from foretrain.tangent._limits import limit_kernel, tangent_kernel
from foretrain.tangent._parallel import ParallelPair, nearest_to_parallel
from foretrain.tangent._ragged import RaggedSolution, fit_masked, fit_ragged
from foretrain.tangent._ragged_kernel import RaggedKernel, ragged_kernel
from foretrain.tangent._receptive_fields import ReceptiveFields
from foretrain.tangent._ridge import RidgeSolution, solve_with_ridge
from foretrain.tangent._selection import Candidate, Step
from foretrain.tangent._symmetric_grid import SymmetricGridKernel
from foretrain.tangent._symmetric_kernel import SymmetricBranchTrunkKernel
from foretrain.tangent._symmetry import Symmetry, SymmetryGroup, grid_symmetries
from foretrain.tangent._torch import TorchKernel, torch_kernel
from foretrain.tangent._torch_module import ModuleFunction, find_convention

__all__ = [
    "KNOWN_ACTIVATIONS",
    "Activation",
    "BranchTrunkKernel",
    "BranchTrunkSettings",
    "Candidate",
    "CirculantKernel",
    "ConvergenceQuantities",
    "EigenPair",
    "EmpiricalKernel",
    "FormReport",
    "FourierKernel",
    "FourierSettings",
    "GridKernel",
    "GridLikelihood",
    "InfiniteWidthOperator",
    "KrylovBasis",
    "Layers",
    "Likelihood",
    "LikelihoodAscent",
    "ModuleFunction",
    "ParallelPair",
    "Quadrature",
    "RaggedKernel",
    "RaggedSolution",
    "ReceptiveFields",
    "RidgeSolution",
    "Settings",
    "Solution",
    "Step",
    "SymmetricBranchTrunkKernel",
    "SymmetricGridKernel",
    "Symmetry",
    "SymmetryGroup",
    "Term",
    "TorchKernel",
    "activation",
    "activation_kernels",
    "branch_trunk_likelihood",
    "bytes_per_function",
    "convergence_quantities",
    "empirical_kernel",
    "extend",
    "find_convention",
    "fit_leaving_out",
    "fit_masked",
    "fit_ragged",
    "fourier_likelihood",
    "fourier_limit",
    "functions_at_once",
    "gauss_radau_rule",
    "gauss_rule",
    "grid_likelihood",
    "grid_symmetries",
    "integrate_bounds",
    "lanczos",
    "lanczos_until",
    "largest_eigenvalue",
    "limit_kernel",
    "maximise_likelihood",
    "nearest_to_parallel",
    "ragged_kernel",
    "settings_record",
    "solve_with_ridge",
    "tangent_kernel",
    "torch_kernel",
]
