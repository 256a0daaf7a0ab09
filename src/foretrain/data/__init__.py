"""Functions measured at points: datasets, files, grids, scaling and embeddings."""

from foretrain.data._dataset import OperatorDataset, mean_relative_error, relative_errors
from foretrain.data._embedding import Embedding, InputPrior, OutputScale, RawValues, choose_embedding
from foretrain.data._files import OpenFunctions, load, load_parts, load_split, open_functions
from foretrain.data._grids import common_grid_shape, periodic_grid_shape, regular_grid_shape
from foretrain.data._layout import FileLayout
from foretrain.data._npz import read_npz
from foretrain.data._resampling import PeriodicGrid, resample, sufficient_resolution
from foretrain.data._save import check_suffix, save_dataset
from foretrain.data._spectrum import PowerSpectrum, power_spectrum
from foretrain.data._survey import Survey, layout_of, survey

__all__ = [
    "Embedding",
    "FileLayout",
    "InputPrior",
    "OpenFunctions",
    "OperatorDataset",
    "OutputScale",
    "PeriodicGrid",
    "PowerSpectrum",
    "RawValues",
    "Survey",
    "check_suffix",
    "choose_embedding",
    "common_grid_shape",
    "layout_of",
    "load",
    "load_parts",
    "load_split",
    "mean_relative_error",
    "open_functions",
    "periodic_grid_shape",
    "power_spectrum",
    "read_npz",
    "regular_grid_shape",
    "relative_errors",
    "resample",
    "save_dataset",
    "sufficient_resolution",
    "survey",
]
