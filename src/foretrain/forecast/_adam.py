"""Adam and AdamW from a checkpoint: the loss to come, as far as it can be foretold."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike, Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.forecast._adam_relay import Relay, TestFunctions
from foretrain.forecast._adam_stage import AdamSettings, Moments
from foretrain.tangent import EmpiricalKernel

Array = np.ndarray
UNEXPLAINED = 0.1
"""Half-width, at twice the checkpoint's step, of what no measurement before the run shows: a tenth at benchmarks."""
ROUNDING = 1e-3
"""Half-width that every band has: networks compute in single precision."""
FIRST_STAGE = 50


@dataclass(frozen=True)
class AdamForecast:
    """How Adam goes on from a checkpoint; step 0 is the checkpoint.

    Attributes:
        loss: forecast mean squared residual after k steps.
        lower, upper: its band: an estimate from what was measured on the way (see `forecast_adam`).
        horizon: the last step at which the real network, at the foretold weights, still has about the forecast loss.
        marks: the steps at which the real network was asked.
        measured: its mean squared residual there.
        test_error: mean relative L2 error forecast at `marks`, or None without test functions.
        stages: how many times the network was linearised anew.
        applications: of the kernel, each about as dear as two gradients on the kernel's functions.
        curvature: of the preconditioned Hessian at the checkpoint over the largest stable one; about 1 is the edge of
            stability, where large learning rates take training.
        drift: by how much the preconditioner is expected to change until the last step, as a logarithm.
    """

    loss: Float[Array, " steps+1"]
    lower: Float[Array, " steps+1"]
    upper: Float[Array, " steps+1"]
    horizon: int
    marks: Float[Array, " marks"]
    measured: Float[Array, " marks"]
    test_error: Float[Array, " marks"] | None
    stages: int
    applications: int
    curvature: float
    drift: float

    @property
    def steps(self) -> int:
        """How many steps the curves cover."""
        return len(self.loss) - 1


def forecast_adam(
    kernel: EmpiricalKernel,
    target: Float[ArrayLike, "functions points"],
    moments: Moments,
    settings: AdamSettings,
    steps: int,
    *,
    loss_scale: float = 1.0,
    full_batch: bool = True,
    noise: float = 0.0,
    test: TestFunctions | None = None,
    applications: int = 150,
    relinearise: bool = True,
    stage_tolerance: float = 0.04,
    tolerance: float = 0.2,
    progress: Progress = ignore_progress,
) -> AdamForecast:
    """The loss of Adam or AdamW over the next steps, from the weights and moments it has now.

        r_{k+1} = r_k + J (w_{k+1} - w_k),   w_{k+1} = (1 - rate_k decay) w_k - rate_k P^-1 m_{k+1} / (1 - b1^k),
        m_{k+1} = b1 m_k + (1 - b1) J^T r_k 2 loss_scale / rows,     P = sqrt(v + eps_root) + eps held fixed

    iterated in the Krylov space of J P^-1 J^T. The forecast knows the weights it foretells. Where the real network at
    those weights departs from the linear forecast, it is linearised anew (a relay of forecasts, without training),
    until `applications` are spent; the rest is one linear forecast. At each renewal the second moment is what the
    foretold gradients make of it; at the edge of stability and with minibatches it is kept, as oscillation or noise
    feeds it.

    The band adds: the departure of the real network from the linear forecast, which contains what the Krylov space
    leaves out; the change of the preconditioner, as a stretch of time; and `noise`. It is an estimate, not a bound.

    Cost: about two gradients on the kernel's functions for each application, and a dozen for each stage.

    Arguments:
        kernel: of the network as it is now; its `rates` are set here. Some of the functions suffice for large data:
            the forecast is then that of their loss.
        target: what its outputs should be, [functions, points].
        moments: Adam's, see `adam_state`.
        settings: of the optimiser.
        steps: how many to forecast.
        loss_scale: the loss trained is this times the mean squared residual.
        full_batch: whether every step sees all functions.
        noise: half-width of the logarithm of the loss from step to step, added to the band.
        test: functions whose error to forecast as well.
        applications: of the kernel to spend, the cost of the forecast.
        relinearise: whether to spend them on a relay, or on one linear forecast.
        stage_tolerance: departure, as a logarithm of the loss, at which the network is linearised anew.
        tolerance: departure that ends the horizon.

    Raises:
        ForetrainError: no step to forecast, no application, or a target of another shape.

    **Assumption:** the loss is a multiple of the mean squared error, and all weights of the kernel are trained alike.
    Minibatches are followed in the mean. Not covered: gradient clipping, and other transformations beside Adam.

    Source: Cohen et al., arXiv 2207.14484, for the edge of stability of Adam.
    """
    wanted = np.asarray(target, np.float64)
    if steps < 1 or applications < 4:
        raise ForetrainError(f"a forecast: expected a step and 4 applications or more, came {steps}, {applications}")
    if wanted.shape != kernel.shape:
        raise ForetrainError(f"a forecast: expected a target of shape {kernel.shape}, came {wanted.shape}")
    relay = Relay(kernel, wanted, moments, settings, loss_scale, full_batch, test)
    length = FIRST_STAGE
    while relay.position < steps:
        left, remaining = applications - relay.applications, steps - relay.position
        progress("forecasting Adam", relay.position, steps, {"loss": relay.loss[-1]})
        if not relinearise or length >= remaining or left < 2 * max(relay.largest_space, 8):
            relay.finish(_tail_marks(remaining), max(left, 4))
        else:
            marks = tuple(sorted({max(length // 4, 1), max(length // 2, 1), length}))
            taken = relay.advance(marks, left // 2, stage_tolerance)
            relinearise, length = taken > 0, 2 * taken if taken == length else taken
            if relinearise:
                relay.look_ahead(min(length, steps - relay.position) // 2)
    progress("forecasting Adam", steps, steps, {"loss": relay.loss[-1]})
    return _assembled(relay, noise, tolerance, moments.count)


def _tail_marks(steps: int) -> tuple[int, ...]:
    """A few steps, evenly spread in the logarithm."""
    spread = np.geomspace(min(steps, FIRST_STAGE), steps, 1 + math.ceil(2 * math.log2(max(steps / FIRST_STAGE, 1))))
    return tuple(int(mark) for mark in np.unique(np.round(np.append(spread, steps))))


def _assembled(relay: Relay, noise: float, tolerance: float, count: int) -> AdamForecast:
    """The curves with their band, and the horizon."""
    loss, every = np.asarray(relay.loss), np.arange(len(relay.loss))
    departure = np.interp(np.log1p(every), np.log1p(relay.marks), np.minimum(relay.departure, 10.0))
    # A preconditioner that changes by a factor makes time run by that factor faster or slower.
    stretch = np.exp(-relay.unsure * every / len(every) / 2)
    slow = np.interp(every * stretch, every, np.log(np.maximum(loss, 1e-300)))
    late = np.log(np.maximum(loss, 1e-300))
    timing = np.abs(slow - late)
    width = ROUNDING + noise + departure + timing + UNEXPLAINED * np.sqrt(every / max(count, 1))
    within = [mark for mark, gap in zip(relay.marks, relay.departure, strict=True) if gap <= tolerance]
    return AdamForecast(
        loss=loss,
        lower=loss * np.exp(-width),
        upper=loss * np.exp(width),
        horizon=max(within),
        marks=np.asarray(relay.marks),
        measured=np.asarray(relay.measured),
        test_error=np.asarray(relay.test_error) if relay.test is not None else None,
        stages=relay.stages,
        applications=relay.applications,
        curvature=relay.curvature,
        drift=relay.drift,
    )
