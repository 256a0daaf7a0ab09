"""Compression to files that carry their trust from the start: what is measured against the budget is what ships."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, BudgetTooSmall, CompressedModel, compress, not_among, unlabelled_inputs
from foretrain.data import OperatorDataset
from foretrain.deployment._calibrate import COMPONENTS_TRIED, COVERAGE, QUANTILE, affordable, set_aside, trust_in_chosen
from foretrain.deployment._package import OnnxPackager, Package, with_trust
from foretrain.deployment._trust import ConformalBand, OutOfRange
from foretrain.deployment._trust_record import trust_numbers, trust_record

LARGEST_SHARE = 0.5
"""Of a limit on numbers or bytes, that trust takes at most where it can take less."""


@dataclass(frozen=True)
class TrustPackager:
    """Makes files with a band and an out-of-range score in them, each band around that file's own answers.

    Arguments:
        packager: of the bare files.
        calibration: functions that neither trained nor chose the model; None for no band.
        score: None for none.
        coverage: stated probability of the band.
    """

    packager: OnnxPackager = field(default_factory=OnnxPackager)
    calibration: OperatorDataset | None = None
    score: OutOfRange | None = None
    coverage: float = COVERAGE

    def __call__(
        self,
        network: Any,
        number_format: str,
        calibration_inputs: Float[np.ndarray, "functions sensors"],
        card: Mapping[str, object] | None = None,
    ) -> Package:
        """The network as a file, see `OnnxPackager`."""
        package = self.packager(network, number_format, calibration_inputs, card)
        band = None
        if self.calibration is not None:
            residuals = package.predict(self.calibration.inputs) - self.calibration.outputs
            band = ConformalBand.fit(residuals, self.coverage)
        return with_trust(package, band, self.score)


def compress_with_trust(
    teacher: Any,
    budget: Budget,
    train: OperatorDataset,
    test: OperatorDataset,
    *,
    package: OnnxPackager | None = None,
    coverage: float = COVERAGE,
    quantile: float = QUANTILE,
    unlabelled: Float[np.ndarray, "functions sensors"] | None = None,
    key: int = 0,
    **options: Any,
) -> tuple[CompressedModel, str]:
    """`compress` with the band and the out-of-range score counted from the start, and a line that says what is there.

    Half of the test functions choose the file, the other half calibrate the band, where there are enough (`set_aside`).
    Students get the room that trust leaves. Trust takes at most half of a limit: the score gives up components, then
    itself, then the band goes; and it gives up more where no student would fit otherwise.

    Arguments:
        teacher, budget, train, key: see `compress`; options: passed on.
        package: makes the bare files.
        coverage, quantile: see `calibrated`.
        unlabelled: see `compress`; inputs that are among those of the test functions are left out.

    Raises:
        ForetrainError: see `compress`.
    """
    package = package if package is not None else OnnxPackager()
    judge, calibration = set_aside(test, key)
    known = 0
    if unlabelled is not None:
        given = unlabelled_inputs(unlabelled, train.inputs.shape[1])
        unlabelled = not_among(given, test.inputs)
        known = len(given) - len(unlabelled)
    packagers = _packagers(package, budget, train.inputs, calibration, coverage, quantile)
    for index, packager in enumerate(packagers):
        try:
            small = compress(
                teacher, budget, train, package=packager, test=judge, unlabelled=unlabelled, key=key, **options
            )
            break
        except BudgetTooSmall:
            if index == len(packagers) - 1:
                raise
    small, line = trust_in_chosen(small, train.inputs, calibration, coverage=coverage, quantile=quantile)
    return small, line + f"; {known} unlabelled inputs that are test functions were left out" * bool(known)


def _packagers(
    package: OnnxPackager,
    budget: Budget,
    inputs: np.ndarray,
    calibration: OperatorDataset | None,
    coverage: float,
    quantile: float,
) -> list[TrustPackager]:
    """From as much trust as half of the budget allows down to none."""
    scores: list[OutOfRange | None] = [None]
    # What too few functions cannot give is left out here, and said by `trust_in_chosen`.
    try:
        share = affordable(quantile, len(inputs))
        scores = [*(OutOfRange.fit(inputs, share, components=count) for count in COMPONENTS_TRIED), None]
    except ForetrainError:
        pass
    if calibration is not None:
        try:
            ConformalBand.fit(calibration.outputs, coverage)
        except ForetrainError:
            calibration = None
    levels = [TrustPackager(package, calibration, score, coverage) for score in scores]
    if calibration is not None:
        levels.append(TrustPackager(package, None, None, coverage))
    modest = [level for level in levels if _is_modest(level, budget)]
    return modest or levels[-1:]


def _is_modest(level: TrustPackager, budget: Budget) -> bool:
    band = None if level.calibration is None else ConformalBand.fit(level.calibration.outputs, level.coverage)
    record = trust_record(band, level.score)
    sizes = {"numbers": trust_numbers(record), "bytes": sum(len(key) + len(value) for key, value in record.items())}
    limits = {name: getattr(budget, name) for name in sizes}
    return all(limit is None or sizes[name] <= LARGEST_SHARE * limit for name, limit in limits.items())
