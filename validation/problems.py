"""Every problem: does its solver converge as it should, how exact is it by default, how easy are its data?

Run: .venv/bin/python validation/problems.py [--cache FOLDER] [--json FILE]; about ten minutes of one core.
The first table has a line for each solver: relative L2 errors (the mean over some functions) at coarser and finer
settings, the last of them the default, against an exact solution, another method or much finer settings; the order
seen between the last two, and whether order and error are as promised (rough initial states of Burgers' equation and
jumps of the Darcy medium cost some of the order that smooth ones have). The second has, for 1,000 functions to train
and 200 to test, the error of the mean output and of a linear model (ridge regression, its strength chosen by a fifth of
the training functions), and the seconds that 1,000 functions took. Exit code 1 if a solver is not as promised.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from advection_heat import legendre_solution
from scipy.integrate import cumulative_simpson, solve_ivp

from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.problems import PUBLISHED, cached, published
from foretrain.problems import _half_waves as half_waves
from foretrain.problems import _heat as heat_module
from foretrain.problems import _wave as wave_module

STRENGTHS = 10.0 ** np.arange(-13, 2)
TOO_EASY = 0.05
"""Of the mean's error: where a linear model is below, or at 2 % or less, the data say little about other models."""


@dataclass(frozen=True)
class Line:
    """A solver's errors at settings from coarse to default; `order` is promised, None where there is no such number."""

    problem: str
    solver: str
    against: str
    settings: tuple[int, ...]
    errors: tuple[float, ...]
    order: float | None
    limit: float

    @property
    def seen(self) -> float | None:
        """The order between the last two settings."""
        if self.order is None or len(self.errors) < 2:
            return None
        return float(np.log(self.errors[-2] / self.errors[-1]) / np.log(self.settings[-1] / self.settings[-2]))

    @property
    def verdict(self) -> str:
        """pass, or what is wrong."""
        if not self.errors[-1] <= self.limit:
            return f"FAIL: error above {self.limit:g}"
        return "pass" if self.seen is None or self.seen >= 0.85 * self.order else f"FAIL: order below {self.order:g}"


def refined(
    problem: str, solver: str, name: str, settings: tuple[int, ...], finest: int, order: float | None, limit: float,
    samples: int = 4, **parameters: object,
) -> Line:  # fmt: skip
    """One parameter from coarse to fine, against much finer."""
    make = {"samples": samples} | parameters
    reference = cached(problem, None, **make, **{name: finest}).outputs
    outputs = [cached(problem, None, **make, **{name: setting}).outputs for setting in settings]
    errors = tuple(mean_relative_error(values, reference) for values in outputs)
    return Line(problem, solver, f"{name} {finest}", settings, errors, order, limit)


def rods() -> Line:
    """Heat, against a Galerkin method in Legendre polynomials."""
    field, points = half_waves.gaussian_field(4, 0.1, np.random.default_rng(0)), np.linspace(0, 1, 64)
    exponents = np.log(4.0) / 2 * field
    exact = np.stack([legendre_solution(row, points, 160) for row in exponents])
    errors = []
    for sines in (16, 32, 64):
        medium = np.exp(exponents @ half_waves.cosines(field.shape[1], np.linspace(0, 1, 4 * sines + 1)))
        spectra = heat_module._galerkin_solution(medium, np.array([0.05]))[:, 0]
        errors.append(mean_relative_error(spectra @ half_waves.sines(sines, points), exact))
    errors.append(mean_relative_error(cached("heat", None, samples=4).outputs, exact))
    return Line("heat", "sines, exact in time", "Legendre polynomials", (16, 32, 64, 128), tuple(errors), None, 1e-8)


def strings() -> Line:
    """Waves, against four times as many sines as a function gets."""
    field, points = half_waves.gaussian_field(4, 0.2, np.random.default_rng(0)), np.linspace(0, 1, 64)
    exponents, solutions = np.log(1.2) / 2 * field, {}
    for sines in (16, 32, 64, 512):
        squares = np.exp(2 * exponents @ half_waves.cosines(field.shape[1], np.linspace(0, 1, 4 * sines + 1)))
        spectra = wave_module.galerkin_waves(squares, wave_module.pulse(sines, 0.1), np.array([1.0]))[:, 0]
        solutions[sines] = spectra @ half_waves.sines(sines, points)
    finest = solutions.pop(512)
    errors = [mean_relative_error(values, finest) for values in solutions.values()]
    errors.append(mean_relative_error(cached("wave", None, samples=4).outputs, finest))
    return Line("wave", "sines, exact in time", "512 sines", (16, 32, 64, 128), tuple(errors), None, 1e-7)


