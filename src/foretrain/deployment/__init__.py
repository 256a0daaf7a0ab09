"""What ships: the ONNX file, its runtime, its model card, and trust at run time."""

from foretrain.deployment._builder import NUMBER_FORMATS, stored_numbers
from foretrain.deployment._card import model_card, model_card_markdown
from foretrain.deployment._package import OnnxPackager, Package, write_model
from foretrain.deployment._runtime import Latency, Runtime
from foretrain.deployment._trust import ConformalBand, OutOfRange

__all__ = [
    "NUMBER_FORMATS",
    "ConformalBand",
    "Latency",
    "OnnxPackager",
    "OutOfRange",
    "Package",
    "Runtime",
    "model_card",
    "model_card_markdown",
    "stored_numbers",
    "write_model",
]
