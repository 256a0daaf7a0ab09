"""What ships: the ONNX file, its runtime, its model card, and trust at run time."""

from foretrain.deployment._bench import BATCHES, Speed, bench
from foretrain.deployment._builder import NUMBER_FORMATS, stored_numbers
from foretrain.deployment._calibrate import calibrated, set_aside, trust_in_chosen
from foretrain.deployment._card import model_card, model_card_markdown
from foretrain.deployment._formats import formats_beside, write_formats
from foretrain.deployment._numpy_predictor import write_numpy_predictor
from foretrain.deployment._package import OnnxPackager, Package, with_trust, write_model
from foretrain.deployment._runtime import Latency, Runtime
from foretrain.deployment._ship import TrustPackager, compress_with_trust
from foretrain.deployment._stablehlo import StableHlo, read_stablehlo, write_stablehlo
from foretrain.deployment._trust import ConformalBand, OutOfRange

__all__ = [
    "BATCHES",
    "NUMBER_FORMATS",
    "ConformalBand",
    "Latency",
    "OnnxPackager",
    "OutOfRange",
    "Package",
    "Runtime",
    "Speed",
    "StableHlo",
    "TrustPackager",
    "bench",
    "calibrated",
    "compress_with_trust",
    "formats_beside",
    "model_card",
    "model_card_markdown",
    "read_stablehlo",
    "set_aside",
    "stored_numbers",
    "trust_in_chosen",
    "with_trust",
    "write_formats",
    "write_model",
    "write_numpy_predictor",
    "write_stablehlo",
]
