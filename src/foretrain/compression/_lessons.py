"""What students learn from: training functions, and inputs that the teacher labels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, Progress
from foretrain.compression._input_model import GaussianInputs
from foretrain.compression._stages import StageLog
from foretrain.data import OperatorDataset, mean_relative_error

AT_ONCE = 250


def unlabelled_inputs(inputs: Float[np.ndarray, "functions sensors"], sensors: int) -> np.ndarray:
    """A user's own inputs, grids flattened as in training.

    Raises:
        DataError: if they are not finite real numbers at as many sensors as the training inputs.
    """
    values = np.asarray(inputs)
    if values.ndim < 2 or len(values) == 0 or values.dtype.kind not in "fiub":
        raise DataError(
            f"unlabelled inputs: expected real numbers, one row for each function, [functions, {sensors}], came an "
            f"array of shape {list(values.shape)} and type {values.dtype}"
        )
    values = values.reshape(len(values), -1).astype(np.float64)
    if values.shape[1] != sensors:
        raise DataError(
            f"unlabelled inputs: expected values at {sensors} sensors, came {values.shape[1]}; sample them where the "
            "training inputs were"
        )
    if not np.all(np.isfinite(values)):
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise DataError(
            f"unlabelled inputs: expected finite numbers, came NaN or infinite ones, the first in row {row}; remove "
            "those functions"
        )
    return values


def not_among(inputs: Float[np.ndarray, "functions sensors"], others: Float[np.ndarray, "more sensors"]) -> np.ndarray:
    """Those of the inputs that are none of the others."""
    known = {row.tobytes() for row in np.asarray(others, np.float64)}
    return inputs[[row.tobytes() not in known for row in inputs]]


def lessons_of(
    answer: Callable[[np.ndarray], np.ndarray],
    learn: OperatorDataset,
    unlabelled: Float[np.ndarray, "functions sensors"] | None,
    fresh: int,
    key: int,
    log: StageLog,
    check: OperatorDataset,
    progress: Progress,
) -> OperatorDataset:
    """Training functions with their true outputs, then given and drawn inputs with the teacher's.

    Given inputs that are among those of `check` are left out: a student is to be judged by what it was not taught.

    Raises:
        DataError: unlabelled inputs that do not fit the training inputs, or answers of the teacher that do not fit or
            are not finite.
    """
    started, added, words = log.clock(), [], []
    if unlabelled is not None:
        given = unlabelled_inputs(unlabelled, learn.inputs.shape[1])
        kept = not_among(given, check.inputs)
        less = len(given) - len(kept)
        added.append(kept)
        words.append(f"{len(kept):,} given inputs" + (f" ({less} that judge left out)" if less else ""))
    if fresh or unlabelled is None:
        added.append(GaussianInputs.fit(learn.inputs).draw(fresh, key + 1))
        words.append(f"{fresh:,} fresh inputs")
    inputs = np.concatenate(added)
    # Once before the whole work: a teacher that does not fit says so at once.
    error = mean_relative_error(_checked(answer, check.inputs, learn), check.outputs)
    pieces = []
    for start in range(0, len(inputs), AT_ONCE):
        progress("asking the teacher", start, len(inputs))
        pieces.append(_checked(answer, inputs[start : start + AT_ONCE], learn))
    progress("asking the teacher", len(inputs), len(inputs))
    log.record(f"teacher labels {' and '.join(words)}", error, log.clock() - started)
    outputs = np.concatenate([learn.outputs, *pieces])
    return replace(learn, inputs=np.concatenate([learn.inputs, inputs]), outputs=outputs)


def _checked(answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, learn: OperatorDataset) -> np.ndarray:
    outputs = answer(inputs)
    expected = (len(inputs), learn.outputs.shape[1])
    if outputs.shape != expected:
        raise DataError(
            f"the teacher: expected outputs {list(expected)} from inputs {list(inputs.shape)}, came "
            f"{list(outputs.shape)}"
        )
    if not np.all(np.isfinite(outputs)):
        raise DataError(
            "the teacher: expected finite outputs, came NaN or infinite ones; nothing can be learnt from it"
        )
    return outputs