def swings() -> Line:
    """Pendulums, against SciPy's DOP853."""
    data = cached("pendulum", None, samples=4)
    field = 0.3 * half_waves.gaussian_field(4, 1 / 6, np.random.default_rng(0))
    times = data.query_points[:, 0]

    def rate(row: np.ndarray) -> Callable[[float, np.ndarray], list[float]]:
        def of(time: float, state: np.ndarray) -> list[float]:
            push = row @ half_waves.cosines(len(row), np.array([time / 6]))[:, 0]
            return [state[1], push - np.sin(state[0])]

        return of

    exact = np.stack(
        [solve_ivp(rate(row), (0, 6), [0, 0], "DOP853", times, rtol=1e-12, atol=1e-13).y[0] for row in field]
    )
    settings = (63, 126, 252, data.description["time_steps"])
    errors = [
        mean_relative_error(cached("pendulum", None, samples=4, time_steps=steps).outputs, exact) for steps in settings
    ]
    return Line("pendulum", "Runge-Kutta 4", "SciPy's DOP853", settings, tuple(errors), 4.0, 1e-8)


def antiderivatives() -> Line:
    """Exact, so that Simpson's rule converges to it at its own order."""
    errors, settings = [], (65, 129, 257)
    for points in settings:
        data = cached("antiderivative", None, samples=4, resolution=points)
        sums = cumulative_simpson(data.inputs, dx=1 / (points - 1), axis=1, initial=0)
        errors.append(mean_relative_error(sums, data.outputs))
    return Line("antiderivative", "exact", "Simpson's rule", settings, tuple(errors), 3.0, 1e-5)


def shifts(setup: str) -> Line:
    """Exact, so that on a grid that moves onto itself outputs are inputs in another order, to the last bit."""
    data = cached("advection", None, samples=50, setup=setup, resolution=200, repeat_end=False)
    states = data.outputs.reshape(50, -1, 200)
    moved = [np.roll(data.inputs, step, axis=1) for step in (range(200) if setup == "I" else [100])]
    return Line(
        f"advection {setup}", "exact", "inputs moved along", (200,),
        (float(np.abs(states - np.stack(moved, axis=1)).max()),), None, 0.0,
    )  # fmt: skip


CHECKS: tuple[Callable[[], Line], ...] = (
    lambda: refined("burgers", "exponential RK 4", "time_steps", (25, 50, 100), 800, 2.5, 1e-6, resolution=16),
    lambda: refined(
        "burgers", "Fourier", "simulation_resolution", (512,), 1024, None, 1e-6, resolution=16, time_steps=200
    ),
    lambda: refined(
        "darcy", "finite volumes", "simulation_resolution", (57, 141, 253), 1121, 0.8, 3e-3, 8, coefficient="piecewise"
    ),
    lambda: refined(
        "darcy", "finite volumes", "simulation_resolution", (57, 141, 253), 1121, 1.8, 1e-4, 4, coefficient="log-normal"
    ),
    lambda: shifts("I"),
    lambda: shifts("II"),
    antiderivatives,
    rods,
    strings,
    swings,
    lambda: refined("poisson", "sines, Newton", "simulation_resolution", (17, 33, 65), 129, None, 1e-8, resolution=17),
    lambda: refined(
        "poisson", "sines, exact", "simulation_resolution", (33, 65), 129, None, 1e-12, 4, resolution=17,
        equation="linear",
    ),
    lambda: refined("helmholtz", "cosines, GMRES", "simulation_resolution", (101, 201), 801, 2.0, 2e-4),
    lambda: bilinear(),
    lambda: refined("navier_stokes", "exponential RK 4", "time_steps", (5, 10, 20), 80, 4.0, 1e-6),
    lambda: refined("navier_stokes", "Fourier", "simulation_resolution", (32, 64), 128, None, 1e-6, resolution=16),
)  # fmt: skip


def bilinear() -> Line:
    """The published elements against cosines, at a frequency where they are on their way to the truth."""
    make = {"samples": 3, "frequency": 300.0, "resolution": 26}
    exact, settings = cached("helmholtz", None, **make, simulation_resolution=801).outputs, (50, 100, 200)
    outputs = [cached("helmholtz", None, **make, elements=count).outputs for count in settings]
    errors = tuple(mean_relative_error(values, exact) for values in outputs)
    return Line("helmholtz, w = 300", "bilinear elements", "cosines", settings, errors, 2.0, 1e-2)


@dataclass(frozen=True)
class Ease:
    """How far models without any nonlinearity get."""

    data: str
    mean: float
    linear: float
    seconds: float
    told: str | None

    @property
    def verdict(self) -> str:
        """Whether errors on it say much."""
        easy = self.linear <= max(TOO_EASY * self.mean, 0.02) or self.told
        return "too easy to judge by" if easy else ""


