"""What a closed form says of functions it has not learnt from, out of the one solution on all of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from foretrain._foundation import Progress, double_precision, gather, ignore_progress, padded, spread
from foretrain.data import OperatorDataset, OutputScale, PeriodicGrid, resample
from foretrain.tangent._circulant import CirculantKernel
from foretrain.tangent._factor import cholesky
from foretrain.tangent._fourier_kernel import FourierKernel, FourierSettings
from foretrain.tangent._fourier_solution import FourierSolution
from foretrain.tangent._infinite_width import InfiniteWidthOperator, _required_grid, solve_closed_form

Array = np.ndarray


class _Solved(NamedTuple):
    coefficients: Array
    mistakes: Array
    jitter: float
    relative_residual: float


def fit_leaving_out(
    operator: InfiniteWidthOperator, train: OperatorDataset, rows: Int[Array, " left_out"]
) -> tuple[InfiniteWidthOperator, Float[Array, "left_out points"]]:
    """The operator fitted to all functions, and what it says of some of them if it learns from the others alone.

    With alpha = Theta^{-1} Z on all functions, leaving out those of the index set H changes what is said of them by

        z_H - G_{-H}(u_H) = [ (Theta^{-1})_HH ]^{-1} alpha_H,

    so the Fourier form is solved once. The branch-trunk form, whose solution is cheap, is solved a second time without
    them. Settings are those chosen for all functions, and so are the scales of inputs and outputs.

    Arguments:
        operator: its arguments are used; it is not changed itself.
        rows: of the functions left out.

    Raises:
        DataError, ForetrainError: as `InfiniteWidthOperator.fit`.

    Source: Rasmussen, Williams (2006), section 5.4.2, for one function; the Schur complement gives the rest.
    """
    fitted = InfiniteWidthOperator(**operator.get_params())
    reports = fitted.choose(train) if fitted.settings is None else ()
    best = min(reports, key=lambda report: report.held_out_error) if reports else None
    settings = best.settings if best else fitted.settings
    if not isinstance(settings, FourierSettings):
        rest = np.setdiff1d(np.arange(len(train)), rows)
        alone = solve_closed_form(train.take(rest), settings, fitted.progress)  # type: ignore[arg-type]
        fitted = InfiniteWidthOperator(**{**operator.get_params(), "settings": settings}).fit(train)
        fitted.settings, fitted.reports_ = operator.settings, reports
        return fitted, alone.predict(train.inputs[rows], None)
    fitted.solution_, said = solve_leaving_out(train, settings, rows, _required_grid(train), fitted.progress)
    fitted.reports_, fitted.settings_, fitted.form_ = reports, settings, "fourier"
    fitted.relative_residual_, fitted.jitter_ = fitted.solution_.relative_residual, fitted.solution_.jitter
    return fitted, said


def solve_leaving_out(
    train: OperatorDataset,
    settings: FourierSettings,
    rows: Int[Array, " left_out"],
    grid_shape: tuple[int, ...],
    progress: Progress = ignore_progress,
) -> tuple[FourierSolution, Float[Array, "left_out points"]]:
    """The Fourier form solved on all functions, and what it says of some without them, in physical units."""
    scale = OutputScale.of(train.outputs)
    if settings.reflection < 0:
        # As in `FourierSolution.solve`: only zero commutes with an odd reflection.
        scale = OutputScale(0.0, scale.scale)
    grid = PeriodicGrid.of(train, grid_shape)
    coarse = settings.resolution or grid.shape
    inputs, outputs = (resample(grid.own(values), grid.shape, coarse) for values in (train.inputs, train.outputs))
    kernel = FourierKernel.for_inputs(settings, inputs, coarse)
    functions = kernel.filter(inputs)
    gram = kernel.gram(functions, progress)
    solved = _solve(gram, scale.normalise(outputs), np.asarray(rows), progress)
    jitter = solved.jitter, 0.0
    solution = FourierSolution(
        kernel, functions, solved.coefficients, train, scale, solved.relative_residual, jitter, grid
    )
    said = resample(outputs[rows] - scale.scale * solved.mistakes, coarse, grid.shape)
    return solution, grid.all_listed(said)


@double_precision
def _solve(gram: CirculantKernel, target: Array, rows: Array, progress: Progress) -> _Solved:
    right, jitter, functions = gram.transform(target), 0.0, gram.shape[0]
    coefficients = np.empty_like(right)
    mistakes = np.empty((len(right), len(rows)), right.dtype)
    for frequencies, matrices in gram._systems():
        progress("solving frequency by frequency", int(frequencies[0]), len(right))
        size = matrices.shape[-1]
        factor = cholesky(matrices, f"frequencies {frequencies[0]} to {frequencies[-1]}")
        jitter = max(jitter, factor.jitter)
        # Where real and imaginary parts are unknowns of their own, a function is left out with both.
        unknowns = np.concatenate([rows, functions + rows]) if size == 2 * functions else rows
        packed = spread(padded(gram._pack(right[frequencies], size), 0))
        answers, errors = _answers_and_errors(factor.lower, packed, jnp.asarray(unknowns))
        coefficients[frequencies] = gram._unpack(gather(answers)[: len(frequencies)])
        found = gather(errors)[: len(frequencies)]
        paired = size == 2 * functions
        mistakes[frequencies] = found[:, : len(rows)] + 1j * found[:, len(rows) :] if paired else found
    progress("solving frequency by frequency", len(right), len(right))
    value = gram.inverse_transform(coefficients)
    mismatch = float(np.linalg.norm(gram.apply(value) - target) / (np.linalg.norm(target) or 1.0))
    return _Solved(gram.transform(value), gram.inverse_transform(mistakes), jitter, mismatch)


@jax.jit
def _answers_and_errors(lower: jax.Array, right: jax.Array, unknowns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A^{-1} b and [(A^{-1})_HH]^{-1} (A^{-1} b)_H for a stack of A = L L*."""
    answers = jax.scipy.linalg.cho_solve((lower, True), right[..., None])[..., 0]
    unit = jnp.eye(lower.shape[-1], dtype=lower.dtype)[:, unknowns]
    unit = jnp.broadcast_to(unit, (len(lower), *unit.shape))
    whitened = jax.lax.linalg.triangular_solve(lower, unit, left_side=True, lower=True)
    block = jnp.conj(whitened).mT @ whitened
    return answers, jnp.linalg.solve(block, answers[:, unknowns][..., None])[..., 0]
