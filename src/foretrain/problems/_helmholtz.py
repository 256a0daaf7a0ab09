"""Sound of one frequency in a square box that an uneven medium fills."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.fft import dctn, idctn
from scipy.sparse.linalg import LinearOperator, gmres

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._bilinear_elements import BilinearElements

INVERSE_LENGTH = 3.0
MODES = 100
"""As published: the longest of the field's cosines."""
LEFT, RIGHT = 0.35, 0.65
"""Between them sound enters through the side y = 1, as published."""
SERIES = 100_000
"""Cosines of what enters through that side; the rest amounts to 1e-10 of it."""
LEAST_INTERVALS = 200
LARGEST_WAVE_NUMBER = 200.0
CANDIDATES = 41
"""Constants from which the best separated from the box's own frequencies is chosen."""
TOLERANCE = 1e-10
MOST_ITERATIONS = 300
BYTES_FOR_EACH_NODE = 8 * (MOST_ITERATIONS + 20)
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""


def helmholtz(
    samples: int = 1200,
    frequency: float = 1000.0,
    resolution: int = 101,
    key: int = 0,
    *,
    speed: float = 20.0,
    variation: float = 1.0,
    simulation_resolution: int | None = None,
    elements: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Speed of sound in a box to the sound in it, of one frequency.

        Laplace s + (frequency / c)^2 s = 0   on the unit square,   c = speed + variation tanh psi,
        s_y = 1 where y = 1 and .35 <= x <= .65,   normal derivative 0 elsewhere on the boundary,

    with psi ~ N(0, (-Laplace + 9)^-2) of zero mean and zero normal derivatives, its hundred longest cosines. As
    published: about eight wave lengths fit into the box.

    Solved in double precision by cosines. What enters through the side, which jumps, is solved exactly for a constant
    medium, in closed form in y; the rest is an integral equation of the second kind at the nodes of a finer grid, and
    read off at `resolution` x `resolution` of them, boundary included, x first, listed row by row. **Accurate to second
    order,** as what enters has a kink in the cosines of y: the relative error is about 5e-5 on the grid taken by
    default (`validation/problems.py`).

    **The published data are another operator's.** They were made by bilinear elements of width 1/100, which take the
    box's own frequencies for up to 1 % higher ones, so that those next to the frequency at which it is driven are not
    the true ones: the solutions differ by three quarters. `elements=100` makes data like the published; after 1,000
    functions of these the relative error is 45 % for the mean, 11 % for a linear model (10.6 % published). In the true
    box some media, about one of 200, resound hundreds of times louder than the others: relative errors of functions
    are then the ones to look at.

    Arguments:
        samples: how many pairs of functions.
        frequency: angular, above 0; frequency over speed is at most 200. Published: 1000.
        resolution: nodes along each side of the returned grid, both ends included, at least 8; published: 101.
        key: seed; the same key gives the same fields psi whatever the other settings.
        speed: of sound where psi is zero; published: 20.
        variation: of the speed, above 0 and at most half of it; published: 1, by which speeds differ by 1 %.
        simulation_resolution: nodes along each side of the simulation's grid; one less must be a multiple of
            `resolution` - 1. By default at least 201.
        elements: solve by so many bilinear finite elements along each side instead, a multiple of `resolution` - 1;
            published: 100.

    Raises:
        ForetrainError: if a size is out of range, the grids do not nest, or the box resounds too loudly to be solved.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: de Hoop, Huang, Qian and Stuart, "The cost-accuracy trade-off in operator learning with neural networks"
    (2022), for the set-up; Saad and Schultz (1986), GMRES, for the integral equation.
    """
    if samples < 2 or resolution < 8:
        raise ForetrainError(f"helmholtz: expected samples >= 2 and resolution >= 8, came {samples} and {resolution}")
    if not speed > 0 or not frequency > 0 or not frequency / speed <= LARGEST_WAVE_NUMBER:
        raise ForetrainError(
            f"helmholtz: expected a frequency and a speed above 0, the first at most {LARGEST_WAVE_NUMBER:g} times the "
            f"second, came {frequency:g} and {speed:g}"
        )
    if not 0 < variation <= speed / 2:
        raise ForetrainError(
            f"helmholtz: expected a variation above 0 and at most half of the speed {speed:g}, came {variation:g}"
        )
    nodes = (
        _nested_resolution(resolution, frequency / speed) if simulation_resolution is None else simulation_resolution
    )
    if nodes < resolution or (nodes - 1) % (resolution - 1):
        raise ForetrainError(
            f"helmholtz: expected a simulation resolution that is one more than a multiple of {resolution - 1}, "
            f"came {nodes}"
        )
    if elements is not None and (elements < resolution - 1 or elements % (resolution - 1)):
        raise ForetrainError(
            f"helmholtz: expected a number of elements that is a multiple of {resolution - 1}, came {elements}"
        )
    nodes = nodes if elements is None else elements + 1
    require_memory(
        BYTES_FOR_EACH_VALUE * 2 * samples * resolution**2 + BYTES_FOR_EACH_NODE * nodes**2,
        "simulating sound",
        "ask for fewer samples or a coarser grid",
    )
    solve, solver_points = _solver(nodes, frequency / speed, elements)
    grid, returned = np.linspace(0.0, 1.0, resolution), slice(None, None, (nodes - 1) // (resolution - 1))
    coefficients = np.random.default_rng(key).standard_normal((samples, MODES))
    inputs, outputs = np.empty((2, samples, resolution, resolution))
    for row in range(samples):
        progress("simulating sound", row, samples)
        inputs[row] = speed + variation * np.tanh(_field(coefficients[row], grid))
        medium = speed + variation * np.tanh(_field(coefficients[row], solver_points))
        outputs[row] = solve((frequency / medium) ** 2)[returned, returned]
    progress("simulating sound", samples, samples)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(
        inputs,
        outputs,
        points,
        points,
        name=f"Helmholtz, frequency {frequency:.4g}",
        description={
            "equation": "Laplace s + (frequency / c)^2 s = 0 on the unit square, s_y = 1 on part of the side y = 1, "
            "c -> s",
            "problem": "helmholtz",
            "frequency": frequency,
            "speed": speed,
            "variation": variation,
            "simulation_resolution": nodes,
            "elements": elements,
            "key": key,
        },
    )


def _nested_resolution(resolution: int, wave_number: float) -> int:
    """Nodes of the least grid that contains the returned one and has at least 25 to a wave."""
    needed = max(LEAST_INTERVALS, 4 * wave_number)
    return 1 + (resolution - 1) * int(np.ceil(needed / (resolution - 1)))


def _solver(
    nodes: int, wave_number: float, elements: int | None
) -> tuple[
    Callable[[Float[np.ndarray, "points points"]], Float[np.ndarray, "nodes nodes"]], Float[np.ndarray, " points"]
]:
    """A map from squares of wave numbers to sound at the nodes, and the coordinates where it wants the former."""
    if elements is None:
        return _Box(nodes, wave_number).sound, np.linspace(0.0, 1.0, nodes)
    mesh = BilinearElements(elements, LEFT, RIGHT)
    return mesh.sound, mesh.gauss_points


@functools.cache
def _modes() -> tuple[Float[np.ndarray, "modes 2"], Float[np.ndarray, " modes"]]:
    """Numbers of half waves across and along of the longest cosines, and the deviations of their amplitudes."""
    numbers = np.stack(np.meshgrid(*[np.arange(2 * int(MODES**0.5))] * 2, indexing="ij"), axis=-1).reshape(-1, 2)[1:]
    numbers = numbers[np.argsort((numbers**2).sum(axis=1), kind="stable")][:MODES]
    deviations = 1 / (np.pi**2 * (numbers**2).sum(axis=1) + INVERSE_LENGTH**2)
    # Cosines other than the constant have a mean square of one half, eigenfunctions one of one.
    return numbers, deviations * np.sqrt(2.0) ** (numbers > 0).sum(axis=1)


def _field(
    coefficients: Float[np.ndarray, " modes"], grid: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "points points"]:
    """Sum of the longest cosines with those standard normal coefficients, on the square of the grid."""
    numbers, deviations = _modes()
    across, along = (np.cos(np.pi * np.outer(number, grid)) for number in numbers.T)
    return (across * (coefficients * deviations)[:, None]).T @ along


class _Box:
    """The square with hard walls, sound entering through one of them.

    With s = s0 + v, s0 the sound in a constant medium of wave number k0 and q = k^2 - k0^2,

        v = G q (s0 + v),   G = (-Laplace - k0^2)^-1 with hard walls, diagonal in cosines.

    G is compact, so that a few steps of GMRES solve the equation whatever the grid.
    """

    def __init__(self, nodes: int, wave_number: float) -> None:
        self._nodes = nodes
        eigenvalues = (np.pi * np.arange(nodes)) ** 2
        eigenvalues = eigenvalues[:, None] + eigenvalues
        self._square = _between(eigenvalues, wave_number**2)
        self._inverse = 1.0 / (eigenvalues - self._square)
        self._even = _sound_of_a_constant_medium(nodes, self._square)

    def sound(self, square: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, "nodes nodes"]:
        """The solution, given the squares of the wave numbers at the nodes."""
        uneven = square - self._square
        shape = uneven.shape

        def equation(values: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
            values = values.reshape(shape)
            return (values - self._echo(uneven * values)).ravel()

        source = self._echo(uneven * self._even)
        operator = LinearOperator((source.size, source.size), matvec=equation, dtype=np.float64)
        rest, failed = gmres(operator, source.ravel(), rtol=TOLERANCE, atol=0.0, restart=MOST_ITERATIONS, maxiter=1)
        if failed:
            raise ForetrainError(
                f"helmholtz: expected a relative residual of {TOLERANCE:g} after {MOST_ITERATIONS} steps of the "
                "solver, came more; ask for a smaller variation or frequency"
            )
        return self._even + rest.reshape(shape)

    def _echo(self, source: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, "nodes nodes"]:
        """G source."""
        return idctn(dctn(source, type=1) * self._inverse, type=1, overwrite_x=True)


def _between(eigenvalues: Float[np.ndarray, "modes modes"], square: float) -> float:
    """A constant close to `square` and away from all eigenvalues, where the box would resound without end."""
    candidates = square + np.pi**2 * np.linspace(-1, 1, CANDIDATES)
    near = eigenvalues[np.abs(eigenvalues - square) < 10 * np.pi**2]
    return float(candidates[np.argmax(np.abs(candidates[:, None] - near).min(axis=1, initial=10 * np.pi**2))])


def _sound_of_a_constant_medium(nodes: int, square: float) -> Float[np.ndarray, "nodes nodes"]:
    """sum_m g_m cos(m pi x) cosh(r_m y) / (r_m sinh r_m), r_m^2 = (m pi)^2 - k0^2, g_m of what enters at y = 1."""
    intervals, grid = nodes - 1, np.linspace(0.0, 1.0, nodes)
    numbers = np.pi * np.arange(1, SERIES)
    entering = np.concatenate([[RIGHT - LEFT], 2 * (np.sin(RIGHT * numbers) - np.sin(LEFT * numbers)) / numbers])
    rates = np.sqrt(np.concatenate([[0.0], numbers]) ** 2 - square + 0j)
    rates = np.where(rates == 0, 1e-8, rates)
    sound = np.zeros((nodes, nodes))
    modes = np.arange(SERIES)
    for column, height in enumerate(grid):
        # Beyond, exponentials are below rounding.
        kept = SERIES if height == 1 else min(SERIES, int(40 / (np.pi * (1 - height))) + int(np.sqrt(square)) + 2)
        rate = rates[:kept]
        ratio = (np.exp(rate * (height - 1)) + np.exp(-rate * (height + 1))) / (rate * (1 - np.exp(-2 * rate)))
        amplitudes = entering[:kept] * ratio.real
        # On the grid every cosine is one of the first, which the transform sums.
        number = modes[:kept] % (2 * intervals)
        places = np.minimum(number, 2 * intervals - number)
        folded = np.bincount(places, weights=amplitudes, minlength=nodes).astype(np.float64)
        folded[1:-1] /= 2
        sound[:, column] = dctn(folded, type=1)
    return sound
