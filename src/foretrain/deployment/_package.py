"""A network as one file that can be shipped, with what the file costs."""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError, require_extra, write_atomically
from foretrain.deployment._builder import GraphBuilder, stored_numbers
from foretrain.deployment._card import model_card
from foretrain.deployment._fingerprint import sealed
from foretrain.deployment._graph import network_graph
from foretrain.deployment._quantise import feature_balance, quantise_statically
from foretrain.deployment._query_points import QUERY_GRID, QueryGrid
from foretrain.deployment._runtime import FUNCTIONS_AT_ONCE, Runtime
from foretrain.deployment._trust import ConformalBand, OutOfRange
from foretrain.deployment._trust_record import TRUST_KEYS, trust_record

CALIBRATION_FUNCTIONS = 512
# A float32 file further than this from its network has lost digits to cancellation and is refused.
SINGLE_PRECISION = 1e-3


@dataclass(frozen=True)
class Package:
    """An exported model: one ONNX file, raw physical units in and out.

    Attributes:
        file: content of the ONNX file, model card included.
        number_format: "float32", "float16", "int8" or "int8 weights".
        numbers: how many numbers the file stores, those of `with_trust` included.
        bytes: size of the file.
        latency_seconds: median time of one function on one thread, measured on this machine.
        difference: relative L2 distance from the network's own answers on the calibration inputs; what the number
            format costs.
    """

    file: builtins.bytes = field(repr=False)
    number_format: str
    numbers: int
    bytes: int
    latency_seconds: float
    difference: float

    def predict(self, inputs: Float[np.ndarray, "functions sensors"]) -> Float[np.ndarray, "functions points"]:
        """The file's answers by ONNX Runtime, as `Runtime.predict`."""
        return self.runtime.predict(inputs)

    @cached_property
    def runtime(self) -> Runtime:
        """The file, loaded, on one thread."""
        return Runtime(self.file)


@dataclass(frozen=True)
class OnnxPackager:
    """Turns trained networks into ONNX files; the same arguments give the same bytes.

    Number formats, with their distance from the network on trained students (width 256, 24 modes or components):

    - "float32": rounding, 4e-7.
    - "float16": matrices stored in half precision, arithmetic in float32; 1e-4 to 4e-4 at half the size.
    - "int8 weights": layers stored in eight bits, one scale for each neuron, arithmetic in float32; 0.2 to 1 %.
    - "int8": the inner layer also computed in eight bits (ONNX Runtime's static quantisation, activation ranges from
      the calibration inputs: give some hundreds, a few dozen may double the error on others); 1.2 to 1.6 %.

    Arguments:
        latency_repeats: calls timed for `Package.latency_seconds`.
        query_points: the training query points, to make query points an input of the graph, "points"
            [points, dimension]: answers are then those of the network's output series wherever it is asked. None for
            answers at the training query points only, without such an input.
    """

    latency_repeats: int = 200
    query_points: Float[np.ndarray, "points dimension"] | None = None

    def __call__(
        self,
        network: eqx.Module,
        number_format: str,
        calibration_inputs: Float[np.ndarray, "functions sensors"],
        card: Mapping[str, object] | None = None,
    ) -> Package:
        """The network as a file.

        Arguments:
            network: a `FilteredFourierNetwork`, a `ShallowFourierNetwork` or a `ComponentNetwork`.
            number_format: see the class.
            calibration_inputs: representative inputs in physical units; the first 512 are run through the model.
            card: entries of the model card that only the caller knows, see `model_card`.

        Raises:
            ForetrainError: another network or number format, a float32 file that does not reproduce the network, or
                query points as an input of a network that knows its outputs at the training points only.
            DataError: calibration inputs that are not finite rows of the network's length.
            MissingExtraError: without onnx and onnxruntime.
        """
        onnx = require_extra("onnx", "onnx")
        builder = GraphBuilder(number_format)
        inputs = _calibration(network, calibration_inputs)
        used = inputs[:CALIBRATION_FUNCTIONS]
        eight_bits = number_format.startswith("int8")
        grid = None if self.query_points is None else QueryGrid.of(self.query_points, network)
        model = network_graph(builder, network, feature_balance(network, used) if eight_bits else None, grid)
        if number_format == "int8":
            points = None if grid is None else grid.points()
            model = quantise_statically(model, builder.inner_products, used, points)
        if grid is not None:
            card = {**(card or {}), QUERY_GRID: grid.as_card()}
        onnx.helper.set_model_props(model, model_card(number_format, inputs, card))
        onnx.checker.check_model(model, full_check=True)
        file = sealed(model.SerializeToString())
        runtime = Runtime(file)
        difference = _difference(runtime, network, used)
        if number_format == "float32" and difference > SINGLE_PRECISION:
            raise ForetrainError(
                f"export: expected a file within {SINGLE_PRECISION:g} of its network, came {difference:.2g}: single "
                "precision loses too many digits; shift and scale the data to order one, then train again"
            )
        seconds = runtime.latency(repeats=self.latency_repeats).median
        return Package(file, number_format, stored_numbers(file), len(file), seconds, difference)


