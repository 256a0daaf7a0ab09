"""What planner, stopping step, certificate and cost promise, measured: sections of benchmarks/forecast.py."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from _forecast_setting import LONG_RUN, MODELS, Case, Clock, inside, problem, small_problem, train_for_real
from _forecast_tables import Result
from _peak_memory import in_own_process

import foretrain as ft
from foretrain.forecast import (
    advance,
    drawn_kernels,
    log_spaced_steps,
    measure_cost,
    measure_width_deviation,
    motion_of,
    plan_widths,
    training_arrays,
)
from foretrain.models import draw_network


def measure_planner(case: Case) -> Result:
    """The width for a tolerance, as `ft.plan` takes it, and fresh draws at that width."""
    train, test = small_problem(case.problem)
    tolerance, steps = 0.06, 1000
    widths = plan_widths(train, MODELS[case.model], tolerance, steps)
    planned, deviation = widths.model, widths.deviation
    marks = [mark for mark in log_spaced_steps(steps) if mark > 0]
    cost = measure_cost(planned, train)
    largest, last, in_band = [], [], 0
    for key in range(1000, 1020):
        told = ft.forecast(train, planned, None, steps, key=key, basis="drawn weights", deviation=deviation, cost=cost)
        measured = train_for_real(draw_network(planned, train, key), train, test, told.method, key, marks)
        losses = np.array(measured["loss"])
        logs = np.abs(np.log(told.loss[marks] / losses))
        in_band += all(inside(told.lower[marks], losses, told.upper[marks]))
        largest.append(float(np.max(logs)))
        last.append(float(logs[-1]))
    limit = np.log1p(tolerance)
    return {
        "tolerance": tolerance,
        "wanted_width": widths.wanted,
        "width": planned.width,
        "branch_width": planned.branch_width,
        "largest": largest,
        "last": last,
        "kept_everywhere": int(np.sum(np.array(largest) <= limit)),
        "kept_at_the_end": int(np.sum(np.array(last) <= limit)),
        "kept_in_band": in_band,
        "median_error": float(np.expm1(np.median(largest))),
        "worst_error": float(np.expm1(np.max(largest))),
    }


def measure_stopping(case: Case) -> Result:
    """Few functions with noisy outputs, tested on clean ones."""
    clean, test = small_problem(case.problem, 40)
    steps, model, level = 2000, MODELS[case.model], float(case.method.split()[1])
    noise = level * np.std(clean.outputs) * np.random.default_rng(0).normal(size=clean.outputs.shape)
    train = ft.OperatorDataset(clean.inputs, clean.outputs + noise, clean.sensor_points, clean.query_points)
    marks = [int(mark) for mark in log_spaced_steps(steps, per_decade=60) if mark > 0]
    known: dict[str, Any] = {
        "deviation": measure_width_deviation(train, model, steps, test=test),
        "cost": measure_cost(model, train),
    }
    told = ft.forecast(train, model, None, steps, test, basis="drawn weights", **known)
    limit = ft.forecast(train, model, told.method, steps, test, basis="infinite width", **known)
    errors = np.array(train_for_real(draw_network(model, train, 0), train, test, told.method, 0, marks)["test_error"])
    best = int(np.argmin(errors))
    result: Result = {"measured_step": marks[best], "least_error": errors[best], "last_error": errors[-1]}
    for basis, each in (("drawn weights", told), ("infinite width", limit)):
        step = each.best_stopping_step
        at_step = float(np.interp(np.log(max(step, 1)), np.log(marks), errors))
        result[basis] = {"step": step, "ratio": step / marks[best], "excess_error": at_step / errors[best] - 1}
    return result


def measure_stability(case: Case) -> Result:
    """A run at a multiple of 1 / (largest eigenvalue of the drawn weights' kernel), and its verdict."""
    train, _ = problem(case.problem)
    model, multiple = MODELS[case.model], float(case.method.split()[0])
    largest = drawn_kernels(draw_network(model, train, 0), train, None)[0].eigenvalue_max(1e-4)
    run = ft.train(train, model, ft.GradientDescent(multiple / largest), steps=300)
    return {
        "verdict": run.certificate.verdict,
        "first_violation": run.certificate.first_violation,
        "last_step": int(run.steps[-1]),
        "largest_loss": float(np.max(run.loss) / run.loss[0]),
        "last_loss": float(run.loss[-1] / run.loss[0]),
        "expected": "held" if multiple < 2 else "unstable",
        "checks": [
            {"name": check.name, "value": check.value, "limit": check.limit, "held": check.held}
            for check in run.certificate.checks
        ],
    }


def measure_overhead(case: Case) -> Result:
    """The certified run's whole time against that of its steps alone; once with compilation, once without."""
    train, _ = problem(case.problem)
    steps, model = int(case.method.split()[0].replace(",", "")), MODELS[case.model]
    told = ft.forecast(train, model, None, steps, basis="drawn weights")
    method = replace(told.method, step_size=told.step_size)
    result: Result = {"steps": steps}
    for name in ("first", "again"):
        if name == "first":
            jax.clear_caches()
        clock = Clock()
        run = ft.train(train, model, steps=steps, told=told)
        seconds, processor = clock.read()
        clock = Clock()
        motion, _ = advance(
            motion_of(draw_network(model, train, 0), method), *training_arrays(run.network, train), method, 0, steps
        )
        jax.block_until_ready(eqx.filter(motion, eqx.is_array))
        bare, bare_processor = clock.read()
        result[name] = {
            "seconds": seconds,
            "stepping_seconds": run.seconds,
            "bare_seconds": bare,
            "share": seconds / run.seconds - 1,
            "share_of_bare": seconds / bare - 1,
            "processor_share_of_bare": processor / bare_processor - 1,
        }
    return result


LARGE: dict[str, Any] = {
    "block 1024 x 64": ft.ShallowOperator(1024, 64),
    "DeepONet 512": ft.DeepONet(512, branch_depth=4, trunk_depth=3),
    "FNO 64": ft.FNO(),
}


def measure_large(case: Case) -> Result:
    """A forecast of 10,000 steps on 1,000 functions and 128 points, beside the time of a few real steps."""
    train = ft.problems.burgers(1000, resolution=128)
    model = LARGE[case.model]
    jax.clear_caches()
    clock = Clock()
    told = ft.forecast(train, model, None, LONG_RUN)
    seconds, processor = clock.read()
    network = draw_network(model, train, 0)
    arrays, method = training_arrays(network, train), replace(told.method, step_size=told.step_size)
    motion, _ = advance(motion_of(network, method), *arrays, method, 0, 1)
    jax.block_until_ready(eqx.filter(motion, eqx.is_array))
    clock, count = Clock(), 4
    motion, _ = advance(motion, *arrays, method, 1, count)
    jax.block_until_ready(eqx.filter(motion, eqx.is_array))
    each, processor_each = (total / count for total in clock.read())
    memory = {what: in_own_process(what, case.model) for what in ("forecast", "step")}
    return {
        "forecast_seconds": seconds,
        "step_seconds": each,
        "foretold_step_seconds": told.cost.seconds_per_step,
        "krylov_steps": told.curves.basis_size,
        "share_of_long_run": seconds / (LONG_RUN * each),
        "processor_share_of_long_run": processor / (LONG_RUN * processor_each),
        "memory": memory,
    }
