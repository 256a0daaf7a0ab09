"""Whether training stayed what was forecast: measured quantities against their limits, and a verdict."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain.forecast import Forecast, trained_outputs
from foretrain.models import ShallowOperatorNetwork
from foretrain.tangent import EmpiricalKernel

Verdict = Literal["held", "left the linear regime", "unstable"]
PROBE_FUNCTIONS, PROBE_POINTS = 64, 32
GROWTH_OF_INSTABILITY = 4.0


@dataclass(frozen=True)
class Measurement:
    """What was measured at one step.

    Attributes:
        step, seconds: when.
        loss: mean squared residual of the normalised outputs; test_error: mean relative L2 error, if measured.
        trunk_distance, branch_distance: largest distance of a neuron's weights from its start.
        kernel_drift: |(Theta_k - Theta_0) v| / |Theta_0 v|, root mean square over the probes v.
        eigenvalue_max: of the probes' kernel now, relative to its start, by one power step from the start's vector.
    """

    step: int
    seconds: float
    loss: float
    test_error: float | None
    trunk_distance: float
    branch_distance: float
    kernel_drift: float
    eigenvalue_max: float


@dataclass(frozen=True)
class Check:
    """One line of a certificate: a measured value against its limit, what that rests on and what it means."""

    name: str
    value: float
    limit: float
    held: bool
    status: Literal["guarantee", "computation", "estimate"]
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Certificate:
    """The verdict on a run.

    Attributes:
        verdict: "held", "left the linear regime" (the loss left its band: features are learnt, which may be good) or
            "unstable" (the loss grew: lower the step size).
        first_violation: the first step outside the band, or None.
        checks: measured values against limits.
        measurements: all of them, in order.
    """

    verdict: Verdict
    first_violation: int | None
    checks: tuple[Check, ...]
    measurements: tuple[Measurement, ...]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        checks, last = len(self.measurements), self.measurements[-1].step
        if self.verdict == "held":
            return f"The loss stayed inside its forecast band at every one of {checks} checks to step {last:,}."
        if self.verdict == "unstable":
            return (
                f"The loss grew from step {self.first_violation:,} on and training was stopped: lower the step size "
                "(below 2 / largest eigenvalue)."
            )
        return (
            f"The loss left its forecast band at step {self.first_violation:,}: the network has begun to learn "
            "features, so later forecasts need renewing."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "verdict": self.verdict,
            "first_violation": self.first_violation,
            "sentence": self.sentence,
            "checks": [vars(check) for check in self.checks],
            "measurements": [vars(measurement) for measurement in self.measurements],
        }


class Probes:
    """Measures a network against its own start, on a subset of functions and points small enough to cost nothing."""

    def __init__(self, start: ShallowOperatorNetwork, inputs: jax.Array, points: jax.Array, key: int) -> None:
        function_stride = max(1, len(inputs) // PROBE_FUNCTIONS)
        point_stride = max(1, len(points) // PROBE_POINTS)
        self._inputs = inputs[::function_stride][:PROBE_FUNCTIONS]
        self._points = points[::point_stride][:PROBE_POINTS]
        self._start = start
        self._probes = np.random.default_rng(key).standard_normal((2, len(self._inputs), len(self._points)))
        kernel = self._kernel(start)
        top = kernel.eigenpair_max(1e-3)
        self._top, self._top_value = top.vector, top.value
        self._images = [kernel.apply(probe) for probe in self._probes]

    def measure(
        self, network: ShallowOperatorNetwork, step: int, seconds: float, loss: float, test_error: float | None
    ) -> Measurement:
        """All quantities of a `Measurement` for the network as it is now."""
        kernel = self._kernel(network)
        changes = [
            np.linalg.norm(kernel.apply(probe) - image) / np.linalg.norm(image)
            for probe, image in zip(self._probes, self._images, strict=True)
        ]
        trunk, branch = _distances(network, self._start)
        return Measurement(
            step,
            seconds,
            loss,
            test_error,
            float(trunk),
            float(branch),
            float(np.sqrt(np.mean(np.square(changes)))),
            float(np.linalg.norm(kernel.apply(self._top)) / self._top_value),
        )

    def _kernel(self, network: ShallowOperatorNetwork) -> EmpiricalKernel:
        return EmpiricalKernel(trained_outputs, network, self._inputs, self._points, chunk=len(self._inputs))


@jax.jit
def _distances(network: ShallowOperatorNetwork, start: ShallowOperatorNetwork) -> tuple[jax.Array, jax.Array]:
    return (
        jnp.max(jnp.linalg.norm(network.trunk - start.trunk, axis=-1)),
        jnp.max(jnp.linalg.norm(network.branch - start.branch, axis=-1)),
    )


def certify(
    measurements: tuple[Measurement, ...],
    told: Forecast,
    width: int,
    branch_width: int,
    outputs: Float[np.ndarray, "functions points"],
    eigenvalue_sum: float,
) -> Certificate:
    """Compares measurements with the forecast.

    Arguments:
        measurements: in order of steps.
        told: the forecast made before training.
        width, branch_width: of the network.
        outputs: the training outputs, for their number.
        eigenvalue_sum: l0 + l~0, least eigenvalues of the two kernel terms.
    """
    losses = np.array([measurement.loss for measurement in measurements])
    steps = np.array([measurement.step for measurement in measurements])
    outside = ~((losses >= told.lower[steps]) & (losses <= told.upper[steps]))
    grown = ~(losses <= GROWTH_OF_INSTABILITY * max(losses[0], 1e-300))
    verdict: Verdict = "held"
    first: int | None = None
    if grown.any():
        verdict, first = "unstable", int(steps[np.argmax(grown)])
    elif outside.any():
        verdict, first = "left the linear regime", int(steps[np.argmax(outside)])
    last = measurements[-1]
    rows = outputs.size
    radius = np.inf
    if eigenvalue_sum > 0:
        radius = float(rows * np.sqrt(losses[0]) / (np.sqrt(width) * eigenvalue_sum))
    # Curves that have fallen, or risen, beyond what a number can hold give ratios that are not finite.
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = np.maximum(told.lower[steps] / losses, losses / told.upper[steps])
        above_guarantee = losses / told.worst_case_loss[steps]
    worst = int(np.argmax(np.where(np.isfinite(edges), edges, np.inf)))
    sharpness = float(told.step_size * told.eigenvalue_max * max(m.eigenvalue_max for m in measurements))
    checks = (
        Check(
            "loss against its forecast band",
            float(edges[worst]),
            1.0,
            not outside.any(),
            "estimate",
            f"largest ratio of the loss to the nearer edge of the 90 % band, at step {steps[worst]:,}; 1 is the edge",
        ),
        Check(
            "loss against the worst-case rate",
            float(np.max(above_guarantee)),
            1.0,
            bool(np.all(losses <= told.worst_case_loss[steps] * (1 + 1e-6))),
            "guarantee",
            "the theorem's curve, an upper bound for networks as wide as it asks",
        ),
        Check(
            "trunk weights' distance from start",
            last.trunk_distance,
            radius,
            max(m.trunk_distance for m in measurements) <= radius,
            "estimate",
            "largest over neurons; limit: the theorem's radius up to a constant, sqrt(N) |r_0| / (sqrt(m) (l0 + l~0))",
        ),
        Check(
            "branch weights' distance from start",
            last.branch_distance,
            radius / branch_width**0.5,
            max(m.branch_distance for m in measurements) <= radius / branch_width**0.5,
            "estimate",
            "likewise, smaller by the square root of the branch width",
        ),
        Check(
            "kernel drift on probes",
            max(m.kernel_drift for m in measurements),
            0.5,
            max(m.kernel_drift for m in measurements) <= 0.5,
            "computation",
            "relative change of the kernel's action; the theorem keeps half of its least eigenvalue",
        ),
        Check(
            "step size times largest eigenvalue",
            sharpness,
            2.0,
            sharpness < 2.0,
            "computation",
            "training is stable below 2; the growth of the eigenvalue is measured on the probes",
        ),
    )
    return Certificate(verdict, first, checks, measurements)
