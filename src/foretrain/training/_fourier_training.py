"""Training a shallow Fourier operator in the two-timescale limit: outer filters solved, inner ones descending."""

import contextlib

import numpy as np
import scipy.optimize

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.models import FilteredBoxOperator, FilteredFourierOperator
from foretrain.training._fourier_descent import Done, FourierDescent, FourierTraining
from foretrain.training._reduced_fourier import OUTER_RIDGE
from foretrain.training._two_timescale_run import TwoTimescale, TwoTimescaleRecord, TwoTimescaleRun, regime


def train_fourier_operator(
    train: OperatorDataset,
    operator: FilteredFourierOperator | FilteredBoxOperator,
    *,
    evaluations: int = 120,
    key: int = 0,
    ridge: float = OUTER_RIDGE,
    held_out: float = 0.0,
    memory: int = 30,
    test: OperatorDataset | None = None,
    record_every: int = 10,
    progress: Progress = ignore_progress,
) -> FourierTraining:
    """Trains filters and biases by L-BFGS, the outer filters always at their optimum.

    This is the limit eps -> 0 of descending with step sizes 1 (outer) and eps (inner): see `ReducedFourierLoss`. With
    functions held out, it stops once their error has fallen by less than 5 % over 50 evaluations, goes back to the
    filters at which it was lowest, and fits the outer filters to all functions, with the ridge best for those held out.

    Arguments:
        train: one regular grid, periodic for a `FilteredFourierOperator`.
        operator: what is trained; `choose_fourier_prior` finds its settings on held-out functions.
        evaluations: how often at most to evaluate the reduced loss and its gradient; repeatable, unlike a time limit.
        key: of the random filters and of the functions held out.
        ridge: of the outer layer, relative to the mean diagonal of its normal equations.
        held_out: share of the training functions that decide when to stop; none of fewer than 20.
        memory: of L-BFGS.
        test: functions to measure the curve on; they decide nothing.
        record_every: evaluations between two points of the curve.

    Raises:
        DataError: if inputs and outputs are not on one regular grid.
        ForetrainError: numbers below one, a ridge that is not positive, or a share outside [0, 1).

    Source: Marion, Berthier (NeurIPS 2023) for the two-timescale limit; Golub, Pereyra (1973) for variable projection.
    """
    if min(evaluations, memory, record_every) < 1:
        raise ForetrainError(
            "expected evaluations, memory and record_every of at least 1, "
            f"came {evaluations}, {memory} and {record_every}"
        )
    if not 0 <= held_out < 1:
        raise ForetrainError(f"held_out: expected a share from 0 to below 1, came {held_out:g}")
    descent = FourierDescent(operator, train, test, evaluations, key, ridge, held_out, record_every, progress)
    start = np.concatenate([np.ravel(descent.network.filters), np.ravel(descent.network.biases)])
    with contextlib.suppress(Done):
        options = {"maxiter": evaluations, "maxfun": evaluations, "maxcor": memory, "ftol": 0.0, "gtol": 0.0}
        scipy.optimize.minimize(descent, start.astype(np.float64), jac=True, method="L-BFGS-B", options=options)
        descent.stopped = f"L-BFGS found nothing lower after {descent.count:,} evaluations"
    return descent.finished()


def two_timescale_run(
    data: OperatorDataset,
    operator: FilteredFourierOperator,
    method: TwoTimescale | None = None,
    *,
    steps: int,
    test: OperatorDataset | None = None,
    key: int = 0,
    progress: Progress = ignore_progress,
) -> TwoTimescaleRun:
    """`train_fourier_operator` as a run of two timescales: the limit, by L-BFGS, which is all this operator takes.

    Arguments:
        method: its ridge and held_out are used; a ridge below 1e-7, the single precision of the features, is raised to
            that, as rounding in the gradient would slow the descent.
        steps: evaluations of the reduced loss at most.

    Raises:
        ForetrainError: a finite ratio, minibatches, another inner method, or outer weights of one's own.
    """
    method = method if method is not None else TwoTimescale()
    if steps < 1:
        raise ForetrainError(f"two timescales: expected at least 1 step, came {steps}")
    if not method.in_limit or method.batch_size is not None or method.inner not in ("auto", "lbfgs"):
        raise ForetrainError(
            "two timescales: expected the limit, the full batch and inner='lbfgs' for a FilteredFourierOperator, came "
            f"ratio={method.ratio!r}, batch_size={method.batch_size} and inner={method.inner!r}; leave them out"
        )
    if method.where is not None:
        raise ForetrainError(
            "two timescales: expected no `where` for a FilteredFourierOperator, came one; leave it out"
        )
    trained = train_fourier_operator(
        data,
        operator,
        evaluations=steps,
        key=key,
        ridge=max(method.ridge, OUTER_RIDGE),
        held_out=method.held_out,
        test=test,
        progress=progress,
    )
    records = tuple(
        TwoTimescaleRecord(
            point.evaluations,
            point.loss,
            None if np.isnan(point.held_out_error) else point.held_out_error,
            None if test is None else point.test_error,
            0.0,
            0.0,
            point.seconds,
        )
        for point in trained.curve
    )
    last = trained.curve[-1]
    held, verdict = regime(records, method)
    error = None if test is None else last.test_error
    return TwoTimescaleRun(trained.network, records, (), True, held, verdict, last.seconds, last.evaluations, error)
