"""Trust for an exported model: from functions that neither trained it nor chose it, and within its budget."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError
from foretrain.compression import CompressedModel
from foretrain.data import OperatorDataset, relative_errors
from foretrain.deployment._package import Package, with_trust
from foretrain.deployment._trust import ConformalBand, OutOfRange

COVERAGE, QUANTILE, COMPONENTS = 0.9, 0.99, 8
COMPONENTS_TRIED = (COMPONENTS, 4, 2, 1)
LEAST_QUANTILE = 0.95
# A band over whole functions ranks every second one, and 90 % needs nine to rank.
FEWEST_CALIBRATION_FUNCTIONS = 18
FEWEST_JUDGES = 12


def set_aside(test: OperatorDataset, key: int = 0) -> tuple[OperatorDataset, OperatorDataset | None]:
    """(functions to choose a model by, functions to calibrate its band with): halves of the test functions.

    All are left to choose by, and None to calibrate with, where there are too few for both.
    """
    if len(test) < FEWEST_CALIBRATION_FUNCTIONS + FEWEST_JUDGES:
        return test, None
    return test.split(max(FEWEST_CALIBRATION_FUNCTIONS, len(test) // 2), key + 1)


def calibrated(
    package: Package,
    training_inputs: Float[np.ndarray, "functions sensors"],
    inputs: Float[np.ndarray, "calibration sensors"],
    outputs: Float[np.ndarray, "calibration points"],
    *,
    coverage: float = COVERAGE,
    quantile: float = QUANTILE,
    components: int = COMPONENTS,
) -> Package:
    """The package with a conformal band and an out-of-range score in its file, both in physical units.

    The band is around this very file's answers, rounding to its number format included.

    **Assumption:** the calibration functions took no part in training the model nor in choosing it among others.

    Arguments:
        package: the file.
        training_inputs: what the model was trained on; the score flags what is unlike them.
        inputs, outputs: the calibration functions.
        coverage: stated probability of the band.
        quantile: share of inputs like the training inputs that must not be flagged.
        components: of the score, each stored as half as many bytes as a float32 input.

    Raises:
        ForetrainError: shares outside (0, 1), or more functions needed for them.
        DataError: arrays that are not finite or do not fit the model.
        MissingExtraError: without onnx and onnxruntime.
    """
    band = ConformalBand.fit(package.predict(inputs) - np.asarray(outputs, np.float64), coverage)
    return with_trust(package, band, OutOfRange.fit(training_inputs, quantile, components=components))


def trust_in_chosen(
    small: CompressedModel,
    training_inputs: Float[np.ndarray, "functions sensors"],
    calibration: OperatorDataset | None,
    *,
    coverage: float = COVERAGE,
    quantile: float = QUANTILE,
) -> tuple[CompressedModel, str]:
    """The chosen file with as much trust as its budget leaves room for, and a line that says what that is.

    The out-of-range score gives up components until the file keeps the budget, then itself; the band comes next.

    Trust that the file holds already is replaced.

    Arguments:
        small: of `compress`; without a chosen file it stays as it is.
        training_inputs: see `calibrated`.
        calibration: functions that neither trained nor chose the model, see `set_aside`.
        coverage, quantile: see `calibrated`; the quantile gives way to what the training functions can rank, as far
            as 95 %.
    """
    chosen = small.chosen
    quantile = affordable(quantile, len(training_inputs))
    if chosen is None or not isinstance(chosen.package, Package):
        return small, "trust: nothing was chosen to be shipped"
    package = with_trust(chosen.package)
    missing: list[str] = []
    band: ConformalBand | None = None
    scores: list[OutOfRange | None] = [None]
    try:
        if calibration is None:
            raise ForetrainError(f"too few test functions, at least {FEWEST_CALIBRATION_FUNCTIONS + FEWEST_JUDGES}")
        band = ConformalBand.fit(package.predict(calibration.inputs) - calibration.outputs, coverage)
    except ForetrainError as error:
        missing.append(f"no band ({error})")
    try:
        scores = [*(OutOfRange.fit(training_inputs, quantile, components=count) for count in COMPONENTS_TRIED), None]
    except ForetrainError as error:
        missing.append(f"no out-of-range score ({error})")
    for own_band, score in [(band, score) for score in scores] + [(None, None)]:
        made = with_trust(package, own_band, score)
        # The latency is the graph's, which is as it was.
        if not small.budget.excess(0.0, made.numbers, made.bytes, 0.0):
            break
    if own_band is not band or (score is None and scores[0] is not None):
        missing.append(
            "no room in the budget for " + ("the band" if own_band is not band else "the out-of-range score")
        )
    kept = replace(chosen, package=made, numbers=made.numbers, bytes=made.bytes)
    rows = tuple(kept if candidate is chosen else candidate for candidate in small.candidates)
    return replace(small, candidates=rows), _line(package, made, missing, calibration)


def affordable(quantile: float, functions: int) -> float:
    """The share, or the largest that the functions ranked for the threshold allow, as far as 95 %."""
    ranked = sum(len(range(start, functions, 8)) for start in (2, 4, 6))
    return min(quantile, max(LEAST_QUANTILE, ranked / (ranked + 1)))


def _line(before: Package, after: Package, missing: list[str], calibration: OperatorDataset | None) -> str:
    parts = []
    if after.runtime.band is not None and calibration is not None:
        errors = relative_errors(after.predict(calibration.inputs), calibration.outputs)
        parts.append(
            f"a {100 * after.runtime.band.coverage:g} % band from {after.runtime.band.functions} functions not "
            f"learnt from (mean error {100 * float(np.mean(errors)):.2g} %)"
        )
    if after.runtime.out_of_range is not None:
        parts.append(
            f"a score that flags inputs beyond {100 * after.runtime.out_of_range.quantile:.3g} % of those learnt"
        )
    cost = f"{after.bytes - before.bytes:,} bytes, {after.numbers - before.numbers:,} numbers"
    return "trust in the file: " + "; ".join([*parts, *missing, *([cost] if parts else [])])
