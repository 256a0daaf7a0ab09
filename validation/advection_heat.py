"""Advection and heat: published figures, convergence of the solver, and how far a linear model gets.

Run: .venv/bin/python validation/advection_heat.py [--picture FILE.html]
Advection is evaluated exactly, so there is no order to show; what is shown is what its set-ups leave to learn. The rods
of the heat problem are compared with a Galerkin method in Legendre polynomials, 200 of them, beside which is printed
how much 160 differ from them. Errors are relative L2 errors of single functions, linear models ridge regressions whose
strength a fifth of the training data chose. The picture (plotly, foretrain[report]) has three functions of each
problem, inputs above and outputs below.
"""

import argparse
import datetime
import platform
import time

import numpy as np
import scipy.linalg

from foretrain.data import OperatorDataset, relative_errors
from foretrain.problems import _advection, _heat

PUBLISHED_FUNCTIONS = 20_000
"""Of advection II, to train and as many to test."""
SINES = (16, 32, 64, 128, 256)
DEGREES = (160, 200)
"""Of the polynomials; what their solutions differ by says how good the second is."""
RODS = ((4.0, 0.1), (4.0, 0.2), (4.0, 0.05), (20.0, 0.1), (100.0, 0.2))
"""Contrast and length scale."""
FUNCTIONS_FOR_EACH_ROD = 8
ELAPSED = 0.05
RESOLUTION = 64
STRENGTHS = 10.0 ** np.arange(-12, 2)


def ridge(inputs: np.ndarray, outputs: np.ndarray, strength: float, new: np.ndarray) -> np.ndarray:
    centre, level = inputs.mean(axis=0), outputs.mean(axis=0)
    left = inputs - centre
    gram = left.T @ left / np.mean(np.sum(left**2, axis=1))
    gram += strength * np.eye(len(gram))
    weights = np.linalg.solve(gram, left.T @ (outputs - level) / np.mean(np.sum(left**2, axis=1)))
    return (new - centre) @ weights + level


def linear_errors(train: OperatorDataset, test: OperatorDataset) -> np.ndarray:
    kept = len(train) * 4 // 5
    inputs, outputs = train.inputs[:kept], train.outputs[:kept]
    held = [
        relative_errors(ridge(inputs, outputs, strength, train.inputs[kept:]), train.outputs[kept:]).mean()
        for strength in STRENGTHS
    ]
    strength = STRENGTHS[int(np.argmin(held))]
    return relative_errors(ridge(train.inputs, train.outputs, strength, test.inputs), test.outputs)


def print_published_advection() -> None:
    """The 40,000 functions of advection II as published, repetitions and all."""
    fields = np.random.default_rng(0).standard_normal((2 * PUBLISHED_FUNCTIONS, 2 * _advection.HARMONICS))
    grid = np.linspace(0.0, 1.0, 200)
    inputs, outputs = _advection._signs(fields, grid), _advection._signs(fields, grid - 0.5)
    train, test = slice(PUBLISHED_FUNCTIONS), slice(PUBLISHED_FUNCTIONS, None)
    linear = relative_errors(ridge(inputs[train], outputs[train], 1e-12, inputs[test]), outputs[test])
    behind = np.stack([inputs[:, (np.arange(200) + 99) % 199], inputs[:, (np.arange(200) + 100) % 199]])
    neighbours = relative_errors(behind.mean(axis=0)[test], outputs[test])
    jumps = np.sum(inputs[:, 1:] != inputs[:, :-1], axis=1)
    known = {row.tobytes() for row in inputs[train]}
    repeated = np.mean([row.tobytes() in known for row in inputs[test]])
    print(f"Advection II as published, {PUBLISHED_FUNCTIONS:,} to train and to test")
    print(f"  distinct functions of {len(inputs):,}:     {len(np.unique(inputs, axis=0)):,}")
    print(f"  of the test, also in training:     {repeated:.1%}")
    print(f"  with two jumps, four, more:        {jumps_shares(jumps)}")
    print(f"  sqrt(jumps / points), the least:   {np.sqrt(jumps / 200).mean():.2%}")
    print(f"  mean of the two sensors around:    {neighbours.mean():.2%}")
    print(f"  linear model:                      {linear.mean():.2%}   (published: 11.3 %; best kernel 11.4, FNO 13.5)")


def jumps_shares(jumps: np.ndarray) -> str:
    return ", ".join(f"{share:.1%}" for share in (np.mean(jumps == 2), np.mean(jumps == 4), np.mean(jumps > 4)))


