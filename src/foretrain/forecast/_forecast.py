"""The forecast of a training run, from data, model and method."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.forecast._cost import Cost, measure_cost
from foretrain.forecast._curves import Forecast
from foretrain.forecast._kernels import drawn_kernels, has_limit, limit_kernels, normalised_outputs
from foretrain.forecast._methods import GradientDescent, GradientFlow, Method
from foretrain.forecast._pilot import Basis, log_spaced_steps
from foretrain.forecast._spectral import SpectralCurves, spectral_curves
from foretrain.forecast._stochastic import StochasticCurves, StochasticDescent, stochastic_curves
from foretrain.forecast._width import WidthDeviation, measure_width_deviation
from foretrain.models import ShallowOperator, draw_network

Array = np.ndarray
SINGLE_PRECISION = 1e-3
"""Half-width that every band has: the network computes in single precision, the forecast in double."""
FLOW = 5e-3
"""What the solver of gradient flow adds to that half-width."""
ROUNDING_FLOOR = 1e-12
"""Mean squared residual that rounding outputs of size one to single precision leaves."""
TINY = 1e-300
OF_DRAWN_WEIGHTS: dict[str, int] = {"draws": 2, "marks": 2, "groups": 3, "krylov": 10}
"""Settings of the noise of minibatches where every application of the kernel is dear: about 120 of them."""


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
    limited = has_limit(model)
    basis = basis or ("infinite width" if limited else "drawn weights")
    if basis == "infinite width" and not limited:
        raise ForetrainError(
            f"a forecast at infinite width: expected a shallow operator, came {type(model).__name__}; use "
            'basis="drawn weights"'
        )
    network = draw_network(model, train, key)
    gram: Any = None
    limit_test = None
    if limited:
        gram, limit_test = limit_kernels(model, train, test, method.rates)
        test_apply = limit_test
    if basis == "drawn weights":
        kernel, test_apply = drawn_kernels(network, train, test, method.rates)
        apply, start = kernel.apply, kernel.outputs().astype(np.float64)
        eigenvalue_max = kernel.eigenvalue_max(1e-3) * (1 + 1e-3)
    else:
        apply, start = gram.apply, normalised_outputs(network, train)
        eigenvalue_max = gram.eigenvalue_max(1e-4)
    residual = start - network.scale.normalise(train.outputs)
    noise: StochasticCurves | None = None
    stepping: Method
    if isinstance(method, StochasticDescent):
        # The noise of batches is a correction, for which the kernel of infinite width is near enough.
        sides = (apply, None) if gram is None else (gram.apply, limit_test)
        settings = OF_DRAWN_WEIGHTS if gram is None else {}
        noise = stochastic_curves(
            sides[0], residual, method, steps, key=key, test=sides[1], progress=progress, **settings
        )
        stepping = noise.method
    else:
        stepping = method.with_step_size(eigenvalue_max)
    relative = (stepping.step_size or 0.0) * eigenvalue_max
    deviation = deviation or measure_width_deviation(
        train,
        model,
        steps,
        key,
        method=method,
        relative_step=relative,
        draws="own" if basis == "drawn weights" else "fresh",
        bases=(basis,),
        test=test,
        progress=progress,
    )
    curves = spectral_curves(
        apply,
        residual,
        stepping,
        steps,
        tolerance=tolerance,
        max_krylov=max_krylov,
        test=test_apply,
        test_start=normalised_outputs(network, test) if test is not None else None,
        test_truth=network.scale.normalise(test.outputs) if test is not None else None,
        offset=network.scale.offset / network.scale.scale,
        progress=renamed(progress, f"forecasting ({basis})"),
    )
    proven = isinstance(model, ShallowOperator) and isinstance(stepping, GradientDescent | GradientFlow)
    rate = None if not proven else (stepping.step_size or 0.0) * sum(gram.term_eigenvalues_min()) / 2
    cost = cost or measure_cost(model, train)
    least = SINGLE_PRECISION + (FLOW if isinstance(stepping, GradientFlow) else 0.0)
    band = Band(deviation, model.width if limited else deviation.width, basis, noise, least)
    return assemble(curves, stepping, steps, band, cost, rate, eigenvalue_max)


@dataclass(frozen=True)
class Band:
    """What curves of the linear regime are corrected by, and how far they may be off, in logarithms."""

    deviation: WidthDeviation
    width: int
    basis: Basis
    noise: StochasticCurves | None
    least: float

    def loss(self, steps: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
        """Correction, and what the band adds below and above, of the loss between two bounds."""
        correction = self.deviation.loss_correction(steps, self.width, self.basis)
        half = self.least + self.deviation.loss_band(steps, self.width, self.basis)
        if self.noise is None:
            return correction, half, half
        mean, low, high = self.noise.loss(steps)
        with np.errstate(divide="ignore"):
            below, above = np.log(mean / np.maximum(low, TINY)), np.log(np.maximum(high, TINY) / mean)
            # The noise may come from the kernel of infinite width: its own mean dynamics is left out.
            added = np.log1p(self.noise.added(steps) / np.maximum(np.sqrt(lower) * np.sqrt(upper), TINY))
        return correction + added, np.hypot(half, below), np.hypot(half, above)

    def test_error(self, steps: Array, errors: Array, sizes: Array | None) -> tuple[Array, Array]:
        """Correction and half-width of the band; `sizes` of the test functions, to compare the noise with."""
        correction = self.deviation.test_error_correction(steps, self.width, self.basis)
        half = self.least + self.deviation.test_error_band(steps, self.width, self.basis)
        if self.noise is not None and sizes is not None and self.noise.test_grid_noise is not None:
            added = np.mean(np.sqrt(self.noise.test_noise(steps)) / sizes, axis=1)
            correction = correction + np.log(np.hypot(errors, added) / errors)
        if self.noise is not None:
            # Test errors go like roots of losses, and share the batches that move them.
            mean, low, high = self.noise.loss(steps)
            half = np.hypot(half, np.log(np.maximum(high, TINY) / np.maximum(low, TINY * mean)) / 4)
        return correction, half


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def assemble(
    curves: SpectralCurves,
    method: Method,
    steps: int,
    band: Band,
    cost: Cost,
    rate: float | None,
    eigenvalue_max: float,
) -> Forecast:
    every = np.arange(steps + 1)
    lower, upper = curves.loss(method, every)
    correction, below, above = band.loss(every, lower, upper)
    # Where the bounds part, the truth is between them; their geometric mean is the even-handed guess.
    loss = np.sqrt(lower) * np.sqrt(upper) * np.exp(correction)
    test_error = test_lower = test_upper = None
    test_correction = np.zeros(steps + 1)
    best = int(np.argmin(loss))
    if curves.test is not None:
        marks = log_spaced_steps(steps, per_decade=60)
        errors = curves.test_error(method, marks)
        sizes = np.linalg.norm(curves.test.truth + curves.test.offset, axis=1)
        shift, half = band.test_error(marks, errors, sizes)
        test_correction, half = (np.interp(np.log1p(every), np.log1p(marks), part) for part in (shift, half))
        test_error = np.exp(np.interp(np.log1p(every), np.log1p(marks), np.log(errors)) + test_correction)
        test_lower, test_upper = test_error * np.exp(-half), test_error * np.exp(half)
        best = int(np.argmin(test_error))
    # Beyond the limit of stability the curves leave all numbers.
    loss = np.nan_to_num(loss, nan=np.inf, posinf=np.inf)
    return Forecast(
        loss=loss,
        lower=np.maximum(lower * np.exp(correction - below) - ROUNDING_FLOOR, 0),
        upper=upper * np.exp(correction + above) + ROUNDING_FLOOR,
        test_error=test_error,
        test_error_lower=test_lower,
        test_error_upper=test_upper,
        worst_case_loss=None if rate is None else loss[0] * np.exp(every * np.log1p(-min(rate, 0.5))),
        worst_case_rate=rate,
        step_size=float(method.step_size or 0.0),
        eigenvalue_max=eigenvalue_max,
        basis=band.basis,
        best_stopping_step=best,
        cost=cost,
        method=method,
        curves=curves,
        loss_correction=correction,
        test_correction=test_correction,
        test_curves=curves if curves.has_test else None,
    )


def renamed(progress: Progress, stage: str) -> Progress:
    return lambda _, done, total, figures=None: progress(stage, done, total, figures)
