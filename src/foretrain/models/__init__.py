"""What is trained: one file for each model."""

from foretrain.models._activations import ACTIVATION_FUNCTIONS, activation_function
from foretrain.models._component_network import ComponentNetwork, ComponentOperator
from foretrain.models._deeponet import DeepONet, DeepONetNetwork
from foretrain.models._filtered_box import FilteredBoxNetwork, FilteredBoxOperator
from foretrain.models._filtered_fourier import FilteredFourierNetwork, FilteredFourierOperator
from foretrain.models._fno import FNO, FNONetwork
from foretrain.models._layered_operator import Ends, LayeredNetwork, LayeredOperator, boundary_nodes
from foretrain.models._mlp import MLP, MLPNetwork
from foretrain.models._operator_network import (
    GivenNetwork,
    ModuleNetwork,
    OperatorModel,
    OperatorNetwork,
    draw_network,
    group_of,
    group_rates,
    weight_groups,
)
from foretrain.models._shallow_fourier import ShallowFourierNetwork, ShallowFourierOperator, half_space_modes
from foretrain.models._shallow_operator import ShallowOperator, ShallowOperatorNetwork
from foretrain.models._step_network import StepNetwork

__all__ = [
    "ACTIVATION_FUNCTIONS",
    "FNO",
    "MLP",
    "ComponentNetwork",
    "ComponentOperator",
    "DeepONet",
    "DeepONetNetwork",
    "Ends",
    "FNONetwork",
    "FilteredBoxNetwork",
    "FilteredBoxOperator",
    "FilteredFourierNetwork",
    "FilteredFourierOperator",
    "GivenNetwork",
    "LayeredNetwork",
    "LayeredOperator",
    "MLPNetwork",
    "ModuleNetwork",
    "OperatorModel",
    "OperatorNetwork",
    "ShallowFourierNetwork",
    "ShallowFourierOperator",
    "ShallowOperator",
    "ShallowOperatorNetwork",
    "StepNetwork",
    "activation_function",
    "boundary_nodes",
    "draw_network",
    "group_of",
    "group_rates",
    "half_space_modes",
    "weight_groups",
]
