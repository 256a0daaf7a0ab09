"""What a residual looks like over the query points: its principal components, and how often it changes sign."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foretrain.forecast._methods import Method
from foretrain.forecast._spectral import SpectralCurves

Array = np.ndarray
SMALL = 0.05
"""Values below this part of a function's largest one have no sign to speak of."""
NO_SHAPE = 1e-12
"""Principal components with a smaller share of the energy are rounding."""
STEP_GRID = np.unique(np.round(np.append(0, np.logspace(0, 12, 400))))


@dataclass(frozen=True)
class Shape:
    """A principal component over the query points, of root mean square one, its largest value positive.

    Attributes:
        values: at the query points.
        share: of the energy of the residual it is a component of.
        sign_changes: along each axis; None where the points form no grid.
        steps: the step from which on 90 % of the energy along it is learnt (of a remaining residual: 90 % of what it
            still has along it), None if not before 1e12.
    """

    values: Float[Array, " points"]
    share: float
    sign_changes: tuple[float, ...] | None
    steps: int | None


@dataclass(frozen=True)
class ResidualShapes:
    """What a residual [functions, points] looks like over the points.

    Attributes:
        name: initial, learnt or remaining.
        energy: its sum of squares, as a fraction of that of the initial residual.
        shapes: its leading principal components.
        sign_changes: of its functions along each axis, the mean weighted by energy; None where there is no grid.
        roughness: the same in words, empty where there is no grid.
    """

    name: str
    energy: float
    shapes: tuple[Shape, ...]
    sign_changes: tuple[float, ...] | None
    roughness: str


def residual_shapes(
    curves: SpectralCurves,
    method: Method,
    name: str,
    residual: Float[Array, "functions points"],
    points: Float[Array, "points dimension"],
    count: int,
    since: int,
) -> ResidualShapes:
    """The `count` leading principal components of a residual, by its singular vectors.

    Their steps are counted until a tenth is left of the energy that the residual after `since` steps has along them.
    """
    energy = float(np.sum(residual**2))
    relative = energy / curves.basis.norm**2
    if energy == 0:
        return ResidualShapes(name, 0.0, (), None, "")
    _, sizes, components = np.linalg.svd(residual, full_matrices=False)
    shares = sizes**2 / energy
    components = components[:count][shares[:count] > NO_SHAPE]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    components = components * np.sign(largest)
    shapes = tuple(
        Shape(component * len(points) ** 0.5, float(share), sign_changes(component[None], points), steps)
        for component, share, steps in zip(
            components, shares, _steps_to_learn(curves, method, components, since), strict=False
        )
    )
    changes = sign_changes(residual, points)
    return ResidualShapes(name, relative, shapes, changes, roughness(changes))


def _steps_to_learn(curves: SpectralCurves, method: Method, components: Array, since: int) -> list[int | None]:
    """When the energy of the residual's projection on each component is down to a tenth of what it is at a step.

    The projection of r_k on v is |r_0| sum_i S_0i P_k(node_i) (V_i v): a quadratic form in the P_k.
    """
    size, functions, points = curves.basis.vectors.shape
    projected = curves.basis.vectors.reshape(-1, points) @ components.T
    modes = (curves.vectors.T @ projected.reshape(size, -1)).reshape(size, functions, len(components))
    modes = modes * curves.vectors[0][:, None, None]
    forms = [modes[..., index] @ modes[..., index].T for index in range(len(components))]
    with np.errstate(over="ignore", invalid="ignore"):
        on_grid = method.residual_factor(curves.nodes, STEP_GRID)

    def learnt_at(form: Array) -> int | None:
        def energy(factors: Array) -> Array:
            return np.sum((factors @ form) * factors, axis=1)

        level = 0.1 * float(energy(method.residual_factor(curves.nodes, np.array([since])))[0])
        return settling_step(lambda marks: energy(method.residual_factor(curves.nodes, marks)), energy(on_grid), level)

    return [learnt_at(form) for form in forms]


def settling_step(energy: Callable[[Array], Array], on_grid: Float[Array, " grid"], level: float) -> int | None:
    """The step from which on an energy stays at or below a level, None if it does not before 1e12.

    Its values on `STEP_GRID` say between which two of these steps; what it does between others is not looked at.
    """
    high = np.flatnonzero(~(on_grid <= level))
    if not len(high):
        return 0
    if high[-1] == len(STEP_GRID) - 1:
        return None
    above, below = int(STEP_GRID[high[-1]]), int(STEP_GRID[high[-1] + 1])
    while below - above > 1:
        middle = (above + below) // 2
        above, below = (above, middle) if energy(np.array([float(middle)]))[0] <= level else (middle, below)
    return below


def sign_changes(
    values: Float[Array, "functions points"], points: Float[Array, "points dimension"]
) -> tuple[float, ...] | None:
    """How often functions change sign along each axis of the grid, the mean over its lines weighted by their energy.

    None where points of more than one dimension do not form a full grid.
    """
    places = [np.unique(axis, return_inverse=True) for axis in points.T]
    sides = [len(coordinates) for coordinates, _ in places]
    if len(sides) == 1:
        order, sides = np.argsort(points[:, 0], kind="stable"), [len(points)]
    elif np.prod(sides) == len(points) == len(np.unique(points, axis=0)):
        order = np.lexsort([place for _, place in reversed(places)])
    else:
        return None
    grid = values[:, order].reshape(len(values), *sides)
    small = SMALL * np.abs(values).max(axis=1).reshape(-1, *[1] * len(sides))
    signs = np.where(np.abs(grid) > small, np.sign(grid), 0)
    return tuple(_weighted_changes(signs, grid, axis + 1) for axis in range(len(sides)))


def _weighted_changes(signs: Array, grid: Array, axis: int) -> float:
    """Changes of sign along one axis, values without a sign passed over."""
    signs = np.moveaxis(signs, axis, -1)
    last_signed = np.maximum.accumulate(np.where(signs != 0, np.arange(signs.shape[-1]), 0), axis=-1)
    carried = np.take_along_axis(signs, last_signed, axis=-1)
    changes = np.sum(carried[..., 1:] * carried[..., :-1] < 0, axis=-1)
    return float(np.average(changes, weights=np.sum(grid**2, axis=axis)))


def roughness(changes: tuple[float, ...] | None) -> str:
    """The number of sign changes in words."""
    if changes is None:
        return ""
    names = ["y"] if len(changes) == 1 else [f"y{axis + 1}" for axis in range(len(changes))]
    rounded = [round(value) for value in changes]
    if not any(rounded):
        return "keeps its sign"
    parts = [f"{_times(value)} along {name}" for value, name in zip(rounded, names, strict=True)]
    return f"changes sign {' and '.join(parts)}"


def _times(number: int) -> str:
    return {0: "not", 1: "about once", 2: "about twice"}.get(number, f"about {number} times")
