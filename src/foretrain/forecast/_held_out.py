"""The test error forecast where there are no test functions: of held-out training functions."""

from dataclasses import replace

from foretrain.forecast._curves import Forecast
from foretrain.forecast._spectral import SpectralCurves


def with_held_out_error(told: Forecast, stand_in: Forecast) -> Forecast:
    """A forecast from all functions with the test error of one that learnt from most and was tested on the rest.

    The stand-in's kernel is smaller by about its share of the functions, and its own step size larger by as much. Its
    curves are put on the scale of the whole, so that the step size of the whole does to them what their own did.
    """
    return replace(
        told,
        test_error=stand_in.test_error,
        test_error_lower=stand_in.test_error_lower,
        test_error_upper=stand_in.test_error_upper,
        best_stopping_step=stand_in.best_stopping_step,
        test_curves=_stretched(stand_in.curves, told.eigenvalue_max / stand_in.eigenvalue_max),
    )


def _stretched(curves: SpectralCurves, factor: float) -> SpectralCurves:
    """The curves of the kernel times a factor: they are the same at a step size smaller by it."""
    basis = replace(
        curves.basis, diagonal=factor * curves.basis.diagonal, off_diagonal=factor * curves.basis.off_diagonal
    )
    side = None if curves.test is None else replace(curves.test, images=factor * curves.test.images)
    return replace(curves, basis=basis, nodes=factor * curves.nodes, test=side)
