"""Full-batch gradient descent with a forecast beside it and a certificate at the end."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.forecast import (
    Forecast,
    GradientDescent,
    Method,
    Plan,
    descend,
    forecast,
    log_spaced_steps,
    normalised_outputs,
    training_arrays,
)
from foretrain.models import ShallowOperator, ShallowOperatorNetwork
from foretrain.tangent import tangent_kernel
from foretrain.training._certificate import GROWTH_OF_INSTABILITY, Certificate, Measurement, Probes, certify
from foretrain.training._checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SECONDS_BETWEEN_SIGNS_OF_LIFE = 1.0


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        network: the trained network, `network(inputs, points)` in physical units; after instability the last good one.
        forecast: made before the first step.
        certificate: whether it held.
        train: the training data.
        seconds: time spent stepping.
    """

    network: ShallowOperatorNetwork
    forecast: Forecast
    certificate: Certificate
    train: OperatorDataset
    seconds: float

    @property
    def loss(self) -> np.ndarray:
        """Measured losses at the certificate's steps."""
        return np.array([measurement.loss for measurement in self.certificate.measurements])

    @property
    def steps(self) -> np.ndarray:
        """The certificate's steps."""
        return np.array([measurement.step for measurement in self.certificate.measurements])

    def score(self, test: OperatorDataset) -> float:
        """Mean relative L2 error on test functions."""
        return mean_relative_error(np.asarray(self.network(test.inputs, test.query_points)), test.outputs)


def train(
    data: OperatorDataset,
    plan_or_model: Plan | ShallowOperator,
    method: Method | None = None,
    *,
    steps: int | None = None,
    test: OperatorDataset | None = None,
    key: int = 0,
    told: Forecast | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = ignore_progress,
) -> Run:
    """Trains a shallow operator by full-batch gradient descent, w <- w - h grad L, and certifies the run.

    Arguments:
        data: the training data.
        plan_or_model: a plan (model, step size, steps and key are its own), or a model.
        method: gradient descent; by default with step size 1 / (largest eigenvalue).
        steps: how many; by default the plan's, else 1,000.
        test: functions whose error is forecast and measured as well.
        key: seed of the weights (a plan brings its own).
        told: a forecast made earlier from the drawn weights; made here if absent.
        checkpoint: file that keeps the state at every measurement, so that a killed run can go on.
        resume: go on from that file if it is there; the result is the same, bit for bit.

    Raises:
        ForetrainError: another method than gradient descent, a forecast made for another step size, or a checkpoint of
            another run.
    """
    if isinstance(plan_or_model, Plan):
        model, key = plan_or_model.model, plan_or_model.key
        method = method if method is not None else plan_or_model.method
        steps = steps or plan_or_model.steps
    else:
        model = plan_or_model
    steps = steps or 1000
    if method is not None and not isinstance(method, GradientDescent):
        raise ForetrainError(
            f"train: expected GradientDescent, came {type(method).__name__}; other methods can be forecast, not run yet"
        )
    if told is None or told.steps < steps:
        known = (
            {"deviation": plan_or_model.deviation, "cost": plan_or_model.cost}
            if isinstance(plan_or_model, Plan)
            else {}
        )
        told = forecast(data, model, method, steps, test, key=key, basis="drawn weights", progress=progress, **known)  # type: ignore[arg-type]
    if method is not None and method.step_size not in (None, told.step_size):
        raise ForetrainError(
            f"train: expected a forecast made for the step size {method.step_size:g}, came one for {told.step_size:g}; "
            "leave out told, or forecast with this method"
        )
    require_memory(told.bytes, "training", "plan for a smaller width (a larger tolerance), or use fewer functions")
    start = model.initialise(data, jax.random.key(key))
    identity = _identity(data, test, model, key, told.step_size)
    resumed = load_checkpoint(checkpoint, start, identity) if resume and checkpoint else None
    if resumed is not None and resumed.measurements[-1].step > steps:
        raise ForetrainError(
            f"{checkpoint}: expected a checkpoint of at most {steps:,} steps, came one of "
            f"{resumed.measurements[-1].step:,}; ask for more steps or delete it"
        )
    measurements: list[Measurement] = []
    network = start
    for network, measurement in _descend_and_measure(  # noqa: B007 (the last one is the result)
        start, data, test, told, steps, key, checkpoint, identity, resumed, progress
    ):
        measurements.append(measurement)
    eigenvalues = tangent_kernel(model, data).term_eigenvalues_min()
    certificate = certify(tuple(measurements), told, model.width, model.branch_width, data.outputs, sum(eigenvalues))
    return Run(network, told, certificate, data, measurements[-1].seconds)


