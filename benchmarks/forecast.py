"""Forecasts against real training: losses, test errors, bands, costs, and what planner and certificate promise.

Run: make bench-forecast, or .venv/bin/python benchmarks/forecast.py [--quick] [--section curves,adam,...]
     [--only "block,heavy ball"] [--json FILE] [--markdown FILE] [--fresh]

Sections, each made of cases:
- curves: problems x models x methods, 1,000 steps of real training beside the forecast made before them
- adam: an ordinary loop of optax.adam(1e-3) to step 500 and 1,000, forecast from there to twice that step
- planner: the width planned for a tolerance, and 20 fresh draws at that width trained for real
- stopping: noisy labels, the forecast's best stopping step beside the measured one
- stability: step sizes of 1.9, 2.2 and 4.5 over the largest eigenvalue, and the certificate's verdicts
- overhead: what the certificate's probes add to training
- cost: seconds and memory of a forecast beside those of 10,000 steps and of one, at the size of real problems

Every case is kept in FILE with the suffix .cases.json, one line of JSON each, as soon as it is done; another run skips
what it finds there (--fresh starts again). --only keeps the cases whose name contains every one of the given words.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _cases import Journal, machine
from _forecast_promises import (
    LARGE,
    measure_large,
    measure_overhead,
    measure_planner,
    measure_stability,
    measure_stopping,
)
from _forecast_setting import (
    ANY_METHOD,
    BURGERS,
    BURGERS_STEEP,
    CHECKPOINTS,
    DEAR,
    DRAWS,
    LONG_RUN,
    MANY,
    METHODS,
    MODELS,
    ON_MANY,
    PERIODIC,
    PROBLEMS,
    STEPS,
    Case,
    Clock,
    inside,
    problem,
    small_problem,
    train_for_real,
)
from _forecast_tables import BASES, MARKS, Result, markdown, one_line

import foretrain as ft
from foretrain.data import mean_relative_error
from foretrain.forecast import (
    AdamSettings,
    Moments,
    TestFunctions,
    adam_state,
    drawn_kernels,
    forecast_adam,
    outputs_on,
    trained_outputs,
    training_arrays,
)
from foretrain.models import draw_network

QUICK = {
    "problem": (BURGERS, "Advection II"),
    "model": ("block 256", "Fourier 128", "DeepONet 128", "FNO 16"),
    "section": ("curves", "adam", "stability"),
}


# ---------------------------------------------------------------------------------------------- curves


def measure_curves(case: Case) -> Result:
    """The forecasts of a run, of infinite width where there is one and from the drawn weights, and the run."""
    train, test = problem(case.problem) if case.model in MODELS else small_problem(case.problem, 48)
    model, method = {**MODELS, **DEAR}[case.model], METHODS[case.method]
    # What earlier cases compiled would make this forecast look cheaper than it is.
    jax.clear_caches()
    clock = Clock()
    told = ft.forecast(train, model, method, STEPS, test)
    seconds, processor = clock.read()
    result: Result = {"forecast_seconds": seconds, "forecast_processor_seconds": processor, "runs": []}
    # All of them for the step size that is then trained with.
    stepping = replace(told.method, step_size=told.step_size)
    limited = told.basis == "infinite width"
    for key in DRAWS.get(case.method, (0,)) if limited and MANY not in case.name else (0,):
        forecasts = {} if key else {told.basis: told}
        for basis in BASES if limited else ():
            if basis not in forecasts:
                forecasts[basis] = ft.forecast(
                    train, model, stepping, STEPS, test, key=key, basis=basis, cost=told.cost
                )
        measured = train_for_real(draw_network(model, train, key), train, test, stepping, key)
        for basis, each in forecasts.items():
            result["runs"].append({"key": key, "basis": basis, **compared(each, measured)})
        result |= {name: value for name, value in measured.items() if name.endswith("seconds")}
    result["foretold_step_seconds"] = told.cost.seconds_per_step
    result["share_of_long_run"] = seconds / (LONG_RUN * result["step_seconds"])
    return result


def compared(told: ft.Forecast, measured: Result) -> Result:
    """Forecast over measured, and whether the measured lies in the forecast's band, at every mark."""
    marks = np.array(MARKS)
    loss, error = np.array(measured["loss"]), np.array(measured["test_error"])
    told_error, lower, upper = (
        np.asarray(curve)[marks] for curve in (told.test_error, told.test_error_lower, told.test_error_upper)
    )
    return {
        "stable": told.stable,
        "loss": loss.tolist(),
        "test_error": error.tolist(),
        "loss_ratio": (told.loss[marks] / loss).tolist(),
        "test_error_ratio": (told_error / error).tolist(),
        "loss_inside": inside(told.lower[marks], loss, told.upper[marks]),
        "test_error_inside": inside(lower, error, upper),
        "loss_width": (np.log(told.upper[marks] / np.maximum(told.lower[marks], 1e-300)) / 2).tolist(),
        "test_error_width": (np.log(upper / lower) / 2).tolist(),
    }


