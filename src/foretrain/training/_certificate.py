"""Whether training stayed what was forecast: measured quantities against their limits, and a verdict."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from foretrain.forecast import Forecast, trained_outputs
from foretrain.models import ShallowOperatorNetwork, group_of, group_rates
from foretrain.tangent import EmpiricalKernel

Verdict = Literal["held", "left the linear regime", "unstable"]
PROBE_FUNCTIONS, PROBE_POINTS = 64, 32
GROWTH_OF_INSTABILITY = 4.0
RISE_OF_INSTABILITY = 1.05
CHECKS_IN_A_ROW = 3
CHANCE = 0.1
"""Of the band's edge: a loss no further beyond it is no evidence of its own that features are learnt."""
RADIUS = {
    "trunk": "largest over neurons; limit: the theorem's radius up to a constant, sqrt(N) |r_0| / (sqrt(m) (l0 + l~0))",
    "branch": "likewise, smaller by the square root of the branch width",
}


@dataclass(frozen=True)
class Measurement:
    """What was measured at one step.

    Attributes:
        step, seconds: when.
        loss: mean squared residual of the normalised outputs; test_error: mean relative L2 error, if measured.
        distances: how far each weight group is from its start. Of a shallow operator, the largest distance of a
            neuron's weights; of other networks, the distance of all of the group, relative to their size at the start
            unless that is zero.
        kernel_drift: |(Theta_k - Theta_0) v| / |Theta_0 v|, root mean square over the probes v. Like the next, None at
            steps where only the loss was looked at.
        eigenvalue_max: of the probes' kernel now, relative to its start, by one power step from the start's vector.
    """

    step: int
    seconds: float
    loss: float
    test_error: float | None
    distances: dict[str, float]
    kernel_drift: float | None
    eigenvalue_max: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, each distance under its group's name."""
        values = {name: value for name, value in vars(self).items() if name != "distances"}
        return {**values, **{f"{group}_distance": distance for group, distance in self.distances.items()}}


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
            sharpness = next(check for check in self.checks if check.name.startswith("step size"))
            return (
                f"The loss grew at step {self.first_violation:,}, where step size times largest eigenvalue is "
                f"{sharpness.value:.3g} (stable below {sharpness.limit:.3g}), and training was stopped with the last "
                f"good weights: lower the step size below {sharpness.limit:.3g} / largest eigenvalue."
            )
        left = f"The loss left its 90 % forecast band at step {self.first_violation:,}"
        beyond = next(check.value for check in self.checks if check.name.startswith("loss against its")) - 1
        if beyond < CHANCE:
            return (
                f"{left}, by at most {100 * beyond:.2g} %: one draw in ten does so by chance, others because features "
                "are being learnt. Later forecasts need renewing."
            )
        return f"{left}: the network has begun to learn features, so later forecasts need renewing."

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "verdict": self.verdict,
            "first_violation": self.first_violation,
            "sentence": self.sentence,
            "checks": [vars(check) for check in self.checks],
            "measurements": [measurement.as_dict() for measurement in self.measurements],
        }