def linear_error(train: OperatorDataset, test: OperatorDataset) -> float:
    kept = len(train) * 4 // 5
    learn, held = train.take(slice(kept)), train.take(slice(kept, None))
    chosen = min(zip(ridge_errors(learn, held), STRENGTHS, strict=True))[1]
    return ridge_errors(train, test)[int(np.flatnonzero(chosen == STRENGTHS)[0])]


def ridge_errors(learn: OperatorDataset, check: OperatorDataset) -> list[float]:
    """For every strength; by the eigenvectors of the functions' inner products, as points are many."""
    centre, level = learn.inputs.mean(axis=0), learn.outputs.mean(axis=0)
    left, new = learn.inputs - centre, check.inputs - centre
    eigenvalues, vectors = np.linalg.eigh(left @ left.T)
    across, parts = new @ left.T @ vectors, vectors.T @ (learn.outputs - level)
    scale, errors = eigenvalues[-1], []
    for strength in STRENGTHS:
        weights = parts / (np.maximum(eigenvalues, 0.0) + strength * scale)[:, None]
        errors.append(mean_relative_error(level + across @ weights, check.outputs))
    return errors


def ease(name: str, make: Callable[[], tuple[OperatorDataset, OperatorDataset]], told: str | None = None) -> Ease:
    begun = time.process_time()
    train, test = make()
    seconds = (time.process_time() - begun) * 1000 / (len(train) + len(test))
    mean = mean_relative_error(np.broadcast_to(train.outputs.mean(axis=0), test.outputs.shape), test.outputs)
    return Ease(name, mean, linear_error(train, test), seconds, told)


OWN: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("burgers, viscosity 0.1/(2 pi)", "burgers", {}),
    ("burgers, viscosity 0.01", "burgers", {"viscosity": 0.01}),
    ("darcy, log-normal", "darcy", {"coefficient": "log-normal"}),
    ("heat", "heat", {}),
    ("heat, linear", "heat", {"conductivity": "constant"}),
    ("wave", "wave", {}),
    ("wave, linear", "wave", {"given": "displacement"}),
    ("poisson, cubic", "poisson", {}),
    ("poisson, linear", "poisson", {"equation": "linear"}),
    ("pendulum", "pendulum", {}),
    ("pendulum, duration 1", "pendulum", {"duration": 1.0, "length_scale": 0.2, "amplitude": 1.0}),
    ("antiderivative", "antiderivative", {}),
    ("navier-stokes, amplitude 10", "navier_stokes", {"amplitude": 10.0}),
    ("helmholtz, exact", "helmholtz", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cache", type=Path, help="keep the data of the second table here (seconds are then of reading)"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--only", choices=("solvers", "ease"), help="one table only")
    chosen = parser.parse_args()
    lines, eases = [], []
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    if chosen.only != "ease":
        print(f"{'problem':20} {'solver':22} {'against':26} {'settings':18} {'errors':40} {'order':>6}  verdict")
        for check in CHECKS:
            line = check()
            lines.append(line)
            errors, settings = " ".join(f"{error:9.1e}" for error in line.errors), " ".join(map(str, line.settings))
            order = "" if line.seen is None else f"{line.seen:.2f}"
            print(
                f"{line.problem:20} {line.solver:22} {line.against:26} {settings:18} {errors:40} {order:>6}  "
                f"{line.verdict}",
                flush=True,
            )
    if chosen.only != "solvers":
        print(f"\n{'1,000 functions to train, 200 to test':40} {'mean':>8} {'linear':>9} {'s / 1,000':>10}")
        for name, setup in PUBLISHED.items():
            eases.append(
                ease(
                    f"published: {name}",
                    lambda name=name: published(name, 1000, 200, cache=chosen.cache),
                    setup.too_easy,
                )
            )
            print_ease(eases[-1])
        for name, problem, parameters in OWN:
            eases.append(
                ease(name, lambda problem=problem, parameters=parameters: parts(problem, parameters, chosen.cache))
            )
            print_ease(eases[-1])
    if chosen.json:
        solvers = [asdict(line) | {"seen": line.seen, "verdict": line.verdict} for line in lines]
        chosen.json.write_text(
            json.dumps({"solvers": solvers, "ease": [asdict(one) | {"verdict": one.verdict} for one in eases]})
        )
    sys.exit(any(line.verdict != "pass" for line in lines))


def parts(problem: str, parameters: dict[str, object], cache: Path | None) -> tuple[OperatorDataset, OperatorDataset]:
    data = cached(problem, cache, **parameters, samples=1200)
    return data.take(slice(1000)), data.take(slice(1000, None))


def print_ease(one: Ease) -> None:
    print(f"{one.data:40} {one.mean:8.1%} {one.linear:9.2e} {one.seconds:10.1f}  {one.verdict}", flush=True)


if __name__ == "__main__":
    main()