# ---------------------------------------------------------------------------------------------- Adam


@eqx.filter_jit
def adam_step(network: Any, state: Any, arrays: Any, optimiser: Any) -> tuple[Any, Any, jax.Array]:
    inputs, points, target = arrays
    loss, gradient = jax.value_and_grad(
        lambda weights: jnp.mean((trained_outputs(weights, inputs, points) - target) ** 2)
    )(network)
    change, state = optimiser.update(gradient, state, network)
    return optax.apply_updates(network, change), state, loss


def measure_adam(case: Case) -> Result:
    """One run; at each checkpoint the forecast to twice its step, beside the run's own continuation."""
    train, test = problem(case.problem)
    network = draw_network(MODELS[case.model], train, 0)
    arrays, optimiser = training_arrays(network, train), optax.adam(1e-3)
    checked = outputs_on(network, test)
    state, losses = optimiser.init(network), []
    kept, errors, clock = {}, {}, Clock()
    for step in range(2 * CHECKPOINTS[-1] + 1):
        if step in CHECKPOINTS:
            kept[step] = (network, state)
        if step in (2 * checkpoint for checkpoint in CHECKPOINTS):
            errors[step] = mean_relative_error(network.scale.restore(checked(network)), test.outputs)
        network, state, loss = adam_step(network, state, arrays, optimiser)
        losses.append(loss)
    curve = np.array(losses, float)  # before each step
    result: Result = {"training_seconds": clock.read()[0], "checkpoints": []}
    for step, (network, state) in kept.items():
        error = errors[2 * step]
        result["checkpoints"].append(forecast_from(step, network, state, curve, error, train, test))
    return result


def forecast_from(
    step: int,
    network: Any,
    state: Any,
    losses: np.ndarray,
    error: float,
    train: ft.OperatorDataset,
    test: ft.OperatorDataset,
) -> Result:
    """Adam's forecast from a checkpoint to twice its step, beside the losses before every step."""
    settings = AdamSettings(1e-3)
    kernel, _ = drawn_kernels(network, train, None)
    scale, embedding = network.scale, network.embedding
    target = scale.normalise(train.outputs)
    others = TestFunctions(
        embedding.inputs(test.inputs),
        embedding.points(test.query_points),
        scale.normalise(test.outputs),
        scale.offset / scale.scale,
    )
    jax.clear_caches()
    clock = Clock()
    told = forecast_adam(kernel, target, Moments.of(adam_state(state), settings), settings, step, test=others)
    seconds, processor = clock.read()
    marks = [int(step * share) for share in (0.1, 0.25, 0.5, 1)]
    measured = losses[step + np.array(marks)]
    # Full-batch Adam's loss jumps up and down from step to step: no forecast can be nearer than that.
    recent = np.log(losses[2 * step - 50 : 2 * step])
    every = np.arange(len(recent))
    return {
        "step": step,
        "marks": marks,
        "loss_ratio": (told.loss[marks] / measured).tolist(),
        "loss_inside": inside(told.lower[marks], measured, told.upper[marks]),
        "loss_width": (np.log(told.upper[marks] / told.lower[marks]) / 2).tolist(),
        "now_over_then": float(losses[step] / losses[2 * step]),
        "scatter": float(np.std(recent - np.polyval(np.polyfit(every, recent, 1), every))),
        "test_error_ratio": float(np.asarray(told.test_error)[-1]) / error,
        "horizon": told.horizon,
        "curvature": told.curvature,
        "stages": told.stages,
        "forecast_seconds": seconds,
        "forecast_processor_seconds": processor,
    }


# ---------------------------------------------------------------------------------------------- running


SECTIONS: dict[str, Callable[[Case], Result]] = {
    "curves": measure_curves,
    "adam": measure_adam,
    "planner": measure_planner,
    "stopping": measure_stopping,
    "stability": measure_stability,
    "overhead": measure_overhead,
    "cost": measure_large,
}


