"""Bilinear finite elements for the Helmholtz equation in a square with hard walls, the published discretisation."""

import numpy as np
from jaxtyping import Float
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

GAUSS_POINTS = np.array([-np.sqrt(0.6), 0.0, np.sqrt(0.6)])
GAUSS_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 9.0


class BilinearElements:
    """Equal square elements on the unit square, as many along each side; nodes are listed row by row, x first.

    Sound enters through y = 1 between `left` and `right`, with slope one.
    """

    def __init__(self, elements: int, left: float, right: float) -> None:
        self._nodes, self._spacing = elements + 1, 1.0 / elements
        first = np.arange(elements)
        corner = (first[:, None] * self._nodes + first).ravel()
        corners = np.stack([corner, corner + self._nodes, corner + self._nodes + 1, corner + 1], axis=1)
        self._rows, self._columns = np.repeat(corners, 4, axis=1).ravel(), np.tile(corners, (1, 4)).ravel()
        self._stiffness, self._masses = _element_matrices()
        grid = np.linspace(0.0, 1.0, self._nodes)
        # Second differences of the second antiderivative are integrals against hat functions.
        twice = (np.maximum(grid - left, 0.0) ** 2 - np.maximum(grid - right, 0.0) ** 2) / 2
        self._load = np.zeros((self._nodes, self._nodes))
        self._load[1:-1, -1] = np.diff(twice, n=2) / self._spacing

    @property
    def gauss_points(self) -> Float[np.ndarray, " points"]:
        """Coordinates, along either axis, of the points at which the medium is asked for."""
        middles = (np.arange(self._nodes - 1) + 0.5) * self._spacing
        return (middles[:, None] + GAUSS_POINTS * self._spacing / 2).ravel()

    def sound(self, square: Float[np.ndarray, "points points"]) -> Float[np.ndarray, "nodes nodes"]:
        """The solution at the nodes, given the squares of the wave numbers at the Gauss points."""
        count, inner = self._nodes - 1, len(GAUSS_POINTS)
        at_points = square.reshape(count, inner, count, inner).transpose(0, 2, 1, 3).reshape(count**2, inner**2)
        masses = self._spacing**2 * at_points @ self._masses.reshape(inner**2, 16)
        values = (self._stiffness.ravel() - masses).ravel()
        matrix = csc_matrix((values, (self._rows, self._columns)))
        factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        return factors.solve(self._load.ravel()).reshape(self._nodes, self._nodes)


def _element_matrices() -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "points 4 4"]]:
    """Stiffness of one element, and the shape functions' products at each Gauss point times its weight."""
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    stiffness, masses = np.zeros((4, 4)), []
    for across, weight_across in zip(GAUSS_POINTS, GAUSS_WEIGHTS, strict=True):
        for along, weight_along in zip(GAUSS_POINTS, GAUSS_WEIGHTS, strict=True):
            weight = weight_across * weight_along
            factors = 1 + signs * [across, along]
            shapes = factors.prod(axis=1) / 4
            slopes = signs * factors[:, ::-1] / 4
            stiffness += weight * slopes @ slopes.T
            masses.append(weight / 4 * np.outer(shapes, shapes))
    return stiffness, np.stack(masses)
