"""The forecast of a training run, from data, model and method."""

from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.forecast._cost import Cost, measure_cost
from foretrain.forecast._curves import Forecast
from foretrain.forecast._kernels import drawn_kernels, limit_kernels, normalised_outputs
from foretrain.forecast._methods import GradientDescent, GradientFlow, Method
from foretrain.forecast._spectral import SpectralCurves, spectral_curves
from foretrain.forecast._width import Basis, WidthDeviation, log_spaced_steps, measure_width_deviation
from foretrain.models import ShallowOperator, draw_network

Array = np.ndarray
SINGLE_PRECISION = 1e-3
"""Half-width that every band has: the network computes in single precision, the forecast in double."""
ROUNDING_FLOOR = 1e-12
"""Mean squared residual that rounding outputs of size one to single precision leaves."""


def forecast(
    train: OperatorDataset,
    model: Any,
    method: Method | None = None,
    steps: int = 10_000,
    test: OperatorDataset | None = None,
    *,
    key: int = 0,
    basis: Basis | None = None,
    deviation: WidthDeviation | None = None,
    cost: Cost | None = None,
    tolerance: float = 1e-3,
    max_krylov: int = 160,
    progress: Progress = ignore_progress,
) -> Forecast:
    """Loss and test error of a training run before its first step.

        r_k = P_k(Theta) r_0,      r_0 = G_0 - z with the outputs G_0 of the weights that `key` draws

    Arguments:
        train: the training data.
        model: its weights are drawn with `key`, exactly as `train` will draw them. Or an Equinox module
            (inputs [functions, sensors], points [points, dimension]) -> outputs [functions, points], as it is.
        method: full-batch gradient descent with step size 1 / (largest eigenvalue) by default.
        steps: how many steps to forecast.
        test: functions whose error to forecast as well.
        basis: the kernel of infinite width (from the data alone, seconds; shallow operators only, and their default) or
            that of the drawn weights (free of the draw's noise, about one training step's cost for each Krylov vector).
        deviation: measured deviation of finite width, for the band; measured here if absent.
        cost: of a step on this machine; measured here if absent.
        tolerance, max_krylov: the Krylov space grows until the bounds of the loss at the last step agree to the first,
            to at most the second many vectors.

    Raises:
        ForetrainError: no step to forecast, no such basis for the model, or step sizes for groups it does not train.

    **Assumption:** the kernel stays near its start while training; the band and the certificate measure how nearly.

    Source: Xu, Li, Huang, arXiv 2412.05545, for the kernel and the worst-case rate; Golub, Meurant (2010) for bounds.
    """
    if steps < 1:
        raise ForetrainError(f"expected at least one step to forecast, came {steps}")
    method = method or GradientDescent()
    shallow = isinstance(model, ShallowOperator)
    basis = basis or ("infinite width" if shallow else "drawn weights")
    if basis == "infinite width" and not shallow:
        raise ForetrainError(
            f"a forecast at infinite width: expected a ShallowOperator, came {type(model).__name__}; use "
            'basis="drawn weights"'
        )
    network = draw_network(model, train, key)
    gram: Any = None
    if shallow:
        gram, test_apply = limit_kernels(model, train, test, method.rates)
    if basis == "drawn weights":
        kernel, test_apply = drawn_kernels(network, train, test, method.rates)
        apply, start = kernel.apply, kernel.outputs().astype(np.float64)
        eigenvalue_max = kernel.eigenvalue_max(1e-3) * (1 + 1e-3)
    else:
        apply, start = gram.apply, normalised_outputs(network, train)
        eigenvalue_max = gram.eigenvalue_max(1e-4)
    stepping: Method = method.with_step_size(eigenvalue_max)
    deviation = deviation or measure_width_deviation(train, model, steps, key, method=method, progress=progress)
    curves = spectral_curves(
        apply,
        start - network.scale.normalise(train.outputs),
        stepping,
        steps,
        tolerance=tolerance,
        max_krylov=max_krylov,
        test=test_apply,
        test_start=normalised_outputs(network, test) if test is not None else None,
        test_truth=network.scale.normalise(test.outputs) if test is not None else None,
        offset=network.scale.offset / network.scale.scale,
        progress=_renamed(progress, f"forecasting ({basis})"),
    )
    proven = gram is not None and isinstance(stepping, GradientDescent | GradientFlow)
    rate = None if not proven else (stepping.step_size or 0.0) * sum(gram.term_eigenvalues_min()) / 2
    cost = cost or measure_cost(model, train)
    return _assemble(
        curves,
        stepping,
        steps,
        model.width if shallow else deviation.width,
        deviation,
        cost,
        rate,
        eigenvalue_max,
        basis,
    )


def _assemble(
    curves: SpectralCurves,
    method: Method,
    steps: int,
    width: int,
    deviation: WidthDeviation,
    cost: Cost,
    rate: float | None,
    eigenvalue_max: float,
    basis: Basis,
) -> Forecast:
    every = np.arange(steps + 1)
    lower, upper = curves.loss(method, every)
    correction = np.exp(deviation.loss_correction(every, width, basis))
    # Where the bounds part, the truth is between them; their geometric mean is the even-handed guess.
    loss = np.sqrt(lower) * np.sqrt(upper) * correction
    stretch = np.exp(SINGLE_PRECISION + deviation.loss_band(every, width, basis))
    test_error = test_lower = test_upper = None
    best = int(np.argmin(loss))
    if curves.has_test:
        marks = log_spaced_steps(steps, per_decade=60)
        test_error = np.exp(np.interp(np.log1p(every), np.log1p(marks), np.log(curves.test_error(method, marks))))
        test_error *= np.exp(deviation.test_error_correction(every, width, basis))
        test_stretch = np.exp(SINGLE_PRECISION + deviation.test_error_band(every, width, basis))
        test_lower, test_upper = test_error / test_stretch, test_error * test_stretch
        best = int(np.argmin(test_error))
    return Forecast(
        loss=loss,
        lower=np.maximum(lower * correction / stretch - ROUNDING_FLOOR, 0),
        upper=upper * correction * stretch + ROUNDING_FLOOR,
        test_error=test_error,
        test_error_lower=test_lower,
        test_error_upper=test_upper,
        worst_case_loss=None if rate is None else loss[0] * np.exp(every * np.log1p(-min(rate, 0.5))),
        worst_case_rate=rate,
        step_size=float(method.step_size or 0.0),
        eigenvalue_max=eigenvalue_max,
        basis=basis,
        best_stopping_step=best,
        cost=cost,
        method=method,
        curves=curves,
        deviation=deviation,
        width=width,
        test_curves=curves if curves.has_test else None,
    )


def _renamed(progress: Progress, stage: str) -> Progress:
    return lambda _, done, total, figures=None: progress(stage, done, total, figures)
