"""The forecast itself: curves with bounds, and what can be read off them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain._foundation import require_extra
from foretrain.forecast._cost import Cost
from foretrain.forecast._methods import Method
from foretrain.forecast._spectral import SpectralCurves
from foretrain.forecast._width import Basis

Array = np.ndarray
LAST_STEP = 10**12


@dataclass(frozen=True)
class Forecast:
    """How training will go, computed before its first step.

    Loss is the mean squared error of the outputs normalised to unit root mean square, so 1 is what predicting their
    mean costs; test error is the mean relative L2 error in physical units.

    Attributes:
        loss: forecast training loss after k steps, k = 0 ... steps.
        lower, upper: its band: the quadrature's bounds widened by what finite width may change (90 %).
        test_error: forecast test error, or None without test functions.
        test_error_lower, test_error_upper: its band.
        worst_case_loss: what the convergence theorem's rate guarantees, given its width; None where it says nothing
            (other models than shallow operators, other methods than gradient descent and flow).
        worst_case_rate: h (l0 + l~0) / 2, the guaranteed relative decrease of the sum of squares in one step, or None.
        step_size: h on the loss 1/2 sum_ij r_ij^2.
        eigenvalue_max: largest eigenvalue of the kernel.
        basis: "infinite width" or "drawn weights", which kernel the curves rest on.
        best_stopping_step: the step of least forecast test error (of least loss without test functions).
        cost: seconds and bytes.
        curves, test_curves, method: evaluate any step beyond.
        loss_correction, test_correction: what was added to the logarithms of the curves: the pilots' mean deviation and
            the noise of minibatches; taken as the last beyond the curves.
    """

    loss: Float[Array, " steps+1"]
    lower: Float[Array, " steps+1"]
    upper: Float[Array, " steps+1"]
    test_error: Float[Array, " steps+1"] | None
    test_error_lower: Float[Array, " steps+1"] | None
    test_error_upper: Float[Array, " steps+1"] | None
    worst_case_loss: Float[Array, " steps+1"] | None
    worst_case_rate: float | None
    step_size: float
    eigenvalue_max: float
    basis: Basis
    best_stopping_step: int
    cost: Cost
    method: Method
    curves: SpectralCurves = field(repr=False)
    loss_correction: Float[Array, " steps+1"] = field(repr=False)
    test_correction: Float[Array, " steps+1"] = field(repr=False)
    test_curves: SpectralCurves | None = field(repr=False, default=None)

    @property
    def steps(self) -> int:
        """How many steps the curves cover."""
        return len(self.loss) - 1

    @property
    def seconds(self) -> float:
        """Estimated time of training all steps on this machine."""
        return self.cost.seconds(self.steps)

    @property
    def bytes(self) -> int:
        """Estimated peak memory of training."""
        return self.cost.bytes

    def steps_to(self, relative_error: float) -> int | None:
        """The first step at which the forecast error is at most this; None if not before `horizon`.

        The error is that on the test functions, or without them the relative training error sqrt(loss).
        """
        grid = np.unique(np.round(np.append(0, np.logspace(0, np.log10(self.horizon), 400))))
        reached = np.flatnonzero(self._errors(grid) <= relative_error)
        if len(reached) == 0:
            return None
        above, below = (int(grid[max(index, 0)]) for index in (reached[0] - 1, reached[0]))
        while below - above > 1:
            middle = (above + below) // 2
            above, below = (above, middle) if self.error_at(middle) <= relative_error else (middle, below)
        return below

    @property
    def stable(self) -> bool:
        """Whether the step size is below the method's limit for this kernel; beyond it the curves leave all numbers.

        A real network may leave the fast modes behind and calm down again, which no forecast of a fixed kernel tells.
        """
        return self.step_size * self.eigenvalue_max < float(getattr(self.method, "stable_below", np.inf))

    @property
    def horizon(self) -> int:
        """The last step, beyond the curves if possible, that the Krylov space still resolves (see `horizon_of`)."""
        return horizon_of(self.curves, self.method)

    def error_at(self, step: int) -> float:
        """The forecast error at any step up to `horizon`, as `steps_to` measures it."""
        return float(self._errors(np.array([float(step)]))[0])

    def _errors(self, steps: Array) -> Array:
        within = np.minimum(steps, self.steps).astype(int)
        if self.test_curves is not None:
            return self.test_curves.test_error(self.method, steps) * np.exp(self.test_correction[within])
        return np.sqrt(self.curves.loss(self.method, steps)[0] * np.exp(self.loss_correction[within]))

    def as_dict(self, marks: Float[Array, " marks"]) -> dict[str, Any]:
        """The curves at some steps, and the figures, as plain values for a file."""
        marks = np.asarray(marks, int)
        values: dict[str, Any] = {
            "basis": self.basis,
            "steps": marks,
            "loss": self.loss[marks],
            "lower": self.lower[marks],
            "upper": self.upper[marks],
            "worst_case_loss": None if self.worst_case_loss is None else self.worst_case_loss[marks],
            "initial_loss": self.loss[0],
            "step_size": self.step_size,
            "eigenvalue_max": self.eigenvalue_max,
            "stable": self.stable,
            "krylov_steps": self.curves.basis_size,
            "best_stopping_step": self.best_stopping_step,
            "worst_case_rate": self.worst_case_rate,
            "horizon": self.horizon,
            "seconds": self.seconds,
            "bytes": self.bytes,
        }
        if self.test_error is not None and self.test_error_lower is not None and self.test_error_upper is not None:
            values["test_error"] = self.test_error[marks]
            values["test_error_lower"] = self.test_error_lower[marks]
            values["test_error_upper"] = self.test_error_upper[marks]
        return values

    def plot(self) -> Any:
        """A Plotly figure of the loss and test-error curves with their bands, both axes logarithmic."""
        graph = require_extra("plotly.graph_objects", "report")
        steps = np.unique(np.round(np.logspace(0, np.log10(max(self.steps, 2)), 200)).astype(int))
        figure = graph.Figure(layout={"xaxis": {"type": "log", "title": "step"}, "yaxis": {"type": "log"}})
        series = [("training loss", self.loss, self.lower, self.upper, "rgb(0,90,181)")]
        if self.test_error is not None:
            band = (self.test_error_lower, self.test_error_upper)
            series.append(("test error", self.test_error, *band, "rgb(220,50,32)"))  # type: ignore[arg-type]
        for name, middle, lower, upper, colour in series:
            figure.add_scatter(x=steps, y=lower[steps], line={"width": 0, "color": colour}, showlegend=False)
            figure.add_scatter(
                x=steps, y=upper[steps], line={"width": 0, "color": colour}, fill="tonexty", showlegend=False
            )
            figure.add_scatter(x=steps, y=middle[steps], name=name, line={"color": colour})
        return figure


def horizon_of(curves: SpectralCurves, method: Method, ratio: float = 1.1) -> int:
    """The last step at which the Gauss and Gauss-Radau values of the loss agree within a ratio."""
    grid = np.unique(np.round(np.logspace(0, np.log10(LAST_STEP), 400)))
    lower, upper = curves.loss(method, grid)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.flatnonzero(~(upper <= ratio * lower) | ~np.isfinite(upper))
    last = int(grid[max(int(apart[0]) - 1, 0)]) if len(apart) else LAST_STEP
    return max(last, 1)