def with_trust(
    package: Package,
    band: ConformalBand | None = None,
    out_of_range: OutOfRange | None = None,
) -> Package:
    """The package with these stored in its file, where `Runtime.band` and `Runtime.out_of_range` find them.

    Arguments:
        package: whose size and count of numbers grow by what is stored; what trust it held before is replaced.
        band: around this very file's answers: fitted to residuals of `package.predict` on functions that neither
            trained the model nor chose it. Half precision keeps it, rounded up.
        out_of_range: fitted to the training inputs.

    Raises:
        DataError: a band or a score for another number of points or sensors.
        MissingExtraError: without onnx.
    """
    onnx = require_extra("onnx", "onnx")
    runtime = package.runtime
    for name, own, wanted in (
        ("band: expected half widths at {} query points", band and len(band.half_width), runtime.points),
        ("out-of-range score: expected {} sensors", out_of_range and len(out_of_range.mean), runtime.sensors),
    ):
        if own is not None and own != wanted:
            raise DataError(f"{name.format(wanted)}, came {own}; fit it to this model's functions")
    model = onnx.load_model_from_string(package.file)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in (*TRUST_KEYS, "fingerprint")}
    onnx.helper.set_model_props(model, {**kept, **trust_record(band, out_of_range)})
    file = sealed(model.SerializeToString())
    return replace(package, file=file, numbers=stored_numbers(file), bytes=len(file))


def write_model(package: Package | bytes, path: str | Path) -> Path:
    """Writes an exported model to `path`; the file is whole or absent."""
    content = package.file if isinstance(package, Package) else package
    return write_atomically(path, lambda file: file.write(content))


def _calibration(network: Any, inputs: Any) -> np.ndarray:
    values = np.asarray(inputs, np.float64)
    sensors = len(network.input_mean) if hasattr(network, "input_mean") else None
    sensors = len(network.table) if hasattr(network, "table") else sensors
    if values.ndim != 2 or len(values) == 0 or (sensors and values.shape[1] != sensors):
        raise DataError(
            f"calibration inputs: expected an array [functions, {sensors or 'sensors'}], came {list(values.shape)}; "
            "give inputs like those the model will see"
        )
    if not np.all(np.isfinite(values)):
        raise DataError(
            "calibration inputs: expected finite numbers, came NaN or infinite ones; remove those functions"
        )
    return values


@eqx.filter_jit
def _answers(network: Any, inputs: jax.Array) -> jax.Array:
    answers: jax.Array = network(inputs)
    return answers


def _difference(runtime: Runtime, network: Any, inputs: np.ndarray) -> float:
    batches = [inputs[start : start + FUNCTIONS_AT_ONCE] for start in range(0, len(inputs), FUNCTIONS_AT_ONCE)]
    truth = np.concatenate(
        [np.asarray(_answers(network, jnp.asarray(batch, jnp.float32)), np.float64) for batch in batches]
    )
    size = float(np.linalg.norm(truth))
    return float(np.linalg.norm(runtime.predict(inputs) - truth)) / (size or 1.0)