class Probes:
    """Measures a network against its own start, on a subset of functions and points small enough to cost nothing."""

    def __init__(
        self, start: Any, inputs: jax.Array, points: jax.Array, key: int, rates: Mapping[str, float] | None = None
    ) -> None:
        function_stride = max(1, len(inputs) // PROBE_FUNCTIONS)
        # Other networks may need all of their grid.
        point_stride = max(1, len(points) // PROBE_POINTS) if isinstance(start, ShallowOperatorNetwork) else 1
        self._inputs = inputs[::function_stride][:PROBE_FUNCTIONS]
        self._points = points[::point_stride]
        self._rates = group_rates(start, rates)
        self._start = start
        self._probes = np.random.default_rng(key).standard_normal((2, len(self._inputs), len(self._points)))
        kernel = self._kernel(start)
        top = kernel.eigenpair_max(1e-3)
        self._top, self._top_value = top.vector, top.value
        self._images = [kernel.apply(probe) for probe in self._probes]

    def measure(
        self, network: Any, step: int, seconds: float, loss: float, test_error: float | None, watch: bool = True
    ) -> Measurement:
        """All quantities of a `Measurement` for the network as it is now; those of the kernel if it is watched."""
        distances = {name: float(value) for name, value in _distances(network, self._start).items()}
        if not watch:
            return Measurement(step, seconds, loss, test_error, distances, None, None)
        kernel = self._kernel(network)
        changes = [
            np.linalg.norm(kernel.apply(probe) - image) / np.linalg.norm(image)
            for probe, image in zip(self._probes, self._images, strict=True)
        ]
        drift = float(np.sqrt(np.mean(np.square(changes))))
        growth = float(np.linalg.norm(kernel.apply(self._top)) / self._top_value)
        return Measurement(step, seconds, loss, test_error, distances, drift, growth)

    def _kernel(self, network: Any) -> EmpiricalKernel:
        return EmpiricalKernel(
            trained_outputs, network, self._inputs, self._points, chunk=len(self._inputs), rates=self._rates
        )


@eqx.filter_jit
def _distances(network: Any, start: Any) -> dict[str, jax.Array]:
    moved = jax.tree_util.tree_leaves_with_path(eqx.filter(network, network.trained()))
    origins = jax.tree.leaves(eqx.filter(start, start.trained()))
    pairs: dict[str, list[tuple[jax.Array, jax.Array]]] = {}
    for (path, now), origin in zip(moved, origins, strict=True):
        pairs.setdefault(group_of(path), []).append((now - origin, origin))
    if isinstance(network, ShallowOperatorNetwork):
        return {name: jnp.max(jnp.linalg.norm(group[0][0], axis=-1)) for name, group in pairs.items()}
    sizes = {name: _squares(origin for _, origin in group) for name, group in pairs.items()}
    # What starts at zero, as biases do, has no size to compare with.
    return {
        name: jnp.sqrt(_squares(change for change, _ in group) / jnp.where(sizes[name] > 0, sizes[name], 1.0))
        for name, group in pairs.items()
    }


def _squares(arrays: Iterable[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.sum(array**2) for array in arrays]))


@dataclass(frozen=True)
class Theorem:
    """What the convergence theorem needs to know of a shallow operator.

    Attributes:
        eigenvalue_sum: l0 + l~0, least eigenvalues of the two kernel terms.
        width, branch_width: of the network.
    """

    eigenvalue_sum: float
    width: int
    branch_width: int

    def radii(self, rows: int, initial_loss: float) -> dict[str, float]:
        """How far trunk and branch neurons get, up to a constant; infinite where the eigenvalues are zero."""
        if self.eigenvalue_sum <= 0:
            return {"trunk": np.inf, "branch": np.inf}
        radius = float(rows * np.sqrt(initial_loss) / (np.sqrt(self.width) * self.eigenvalue_sum))
        return {"trunk": radius, "branch": radius / self.branch_width**0.5}


def certify(
    measurements: tuple[Measurement, ...], told: Forecast, rows: int, theorem: Theorem | None = None
) -> Certificate:
    """Compares measurements with the forecast.

    Arguments:
        measurements: in order of steps.
        told: the forecast made before training.
        rows: number of training outputs, functions times points.
        theorem: what its bounds need, where it applies.
    """
    losses = np.array([measurement.loss for measurement in measurements])
    steps = np.array([measurement.step for measurement in measurements])
    outside = ~((losses >= told.lower[steps]) & (losses <= told.upper[steps]))
    if hasattr(told.method, "batch_size"):
        outside = _in_a_row(outside, CHECKS_IN_A_ROW)
    grown = has_blown_up(losses, told)
    verdict: Verdict = "held"
    first: int | None = None
    if grown.any():
        verdict, first = "unstable", int(steps[np.argmax(grown)])
    elif outside.any():
        verdict, first = "left the linear regime", int(steps[np.argmax(outside)])
    # Curves that have fallen, or risen, beyond what a number can hold give ratios that are not finite.
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = np.maximum(told.lower[steps] / losses, losses / told.upper[steps])
    worst = int(np.argmax(np.where(np.isfinite(edges), edges, np.inf)))
    drift = max(m.kernel_drift for m in measurements if m.kernel_drift is not None)
    growth = max(m.eigenvalue_max for m in measurements if m.eigenvalue_max is not None)
    sharpness, limit = float(told.step_size * told.eigenvalue_max * growth), stable_below(told.method)
    checks = (
        Check(
            "loss against its forecast band",
            float(edges[worst]),
            1.0,
            not outside.any(),
            "estimate",
            f"largest ratio of the loss to the nearer edge of the 90 % band, at step {steps[worst]:,}; 1 is the edge",
        ),
        *(_theorem_checks(measurements, told, rows, theorem) if theorem is not None else ()),
        Check(
            "kernel drift on probes",
            drift,
            0.5,
            drift <= 0.5,
            "computation",
            "relative change of the kernel's action; the theorem keeps half of its least eigenvalue",
        ),
        Check(
            "step size times largest eigenvalue",
            sharpness,
            limit,
            sharpness < limit,
            "computation",
            f"training is stable below {limit:.3g}; the growth of the eigenvalue is measured on the probes",
        ),
    )
    return Certificate(verdict, first, checks, measurements)


def _in_a_row(outside: np.ndarray, count: int) -> np.ndarray:
    """Where a check is outside and so are those just before it: the noise of minibatches leaves a 90 % band alone."""
    padded = np.concatenate([np.zeros(count - 1, bool), outside])
    return np.all(np.stack([padded[shift : shift + len(outside)] for shift in range(count)]), axis=0)


def stable_below(method: Any) -> float:
    """The largest stable h l of the method: 2 of gradient descent, 2 + 2 b of heavy ball; no limit of a flow."""
    limit = getattr(method, "stable_below", None)
    return float(limit) if limit is not None else np.inf


def has_blown_up(losses: np.ndarray, told: Forecast) -> np.ndarray:
    """For each check, whether the run is unstable there.

    Either the loss is far above its start, or it rises where the step size is beyond the limit. Real networks may
    recover from the latter, by a jump to where the kernel is smaller; of such a run the forecast says nothing.
    """
    beyond = told.step_size * told.eigenvalue_max > stable_below(told.method)
    rises = np.concatenate([[False], ~(losses[1:] <= RISE_OF_INSTABILITY * losses[:-1])])
    return ~(losses <= GROWTH_OF_INSTABILITY * max(losses[0], 1e-300)) | (rises & beyond)


def _theorem_checks(
    measurements: tuple[Measurement, ...], told: Forecast, rows: int, theorem: Theorem
) -> Iterator[Check]:
    losses = np.array([measurement.loss for measurement in measurements])
    steps = np.array([measurement.step for measurement in measurements])
    if told.worst_case_loss is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            above_guarantee = losses / told.worst_case_loss[steps]
        yield Check(
            "loss against the worst-case rate",
            float(np.max(above_guarantee)),
            1.0,
            bool(np.all(losses <= told.worst_case_loss[steps] * (1 + 1e-6))),
            "guarantee",
            "the theorem's curve, an upper bound for networks as wide as it asks",
        )
    for group, radius in theorem.radii(rows, losses[0]).items():
        yield Check(
            f"{group} weights' distance from start",
            measurements[-1].distances[group],
            radius,
            max(measurement.distances[group] for measurement in measurements) <= radius,
            "estimate",
            RADIUS[group],
        )
