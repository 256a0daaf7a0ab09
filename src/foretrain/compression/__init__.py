"""Wide to narrow: prune, distil in the two-timescale limit, package within a budget."""

from foretrain.compression._budget import Budget, Candidate, CompressedModel, Package, Packager, Stage
from foretrain.compression._compress import compress
from foretrain.compression._input_model import GaussianInputs
from foretrain.compression._prune import select_neurons

__all__ = [
    "Budget",
    "Candidate",
    "CompressedModel",
    "GaussianInputs",
    "Package",
    "Packager",
    "Stage",
    "compress",
    "select_neurons",
]
