"""foretrain forecast."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from foretrain._foundation import ForetrainError, write_atomically
from foretrain.cli._checks import require_enough, require_file, require_values
from foretrain.cli._display import Display, percent, seconds, size
from foretrain.cli._forecast_model import ForecastModel, chosen_model, marks_up_to
from foretrain.cli._quantities import Share
from foretrain.cli._resume import Resumption, forecast_resumed
from foretrain.cli._tables import ForecastRow, show_explanation, show_forecast
from foretrain.data import OperatorDataset, OutputScale, load_split
from foretrain.forecast import (
    Chebyshev,
    Decision,
    Forecast,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    Nesterov,
    StochasticDescent,
    explain_modes,
)

EXPLODED = 1e3
"""A loss so many times that of the start is no training any more."""
USUAL_BATCH = 32
USUAL, FINE = 1e-3, 1e-6
"""How near to each other the bounds of the last loss shall be; what is learnt by then takes more to tell."""
MethodName = Literal["gradient-descent", "heavy-ball", "nesterov", "chebyshev", "sgd", "gradient-flow"]


@dataclass(frozen=True)
class ForecastCommand:
    """Foretell loss and test error of a training run before its first step, of your own network or one of ours.

    --model FILE.py:NAME runs that file: give only files you trust. NAME is an Equinox module (inputs, points) ->
    outputs, a torch module, a model of foretrain's, or a function making one from a key or from nothing. --resume goes
    on from a checkpoint of Adam.

    Example: foretrain forecast data.npz --model my_module.py:net --steps 10000
    """

    data: Annotated[Path, tyro.conf.Positional]
    """npz file."""
    model: str = "shallow"
    """shallow, deeponet, fno, mlp, or FILE.py:NAME, which runs the file."""
    width: int | None = None
    """Of shallow, deeponet, fno, mlp (default: 1024 of shallow, the model's own of others)."""
    method: MethodName = "gradient-descent"
    """Full-batch but for sgd."""
    step_size: float | None = None
    """h, on half the sum of squared residuals of the normalised outputs (default: safely within what is stable)."""
    momentum: float | None = None
    """Of heavy-ball and nesterov (default: 0.9)."""
    batch_size: int | None = None
    """Functions in a batch of sgd (default: 32)."""
    steps: int = 10_000
    """To forecast."""
    test: int | None = None
    """Functions to hold out for testing (default: as the file says, else one in six)."""
    rates: tuple[str, ...] = ()
    """Relative step sizes of groups of weights, as in --rates outer=100 bias=0.5."""
    target_error: Share = 0.02
    """Relative L2 error to say the number of steps for."""
    resume: Path | None = None
    """Checkpoint of Adam: of foretrain.save_adam_checkpoint, or torch.save({"model": ..., "optimizer": ...})."""
    explain: bool = False
    """Say which part of the target is learnt by the last step, and which is not."""
    plot: Path | None = None
    """Where to write the curves as an HTML page."""
    key: int = 0
    """Seed of the split and of everything drawn."""
    price_per_hour: float = 0.0
    """Of this machine."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        require_values(vars(self))
        require_file(self.plot)
        self._require_fitting_options()
        learn, test = load_split(self.data, self.test, self.key)
        require_enough(len(learn), self.data)
        model = chosen_model(self.model, self.width, learn, self.steps, self.key, display)
        if self.resume is not None:
            asked = Resumption(self.resume, self.steps, self.target_error, self.plot, self.key)
            forecast_resumed(asked, model, learn, test, display)
            return
        self._forecast(model, learn, test, display)

    def _forecast(self, model: ForecastModel, learn: OperatorDataset, test: OperatorDataset, display: Display) -> None:
        method = self.method_for(len(learn))
        limit = None
        if self.step_size is not None:
            display("looking for the largest eigenvalue", 0, 0)
            limit = stable_limit(method, model.eigenvalue_max(learn, method.rates, self.key))
        diverges = limit is not None and self.step_size is not None and self.step_size > limit
        asked = replace(method, step_size=None) if diverges else method
        told = model.forecast(learn, asked, self.steps, test, self.key, FINE if self.explain else USUAL, display)
        share = getattr(method, "batch_size", len(learn)) / len(learn)
        step_time = share * told.cost.seconds_per_step
        told = replace(told, cost=replace(told.cost, seconds_per_step=step_time, price_per_hour=self.price_per_hour))
        limit = stable_limit(told.method, told.eigenvalue_max)
        rows = diverging_rows(told, method) if diverges else forecast_rows(told)
        stable = not diverges and rows[-1].loss is not None
        advice = None if stable else unstable_advice(method, told, len(learn), diverges)
        decisions = rests_on(told, learn, self.target_error, limit, self.step_size) if stable else ()
        show_forecast(display, f"Forecast: {model.name}, {self.method}, from {told.basis}", rows, decisions, advice)
        report = None
        if self.explain and stable:
            report = explain_modes(told.curves, told.method, self.steps, query_points=learn.query_points)
            show_explanation(display, report)
        if self.plot is not None and stable:
            write_chart(self.plot, told.plot())
            display.line(f"curves: {self.plot}")
        display.result(
            {
                "model": model.name,
                "method": self.method,
                "stable": stable,
                "advice": advice,
                "step_size": self.step_size if diverges else told.step_size,
                "stable_below": limit,
                "eigenvalue_max": told.eigenvalue_max,
                "basis": told.basis,
                "learning_rate": None if diverges else learning_rate(told.step_size, learn),
                "steps": self.steps,
                "curve": [vars(row) for row in rows],
                "best_stopping_step": told.best_stopping_step if stable else None,
                "target_error": self.target_error,
                "steps_to_target": told.steps_to(self.target_error) if stable else None,
                "horizon": told.horizon if stable else None,
                "seconds": told.seconds,
                "bytes": told.bytes,
                "price": told.cost.price(self.steps) if self.price_per_hour else None,
                "rests_on": [vars(decision) for decision in decisions],
                "explanation": None if report is None else report.as_dict(),
            }
        )

    def method_for(self, functions: int) -> Any:
        """The method asked for."""
        rates = relative_rates(self.rates)
        momentum = 0.9 if self.momentum is None else self.momentum
        if self.method == "heavy-ball":
            return HeavyBall(momentum, self.step_size, rates)
        if self.method == "nesterov":
            return Nesterov(momentum, self.step_size, rates)
        if self.method == "chebyshev":
            return Chebyshev(steps=self.steps, rates=rates)
        if self.method == "sgd":
            batch = min(USUAL_BATCH, functions) if self.batch_size is None else self.batch_size
            return StochasticDescent(batch, self.step_size, functions, rates)
        kind = GradientFlow if self.method == "gradient-flow" else GradientDescent
        return kind(self.step_size, rates)

    def _require_fitting_options(self) -> None:
        """Refuses options that would quietly count for nothing."""
        takes_momentum = self.method in ("heavy-ball", "nesterov")
        idle = {
            "--momentum": (self.momentum, takes_momentum, "heavy-ball or nesterov"),
            "--batch-size": (self.batch_size, self.method == "sgd", "sgd"),
            "--step-size": (self.step_size, self.method != "chebyshev", "another, for chebyshev chooses its own"),
        }
        for option, (value, counts, methods) in idle.items():
            if value is not None and not counts:
                raise ForetrainError(f"{option}: expected the method {methods}, came {self.method}; leave it away")
        if self.resume is not None and (self.method != "gradient-descent" or self.step_size or self.rates):
            raise ForetrainError(
                "--resume: expected no method, step size or rates, for the checkpoint of Adam has its own; leave "
                "them away"
            )
        relative_rates(self.rates)


def relative_rates(pairs: tuple[str, ...]) -> dict[str, float] | None:
    """NAME=NUMBER pairs as a dictionary, None if there are none.

    Raises:
        ForetrainError: something else, or a number that is no rate.
    """
    rates = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            rates[name] = float(text)
        except ValueError:
            rates[name] = -1.0
        if not name or not 0 <= rates[name] < np.inf:
            raise ForetrainError(f"--rates: expected NAME=NUMBER with a number of at least 0, came {pair!r}")
    return rates or None


def stable_limit(method: Any, eigenvalue_max: float) -> float | None:
    """The largest step size that does not blow up; None of gradient flow, which has none."""
    if isinstance(method, GradientFlow):
        return None
    return float(getattr(method, "stable_below", 2.0)) / eigenvalue_max


def forecast_rows(told: Forecast) -> list[ForecastRow]:
    """The curves at round steps; without numbers where they have exploded."""
    rows = []
    for step in marks_up_to(told.steps):
        loss = float(told.loss[step])
        if not loss < EXPLODED * told.loss[0]:
            rows.append(ForecastRow(step, None))
            continue
        sides = (told.test_error, told.test_error_lower, told.test_error_upper)
        error, low, high = (None if side is None else float(side[step]) for side in sides)
        rows.append(ForecastRow(step, loss, float(told.lower[step]), float(told.upper[step]), error, low, high))
    return rows


def diverging_rows(told: Forecast, method: Any) -> list[ForecastRow]:
    """What the loss does at a step size beyond the limit, from the Krylov space of a stable forecast."""
    marks = marks_up_to(told.steps)
    losses = told.curves.loss(method, np.asarray(marks, float))[0]
    grown = ~(losses < EXPLODED * losses[0])
    return [
        ForecastRow(mark, None if gone else float(loss)) for mark, loss, gone in zip(marks, losses, grown, strict=True)
    ]


def unstable_advice(method: Any, told: Forecast, functions: int, diverges: bool) -> str:
    """What to lower."""
    if diverges:
        limit = stable_limit(method, told.eigenvalue_max)
        return f"unstable: lower the step size below {limit:.3g}; {told.step_size:.3g} is safe"
    if isinstance(method, StochasticDescent):
        safe = replace(method, step_size=None, functions=functions).with_step_size(told.eigenvalue_max).step_size
        return f"unstable: the noise of the batches grows; lower the step size below {safe:.3g}, or take larger batches"
    return f"unstable: lower the step size below {told.step_size:.3g}"


def learning_rate(step_size: float, data: OperatorDataset) -> float:
    """The rate at which descent on mean (outputs - truth)^2 takes the steps that h takes on half the sum of r^2.

    r = (outputs - truth) / scale.
    """
    return step_size * data.outputs.size / (2 * OutputScale.of(data.outputs).scale ** 2)


def rests_on(
    told: Forecast, learn: OperatorDataset, target_error: float, limit: float | None, given: float | None
) -> tuple[Decision, ...]:
    """The figures, why they are so, and what each rests on."""
    last, target = told.steps, told.steps_to(target_error)
    error = "error" if told.test_error is None else "test error"
    stable = "stable whatever it is" if limit is None else f"stable below {limit:.3g}"
    if isinstance(told.method, StochasticDescent):
        stable = f"without the noise of batches {stable}"
    low, high = told.curves.loss(told.method, np.array([float(last)]))
    apart = float(high[0] / max(float(low[0]), 1e-300) - 1)
    rate = learning_rate(told.step_size, learn)
    decisions = [
        Decision("step size", f"{told.step_size:.3g}", f"{'as asked' if given else 'chosen'}; {stable}", "computation"),
        Decision("as a learning rate", f"{rate:.3g}", "on the mean squared error of unscaled outputs", "computation"),
        Decision("largest eigenvalue", f"{told.eigenvalue_max:.4g}", f"of the kernel of {told.basis}", "computation"),
        Decision(
            f"loss after {last:,} steps",
            f"{told.loss[last]:.4g}",
            f"{told.curves.basis_size} Krylov vectors, whose bounds are {percent(apart)} apart; corrected by pilots",
            "computation",
        ),
        Decision(
            "its band",
            f"{told.lower[last]:.4g} to {told.upper[last]:.4g}",
            "90 %: the bounds and what pilots, trained for real on subsets of the functions, strayed by",
            "estimate",
        ),
        Decision("best stopping step", f"{told.best_stopping_step:,}", f"least {error} of {last:,} steps", "estimate"),
        Decision(
            f"{percent(target_error)} {error}",
            f"step {target:,}" if target is not None else f"not before step {told.horizon:,}",
            "beyond the curves, the kernel is taken to stay" if target is None or target > last else "same curves",
            "estimate",
        ),
    ]
    if told.worst_case_rate is not None:
        reason = "of the sum of squares, at the least; guaranteed once the width is as large as the theorem asks"
        decisions.append(Decision("worst-case rate", f"{told.worst_case_rate:.2g} per step", reason, "guarantee"))
    cost = f"{seconds(told.cost.seconds_per_step)} a step on this machine"
    decisions += [
        Decision("time", seconds(told.seconds), cost, "estimate"),
        Decision("memory", size(told.bytes), "activations, weights and gradients of one step", "estimate"),
    ]
    if told.cost.price_per_hour:
        price = told.cost.price(last)
        decisions.append(Decision("price", f"{price:.2g}", f"{told.cost.price_per_hour:g} an hour", "estimate"))
    return tuple(decisions)


def write_chart(path: Path, figure: Any) -> Path:
    """A page that needs no network, written whole or not at all."""
    page = figure.to_html(include_plotlyjs=True)
    return write_atomically(path, lambda file: file.write(page.encode()))