def print_baselines() -> None:
    problems = {
        "advection II, 200 points, default": _advection.advection(2000),
        "advection II, circle of 199": _advection.advection(2000, resolution=199, repeat_end=False),
        "advection II, circle of 200": _advection.advection(2000, resolution=200, repeat_end=False),
        "advection I, 40 x 40, as published": _advection.advection(2000, "I"),
        "heat, variable, default": _heat.heat(2000),
        "heat, variable, 16 times": _heat.heat(2000, times=16),
        "heat, variable, length scale 0.2": _heat.heat(2000, length_scale=0.2),
        "heat, variable, contrast 10": _heat.heat(2000, contrast=10.0),
        "heat, constant, 16 times": _heat.heat(2000, "constant"),
    }
    print(f"\n{'1,000 functions to train, 1,000 to test':40} {'mean':>8} {'linear':>10} {'+-':>8}")
    for problem, data in problems.items():
        train, test = data.split(1000)
        constant = relative_errors(np.broadcast_to(train.outputs.mean(axis=0), test.outputs.shape), test.outputs)
        linear = linear_errors(train, test)
        spread = linear.std() / np.sqrt(len(linear))
        print(f"{problem:40} {constant.mean():8.1%} {linear.mean():10.2e} {spread:8.0e}", flush=True)


def legendre_solution(exponents: np.ndarray, points: np.ndarray, degree: int) -> np.ndarray:
    """The rod that starts at one, by differences of Legendre polynomials, whose slopes are Legendre polynomials."""
    nodes, weights = np.polynomial.legendre.leggauss(4 * degree)
    scale = np.sqrt(np.arange(degree) + 1.5)
    polynomials = np.polynomial.legendre.legvander(nodes, degree + 1)
    shapes = (polynomials[:, :-2] - polynomials[:, 2:]) / (2 * scale)
    slopes = scale * polynomials[:, 1:-1]
    medium = np.exp(exponents @ _heat._cosines(len(exponents), (nodes + 1) / 2))
    stiffness = 2 * slopes.T @ ((weights * medium)[:, None] * slopes)
    mass = shapes.T @ (weights[:, None] * shapes) / 2
    durations, vectors = scipy.linalg.eigh(mass, stiffness)
    durations = np.maximum(durations, 1e-30)
    amplitudes = np.exp(-ELAPSED / durations) / durations * (vectors.T @ (weights @ shapes / 2))
    at_points = np.polynomial.legendre.legvander(2 * points - 1, degree + 1)
    return (at_points[:, :-2] - at_points[:, 2:]) / (2 * scale) @ (vectors @ amplitudes)


def print_convergence() -> None:
    points = np.linspace(0.0, 1.0, RESOLUTION)
    print(f"\n{'rods: contrast, length scale':30}" + "".join(f"{sines:>9}" for sines in SINES), end="")
    print(f"{'as given':>10} {'polynomials':>12} {'1,200 take':>11}")
    for contrast, length_scale in RODS:
        field = _heat._gaussian_field(FUNCTIONS_FOR_EACH_ROD, length_scale, np.random.default_rng(0))
        exponents = np.log(contrast) / 2 * field
        coarse, exact = (np.stack([legendre_solution(row, points, degree) for row in exponents]) for degree in DEGREES)
        print(f"{f'{contrast:g}, {length_scale:g}':30}", end="")
        for sines in SINES:
            nodes = np.linspace(0.0, 1.0, 4 * sines + 1)
            medium = np.exp(exponents @ _heat._cosines(exponents.shape[1], nodes))
            solution = _heat._galerkin_solution(medium, np.array([ELAPSED]))[:, 0] @ _heat._sines(sines, points)
            print(f"{relative_errors(solution, exact).max():9.0e}", end="")
        started = time.process_time()
        data = _heat.heat(FUNCTIONS_FOR_EACH_ROD * 10, contrast=contrast, length_scale=length_scale)
        seconds = (time.process_time() - started) * 1200 / len(data)
        error = relative_errors(data.outputs[:FUNCTIONS_FOR_EACH_ROD], exact).max()
        print(f"{error:10.0e} {relative_errors(coarse, exact).max():12.0e} {seconds:9.1f} s", flush=True)


def draw(path: str) -> None:
    from plotly.subplots import make_subplots

    problems = [
        _advection.advection(3),
        _advection.advection(3, "I"),
        _heat.heat(3),
        _heat.heat(3, "constant", times=1),
    ]
    titles = [f"{data.name}, {side}" for side in ("input", "output") for data in problems]
    figure = make_subplots(2, len(problems), subplot_titles=titles)
    for column, data in enumerate(problems, start=1):
        for row in range(3):
            figure.add_scatter(x=data.sensor_points[:, 0], y=data.inputs[row], row=1, col=column, showlegend=False)
            if data.query_points.shape[1] == 1:
                figure.add_scatter(x=data.query_points[:, 0], y=data.outputs[row], row=2, col=column, showlegend=False)
        if data.query_points.shape[1] == 2:
            times, points = (np.unique(axis) for axis in data.query_points.T)
            states = data.outputs[0].reshape(len(times), len(points))
            figure.add_heatmap(x=points, y=times, z=states, row=2, col=column, showscale=False)
    figure.write_html(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Published figures and convergence of the advection and heat problems")
    parser.add_argument("--picture", metavar="FILE.html", help="also draw three functions of each problem")
    picture = parser.parse_args().picture
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print_published_advection()
    print_baselines()
    print_convergence()
    if picture:
        draw(picture)


if __name__ == "__main__":
    main()