def _descend_and_measure(
    start: ShallowOperatorNetwork,
    data: OperatorDataset,
    test: OperatorDataset | None,
    told: Forecast,
    steps: int,
    key: int,
    checkpoint: Path | None,
    identity: str,
    resumed: Checkpoint | None,
    progress: Progress,
) -> Iterator[tuple[ShallowOperatorNetwork, Measurement]]:
    """Yields network and measurement at log-spaced steps; stops, with the last good weights, when the loss grows."""
    inputs, points, target = training_arrays(start, data)
    probes = Probes(start, inputs, points, key)
    network, done, spent = start, 0, 0.0
    first_loss: float | None = None
    if resumed is not None:
        for earlier in resumed.measurements:
            yield resumed.network, earlier
        network, done, spent = resumed.network, resumed.measurements[-1].step, resumed.measurements[-1].seconds
        first_loss = resumed.measurements[0].loss
    kept = list(resumed.measurements) if resumed is not None else []
    for mark in log_spaced_steps(steps):
        if resumed is not None and mark <= resumed.measurements[-1].step:
            continue
        begin = time.perf_counter()
        good = network
        for chunk in _chunks(int(mark) - done, told.cost.seconds_per_step):
            network, loss = _advance(network, inputs, points, target, told.step_size, jnp.asarray(chunk))
            done += chunk
            # The last step knows the loss it started from.
            figures = {"loss": float(loss), "forecast": float(told.loss[done - 1])}
            progress("training", done, steps, figures)
        spent += time.perf_counter() - begin
        loss_now = float(_loss(network, inputs, points, target))
        first_loss = loss_now if first_loss is None else first_loss
        broken = not np.isfinite(loss_now) or loss_now > GROWTH_OF_INSTABILITY * first_loss
        error = _test_error(network, test) if not broken else None
        measurement = probes.measure(good if broken else network, int(mark), spent, loss_now, error)
        kept.append(measurement)
        yield (good if broken else network), measurement
        if broken:
            return
        if checkpoint is not None:
            save_checkpoint(checkpoint, Checkpoint(network, tuple(kept)), identity)


def _identity(
    data: OperatorDataset, test: OperatorDataset | None, model: ShallowOperator, key: int, step_size: float
) -> str:
    """Everything a run's weights and measurements depend on beside the number of steps, as one hash."""
    parts = (data.fingerprint, test.fingerprint if test is not None else "", repr(model), str(key), step_size.hex())
    return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"


def _chunks(steps: int, seconds_per_step: float) -> Iterator[int]:
    """Splits steps so that the listener hears about once a second; sizes do not change the result."""
    at_once = max(1, round(SECONDS_BETWEEN_SIGNS_OF_LIFE / max(seconds_per_step, 1e-6)))
    while steps > 0:
        yield min(at_once, steps)
        steps -= at_once


@eqx.filter_jit
def _advance(
    network: ShallowOperatorNetwork,
    inputs: jax.Array,
    points: jax.Array,
    target: jax.Array,
    step_size: jax.Array | float,
    steps: jax.Array,
) -> tuple[ShallowOperatorNetwork, jax.Array]:
    # `steps` is an array because a Python number would be compiled in, once for every distance between two marks.
    def one(_: int, state: tuple[ShallowOperatorNetwork, jax.Array]) -> tuple[ShallowOperatorNetwork, jax.Array]:
        return descend(state[0], inputs, points, target, step_size)

    return jax.lax.fori_loop(0, steps, one, (network, jnp.zeros((), target.dtype)))


@jax.jit
def _loss(network: ShallowOperatorNetwork, inputs: jax.Array, points: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.mean((network.normalised(inputs, points) - target) ** 2)


def _test_error(network: ShallowOperatorNetwork, test: OperatorDataset | None) -> float | None:
    if test is None:
        return None
    return mean_relative_error(network.scale.restore(normalised_outputs(network, test)), test.outputs)
