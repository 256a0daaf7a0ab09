"""The two-term grid kernel averaged over a group: one smaller grid kernel for each irreducible representation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float

from foretrain.tangent._grid import GridKernel, Solution
from foretrain.tangent._krylov import EigenPair, largest_eigenvalue
from foretrain.tangent._symmetry import SymmetryGroup

Array = np.ndarray


def adapted_bases(group: SymmetryGroup) -> tuple[Float[Array, "dimension points multiplicity"], ...]:
    """Orthonormal output functions e^k_a, for each representation rho, with P_g e^k_a = sum_l rho_lk(g) e^l_a.

    P_g moves values among the points of one orbit only, so the projections (d / |G|) sum_g rho_k1(g) P_g are small
    matrices, one for each orbit.
    """
    moves = list(group.point_matrices())
    orbits = _orbits(np.stack([order for order, _ in moves]))
    points = len(moves[0][0])
    bases = []
    for matrices in group.representations:
        dimension = matrices.shape[1]
        columns: list[Array] = []
        for orbit in orbits:
            place = {point: number for number, point in enumerate(orbit)}
            local = np.zeros((len(moves), len(orbit), len(orbit)))
            for g, (order, sign) in enumerate(moves):
                local[g, np.arange(len(orbit)), [place[order[point]] for point in orbit]] = sign
            transfers = dimension / len(group) * np.einsum("gk,gab->kab", matrices[:, :, 0], local)
            # The first transfer is a projection; its range holds the functions that transform like e^1.
            values, vectors = np.linalg.eigh((transfers[0] + transfers[0].T) / 2)
            for vector in vectors[:, values > 0.5].T:
                column = np.zeros((dimension, points))
                column[:, orbit] = transfers @ vector
                columns.append(column)
        bases.append(np.stack(columns, axis=-1) if columns else np.zeros((dimension, points, 0)))
    return tuple(bases)


def _orbits(orders: Array) -> list[list[int]]:
    seen: set[int] = set()
    orbits = []
    for point in range(orders.shape[1]):
        if point not in seen:
            orbit = sorted(set(orders[:, point].tolist()))
            seen.update(orbit)
            orbits.append(orbit)
    return orbits


@dataclass(frozen=True)
class SymmetricGridKernel:
    """Theta_G((u, y), (u', y')) = 1/|G| sum_g Theta((u, y), (g u', g y')) on a grid of functions and points.

    In the symmetry-adapted basis of the points it splits by representations rho of dimension d into kernels on
    (functions x d) x multiplicity, each with two Kronecker terms again:

        A_rho[(i, l), (j, k)] = 1/|G| sum_g A(u_i, g u_j) rho_lk(g),     B_rho[a, b] = e^1_a . B e^1_b

    Every transformed pair counts as data, at the price of |G| kernel evaluations and smaller factorisations, not of a
    system |G| times as large.

    **Assumption:** the factors of the kernel are invariant, A(g u, g u') = A(u, u') and B(g y, g y') = B(y, y').

    Attributes:
        parts: the kernel of each representation.
        bases: the adapted basis of each, [dimension, points, multiplicity].
        functions: how many.
    """

    parts: tuple[GridKernel, ...]
    bases: tuple[Float[Array, "dimension points multiplicity"], ...]
    functions: int

    @property
    def shape(self) -> tuple[int, int]:
        """(functions, points)."""
        return self.functions, self.bases[0].shape[1]

    @property
    def jitter(self) -> tuple[float, float]:
        """The largest that any part adds to the diagonals of its two leading factors."""
        jitters = [part.jitter for part in self.parts]
        return max(first for first, _ in jitters), max(second for _, second in jitters)

    @property
    def mean_diagonal(self) -> float:
        """Of the parts' leading factors, the largest."""
        return max(part.mean_diagonal for part in self.parts)

    def with_jitter(self, relative: float) -> "SymmetricGridKernel":
        """The kernel with so much of each part's mean diagonal added to its leading factor."""
        return replace(self, parts=tuple(part.with_jitter(relative) for part in self.parts))

    def split(self, values: Float[Array, "functions points"]) -> list[Array]:
        """The components of a residual, [functions x dimension, multiplicity] for each representation."""
        parts = []
        for basis in self.bases:
            mixed = np.einsum("iy,kya->ika", values, basis, optimize=True)
            parts.append(mixed.reshape(-1, basis.shape[2]))
        return parts

    def join(self, components: Sequence[Array]) -> Float[Array, "functions points"]:
        """The inverse of `split`."""
        total = np.zeros(self.shape)
        for component, basis in zip(components, self.bases, strict=True):
            mixed = component.reshape(self.functions, basis.shape[0], basis.shape[2])
            total += np.einsum("ika,kya->iy", mixed, basis, optimize=True)
        return total

    def apply(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Theta_G applied to a residual."""
        return self.join([part.apply(r) for part, r in zip(self.parts, self.split(residual), strict=True)])

    def solve(self, residual: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """alpha with Theta_G alpha = residual; `solve_with_report` also says how well it holds."""
        return self.solve_with_report(residual).value

    def solve_with_report(self, residual: Float[Array, "functions points"]) -> Solution:
        """Solves part by part; the relative residual is that of the whole system before any jitter."""
        right = np.asarray(residual, np.float64)
        value = self.join([part.solve(r) for part, r in zip(self.parts, self.split(right), strict=True)])
        mismatch = np.linalg.norm(self.apply(value) - right) / (np.linalg.norm(right) or 1.0)
        return Solution(value, float(mismatch), self.jitter)

    def logdet(self) -> float:
        """log det Theta_G, the sum over the parts."""
        return sum(part.logdet() for part in self.parts)

    def eigenvalue_max(self, tolerance: float = 1e-8) -> float:
        """The largest eigenvalue, by Lanczos, to a relative residual of `tolerance`."""
        return self.eigenpair_max(tolerance).value

    def eigenvalue_min(self, tolerance: float = 1e-8) -> float:
        """The smallest eigenvalue: the least over the parts, each by Lanczos on its exact inverse."""
        return min(part.eigenvalue_min(tolerance) for part in self.parts)

    def eigenpair_max(self, tolerance: float = 1e-8) -> EigenPair:
        """The largest eigenvalue with its eigenvector [functions, points] and residual |Theta v - l v|."""
        return largest_eigenvalue(self.apply, self.shape, jax.random.key(0), tolerance=tolerance)
