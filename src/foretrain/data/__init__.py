"""Functions measured at points: datasets, files, grids, scaling and embeddings."""

from foretrain.data._dataset import OperatorDataset, mean_relative_error, relative_errors
from foretrain.data._embedding import Embedding, InputPrior, OutputScale, RawValues, choose_embedding
from foretrain.data._grids import common_grid_shape, periodic_grid_shape, regular_grid_shape
from foretrain.data._npz import load, load_split, read_npz, save_dataset

__all__ = [
    "Embedding",
    "InputPrior",
    "OperatorDataset",
    "OutputScale",
    "RawValues",
    "choose_embedding",
    "common_grid_shape",
    "load",
    "load_split",
    "mean_relative_error",
    "periodic_grid_shape",
    "read_npz",
    "regular_grid_shape",
    "relative_errors",
    "save_dataset",
]
