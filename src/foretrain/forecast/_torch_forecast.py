"""The forecast of a torch module's training by gradient methods, with pilots trained in torch."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_extra
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.forecast._cost import Cost
from foretrain.forecast._curves import Forecast
from foretrain.forecast._forecast import FLOW, OF_DRAWN_WEIGHTS, SINGLE_PRECISION, Band, assemble, renamed
from foretrain.forecast._methods import GradientDescent, GradientFlow, Method
from foretrain.forecast._pilot import Basis, at_step, full_batch, log_spaced_steps, scaled_to
from foretrain.forecast._spectral import SpectralCurves, spectral_curves
from foretrain.forecast._stochastic import StochasticDescent, stochastic_curves
from foretrain.forecast._width import WidthDeviation
from foretrain.tangent import TorchKernel, torch_kernel

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray
DRAWN: Basis = "drawn weights"
PILOTS = 4
PILOT_STEPS = 1000


def forecast_torch(
    module: "nn.Module",
    train: OperatorDataset,
    method: Method | None = None,
    steps: int = 10_000,
    test: OperatorDataset | None = None,
    *,
    key: int = 0,
    cost: Cost | None = None,
    tolerance: float = 1e-3,
    max_krylov: int = 160,
    progress: Progress = ignore_progress,
) -> Forecast:
    """Loss and test error of a torch module trained from the weights it has, before its first step.

        r_k = P_k(J S J^T) r_0,      r_0 = (G_0 - s) / scale

    with the kernel of `foretrain.tangent.torch_kernel`, which finds out how the module is called. The counterpart of
    `forecast`: four pilots, the module itself on subsets of the functions, descend in torch; their mean deviation from
    their own forecast corrects the curves, their spread widens the band. The module's weights are not moved.

    Arguments:
        module: a torch.nn.Module, on its own device and in its own precision.
        train, method, steps, test, cost, tolerance, max_krylov: see `forecast`; `method.rates` are by parameter name or
            prefix. Minibatches cost about 120 more applications of the kernel.
        key: of the pilots' subsets and of the noise of minibatches.

    Raises:
        ForetrainError: no step to forecast, or a module that cannot be called or differentiated (see `torch_kernel`).
        MissingExtraError: torch is not installed.

    **Assumption:** the kernel stays near its start while training; the pilots measure how nearly.
    """
    if steps < 1:
        raise ForetrainError(f"expected at least one step to forecast, came {steps}")
    method = method or GradientDescent()
    kernel = torch_kernel(module, train, rates=method.rates)
    eigenvalue_max = kernel.eigenvalue_max(1e-3) * (1 + 1e-3)
    residual = kernel.outputs() - train.outputs / kernel.function.scale
    noise = None
    if isinstance(method, StochasticDescent):
        choices: dict[str, Any] = dict(OF_DRAWN_WEIGHTS)
        noise = stochastic_curves(kernel.apply, residual, method, steps, key=key, progress=progress, **choices)
        stepping: Method = noise.method
    else:
        stepping = method.with_step_size(eigenvalue_max)
    relative = (stepping.step_size or 0.0) * eigenvalue_max
    deviation = _measure_deviation(module, train, method, relative, steps, key, progress)
    curves = _curves(
        module, kernel, residual, stepping, steps, test, tolerance, max_krylov, renamed(progress, "forecasting")
    )
    least = SINGLE_PRECISION + (FLOW if isinstance(stepping, GradientFlow) else 0.0)
    band = Band(deviation, deviation.width, DRAWN, noise, least)
    return assemble(curves, stepping, steps, band, cost or _measure_cost(kernel), None, eigenvalue_max)


def _curves(
    module: "nn.Module",
    kernel: TorchKernel,
    residual: Array,
    method: Method,
    steps: int,
    test: OperatorDataset | None,
    tolerance: float = 1e-3,
    max_krylov: int = 160,
    progress: Progress = ignore_progress,
) -> SpectralCurves:
    """The curves of a kernel, those of the test functions with them."""
    sides: dict[str, Any] = {}
    if test is not None:
        there = torch_kernel(module, test, convention=kernel.convention)
        sides = {
            "test": lambda vector: kernel.apply_to(vector, test.inputs, test.query_points),
            "test_start": there.outputs() * there.function.scale / kernel.function.scale,
            "test_truth": test.outputs / kernel.function.scale,
        }
    return spectral_curves(
        kernel.apply, residual, method, steps, tolerance=tolerance, max_krylov=max_krylov, progress=progress, **sides
    )


def _measure_deviation(
    module: "nn.Module",
    train: OperatorDataset,
    method: Method,
    relative_step: float,
    steps: int,
    key: int,
    progress: Progress,
) -> WidthDeviation:
    """The module itself, trained for real on subsets of the functions; see `measure_width_deviation`."""
    half = min(int(np.clip(len(train) // 20, 32, 64)), len(train) // 2)
    marks, rng, found = log_spaced_steps(min(steps, PILOT_STEPS)), np.random.default_rng(key), []
    pilot = full_batch(method)
    for number in range(PILOTS):
        order = rng.permutation(len(train))
        learn, check = train.take(np.sort(order[:half])), train.take(np.sort(order[half : 2 * half]))
        kernel = torch_kernel(module, learn, rates=method.rates)
        stepping = scaled_to(at_step(pilot, relative_step), kernel.eigenvalue_max(1e-3))
        target = learn.outputs / kernel.function.scale
        curves = _curves(module, kernel, kernel.outputs() - target, stepping, int(marks[-1]), check)
        lower, upper = curves.loss(stepping, marks)
        real = _Descent(kernel, target, stepping).run(marks, check)
        told = np.sqrt(lower) * np.sqrt(upper), curves.test_error(stepping, marks)
        found.append((np.log(real[0] / told[0]), np.log(real[1] / told[1])))
        progress("training pilots", number + 1, PILOTS)
    shift = np.mean(found, axis=0)
    spread = np.std(found, axis=0, ddof=1) * np.sqrt(1 + 1 / PILOTS)
    (loss, error), (loss_shift, error_shift) = ([{DRAWN: part} for part in both] for both in (spread, shift))
    return WidthDeviation(marks.astype(float), loss, error, 1, PILOTS, loss_shift, error_shift)


@dataclass(frozen=True)
class _Descent:
    """Full-batch descent in torch, as `advance` does it in JAX."""

    kernel: TorchKernel
    target: Array
    method: Any

    def run(self, marks: Array, check: OperatorDataset) -> tuple[Array, Array]:
        """Losses and mean relative test errors after each number of steps."""
        kernel, torch = self.kernel, require_extra("torch", "torch")
        weights = {name: value.clone() for name, value in kernel.parameters.items()}
        velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
        ones = {name: np.ones(tuple(value.shape)) for name, value in weights.items()}
        rates = {name: self._tensor(value) for name, value in kernel.step(ones).items()}
        target, others = self._tensor(self.target), self._tensor(check.inputs)
        losses, errors, done = [], [], 0
        for mark in marks:
            for alpha, beta in zip(*self.method.coefficients(np.arange(done, int(mark))), strict=True):
                ahead = float(beta) if self.method.looks_ahead else 0.0
                place = {name: weights[name] + ahead * velocity[name] for name in weights}
                for name, slope in self._gradient(place, target).items():
                    velocity[name] = float(beta) * velocity[name] - float(alpha) * rates[name] * slope
                    weights[name] = weights[name] + velocity[name]
            done = int(mark)
            with torch.no_grad():
                outputs, unseen = (kernel.function(weights, rows, kernel.points) for rows in (kernel.inputs, others))
                losses.append(float(((outputs - target) ** 2).mean()))
            prediction = unseen.to("cpu", torch.float64).numpy() * kernel.function.scale
            errors.append(mean_relative_error(prediction, check.outputs))
        return np.array(losses), np.array(errors)

    def _gradient(self, weights: Mapping[str, "Tensor"], target: "Tensor") -> dict[str, "Tensor"]:
        """That of half the sum of squares."""
        torch = require_extra("torch", "torch")
        place = {name: value.detach().requires_grad_() for name, value in weights.items()}
        half_squares = ((self.kernel.function(place, self.kernel.inputs, self.kernel.points) - target) ** 2).sum() / 2
        slopes = torch.autograd.grad(half_squares, list(place.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(place, slopes, strict=True))

    def _tensor(self, values: Array) -> "Tensor":
        inputs = self.kernel.inputs
        return require_extra("torch", "torch").tensor(values, dtype=inputs.dtype, device=inputs.device)


def _measure_cost(kernel: TorchKernel, repeats: int = 3) -> Cost:
    """A step's time is that of one gradient; its memory what differentiation keeps, and weights, gradients, changes."""
    residual = np.zeros(kernel.shape)
    kernel.pull(residual)
    times = [_seconds(lambda: kernel.pull(residual)) for _ in range(repeats)]
    weights = sum(value.numel() * value.element_size() for value in kernel.parameters.values())
    return Cost(statistics.median(times), len(kernel.inputs) * _kept_bytes(kernel) + 3 * weights)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _kept_bytes(kernel: TorchKernel) -> int:
    """What one more function adds to the values that differentiation keeps, and their gradients: as much again."""
    torch = require_extra("torch", "torch")

    def kept(functions: int) -> int:
        sizes: list[int] = []

        def note(tensor: "Tensor") -> "Tensor":
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        weights = {name: value.detach().requires_grad_() for name, value in kernel.parameters.items()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kernel.function(weights, kernel.inputs[[0] * functions], kernel.points)
        return sum(sizes)

    return max(1, 2 * (kept(3) - kept(2)))