def cases(every_width: bool) -> list[Case]:
    """All of them, in the order of the sections."""
    found = [
        Case("curves", problem_name, model, method)
        for problem_name in PROBLEMS
        for model in MODELS
        for method in METHODS
        if (not model.startswith("Fourier") or problem_name in PERIODIC)
        and (every_width or method == "gradient descent" or model in ANY_METHOD)
    ]
    found += [Case("curves", name, model, "gradient descent") for name in (BURGERS, "Heat") for model in DEAR]
    found += [
        Case("curves", problem_name + MANY, model, "gradient descent")
        for problem_name in (BURGERS, BURGERS_STEEP, "Darcy 8x8", "Heat")
        for model in ON_MANY
        if not model.startswith("Fourier") or problem_name in PERIODIC
    ]
    deep = [model for model in MODELS if model.startswith(("DeepONet", "FNO"))]
    found += [Case("adam", problem_name, model, "Adam 1e-3") for problem_name in PROBLEMS for model in deep]
    planned = (BURGERS, BURGERS_STEEP, "Darcy 8x8", "Heat")
    found += [Case("planner", name, "block 256", "gradient descent") for name in planned]
    noisy = ((BURGERS, 2), (BURGERS, 4), ("Heat", 4))
    found += [Case("stopping", name, "block 1024", f"noise {level} x outputs") for name, level in noisy]
    found += [
        Case("stability", BURGERS, model, f"{multiple} / largest eigenvalue")
        for model in ("block 1024", "DeepONet 512")
        for multiple in (1.9, 2.2, 4.5)
    ]
    found += [
        Case("overhead", BURGERS, model, f"{steps:,} steps")
        for model in ("block 256", "DeepONet 128")
        for steps in (1000, LONG_RUN)
    ]
    return found + [Case("cost", "Burgers 1000 x 128", model, "gradient descent") for model in LARGE]


def chosen_cases(quick: bool, every_width: bool, sections: str, words: str) -> list[Case]:
    kept = cases(every_width)
    if quick:
        kept = [case for case in kept if case.section in QUICK["section"] and case.problem in QUICK["problem"]]
        kept = [case for case in kept if case.section == "stability" or case.model in QUICK["model"]]
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    named = [section for section in sections.split(",") if section]
    kept = [case for case in kept if not named or case.section in named]
    return [case for case in kept if all(word.lower() in case.name.lower() for word in wanted)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    parser.add_argument("--section", default="", help=", ".join(SECTIONS))
    parser.add_argument("--only", default="", help="words that a case's name must contain, by commas")
    parser.add_argument("--quick", action="store_true", help="two problems, a model of each kind")
    parser.add_argument("--every-width", action="store_true", help="heavy ball and SGD at every width, twice as long")
    parser.add_argument("--fresh", action="store_true", help="forget the cases kept by earlier runs")
    chosen = parser.parse_args()
    unknown = sorted(set(filter(None, chosen.section.split(","))) - set(SECTIONS))
    if unknown:
        parser.error(f"expected sections among {', '.join(SECTIONS)}, came {', '.join(unknown)}")
    todo = chosen_cases(chosen.quick, chosen.every_width, chosen.section, chosen.only)
    if not todo:
        parser.error(f"expected words that some case's name contains, came {chosen.only!r}")
    journal = Journal(chosen.json, chosen.fresh)
    done = journal.done
    header = machine()
    print(header, flush=True)
    started = time.perf_counter()
    for number, case in enumerate(todo):
        if case.name in done:
            continue
        clock = Clock()
        try:
            result = {"name": case.name, **vars(case), **SECTIONS[case.section](case)}
        except ft.ForetrainError as error:
            # A finding, and no reason to lose the other cases; the next run tries again.
            print(f"[{number + 1}/{len(todo)}] {case.name}: REFUSED, {error}", flush=True)
            continue
        result["seconds"], result["processor_seconds"] = clock.read()
        journal.keep(result)
        print(f"[{number + 1}/{len(todo)}] {case.name} ({result['seconds']:.0f} s): {one_line(result)}", flush=True)
    results = [done[case.name] for case in todo if case.name in done]
    header += f"; {time.perf_counter() - started:.0f} s for this run, {sum(r['seconds'] for r in results):.0f} s in all"
    tables = markdown(results, header)
    print("\n" + tables)
    chosen.json.write_text(json.dumps({"header": header, "results": results}, indent=1))
    if chosen.markdown:
        chosen.markdown.write_text(tables)


if __name__ == "__main__":
    main()
