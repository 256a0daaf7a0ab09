"""Wide to narrow: prune, distil in the two-timescale limit, package within a budget."""

from foretrain.compression._budget import Budget, Candidate, CompressedModel, Package, Packager, Stage
from foretrain.compression._compress import compress
from foretrain.compression._input_model import GaussianInputs
from foretrain.compression._lessons import not_among, unlabelled_inputs
from foretrain.compression._prune import select_neurons
from foretrain.compression._shares import ErrorPart, ErrorShares
from foretrain.compression._width import BudgetTooSmall

__all__ = [
    "Budget",
    "BudgetTooSmall",
    "Candidate",
    "CompressedModel",
    "ErrorPart",
    "ErrorShares",
    "GaussianInputs",
    "Package",
    "Packager",
    "Stage",
    "compress",
    "not_among",
    "select_neurons",
    "unlabelled_inputs",
]
