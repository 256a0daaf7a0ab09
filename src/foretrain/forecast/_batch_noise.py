"""The noise that batches add to a residual: drawn as they scatter it, and decomposed by a few Lanczos steps."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from foretrain.forecast._mean_dynamics import TINY, Apply, combined, ritz_pairs
from foretrain.tangent import KrylovBasis, lanczos

Array = np.ndarray
SKETCH = 1024
"""Random sums that stand for a residual where only inner products matter."""
CONVERGED = 0.01
"""Relative eigen-residual below which a Ritz vector counts as an eigenvector."""
GROUP_RATIO = 4.0
"""Directions on the query points share a group where the kernel's size in them differs by less than this."""


def noise_strength(functions: int, batch_size: int) -> float:
    """c = (n1 / B - 1) n1 / (n1 - 1): a batch weighs the functions with covariance c (1 - 1 1^T / n1)."""
    return (functions / batch_size - 1) * functions / max(functions - 1, 1)


def centred_signs(functions: int, random: np.random.Generator) -> Float[Array, " functions"]:
    """Random numbers of sum zero whose covariance is exactly 1 - 1 1^T / n1."""
    half = functions // 2
    signs = np.zeros(functions)
    signs[:half], signs[half : 2 * half] = 1, -1
    return random.permutation(signs) * np.sqrt((functions - 1) / functions if functions % 2 == 0 else 1.0)


def centred_squares(values: Float[Array, "... functions"]) -> Float[Array, "..."]:
    """sum_f x_f^2 - (sum_f x_f)^2 / n1 over the last axis: the expected square of x times centred signs."""
    return np.sum(values**2, axis=-1) - np.sum(values, axis=-1) ** 2 / values.shape[-1]


@dataclass(frozen=True)
class NoiseNodes:
    """Gauss nodes of the noise that sources inject: what one unit of a source's energy puts where.

    The first sources are the groups of directions on the query points (noise of noise), the others steps of the mean
    residual.

    Attributes:
        eigenvalues: of the kernel at each node.
        weights: c times the share of a unit of the source that is there, averaged over the draws.
        shares: how the node's Ritz vector divides among the groups.
        sketches: stand for the Ritz vectors, with the signs they have in the draw.
        source, draw: whence a node is.
        draws: of each source.
        images: for every draw of a source, the inner products of its Ritz vectors' images on each test function.
    """

    eigenvalues: Float[Array, " nodes"]
    weights: Float[Array, " nodes"]
    shares: Float[Array, "nodes groups"]
    sketches: Float[Array, "nodes sketch"]
    source: Int[Array, " nodes"]
    draw: Int[Array, " nodes"]
    draws: int
    images: tuple[Float[Array, "some_nodes some_nodes test_functions"], ...]

    @classmethod
    def joined(cls, parts: "list[NoiseNodes]") -> "NoiseNodes":
        """All nodes of some draws."""
        names = ("eigenvalues", "weights", "shares", "sketches", "source", "draw")
        arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        images = tuple(image for part in parts for image in part.images)
        return cls(**arrays, draws=parts[0].draws, images=images)

    @property
    def groups(self) -> int:
        """Groups of directions on the query points."""
        return self.shares.shape[1]

    def injected(self, step_size: float, source: int) -> Float[Array, " nodes"]:
        """Energy at each node from one step with unit energy in a source."""
        return np.where(self.source == source, (step_size * self.eigenvalues) ** 2 * self.weights, 0.0)

    def kept_in_all(self, step_size: float, source: int) -> Float[Array, " nodes"]:
        """Energy at each node from a unit in a source at every step since ever."""
        progress = step_size * self.eigenvalues
        return np.where(self.source == source, progress * self.weights / (2 - progress), 0.0)

    def gain(self, step_size: float) -> Float[Array, "groups groups"]:
        """Energy that every group ends with from a lasting unit in each group, [to, from]."""
        return np.stack([self.kept_in_all(step_size, group) @ self.shares for group in range(self.groups)], axis=1)

    def feedback(self, step_size: float) -> float:
        """The largest eigenvalue of the gain."""
        return float(np.max(np.abs(np.linalg.eigvals(self.gain(step_size)))))


@dataclass
class NoiseSampler:
    """Draws noise of sources with the covariance that batches give it.

    Attributes:
        apply: Theta(train, train) on residuals.
        shape: [functions, points] of a residual.
        batch_size: B.
        draws, krylov: draws of each source, Lanczos steps for each.
        key: of the draws.
        test: Theta(test, train) on residuals, or None.
        applications: how often the kernel was applied so far.
    """

    apply: Apply
    shape: tuple[int, ...]
    batch_size: int
    draws: int
    krylov: int
    key: int
    test: Apply | None
    applications: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.key)
        self._buckets = self._random.integers(SKETCH, size=int(np.prod(self.shape)))
        self._flips = self._random.choice([-1.0, 1.0], size=int(np.prod(self.shape)))
        self._directions, self._labels = np.eye(self.shape[1]), np.zeros(self.shape[1], int)
        self._leverage = np.zeros(self.shape[0])

    @property
    def strength(self) -> float:
        """c."""
        return noise_strength(self.shape[0], self.batch_size)

    @property
    def groups(self) -> int:
        """Groups of directions on the query points, one until `group_directions` was called."""
        return int(self._labels.max()) + 1

    def sketch(self, residuals: Float[Array, "some functions points"]) -> Float[Array, "some sketch"]:
        """Random sums of the entries: inner products stay the same on average, to one in sqrt(SKETCH)."""
        flat = residuals.reshape(len(residuals), -1) * self._flips
        return np.stack([np.bincount(self._buckets, row, SKETCH) for row in flat])

    def lanczos_of_noise(self, source: Float[Array, "functions points"]) -> KrylovBasis:
        """Krylov space of the source times centred random signs, one for each function."""
        noise = np.zeros_like(source)
        while not np.any(noise):
            noise = centred_signs(len(source), self._random)[:, None] * source
        return self.lanczos(noise)

    def lanczos(self, start: Float[Array, "functions points"]) -> KrylovBasis:
        """A few Lanczos steps."""
        basis = lanczos(self.apply, start, self.krylov)
        self.applications += basis.steps
        return basis

    def group_directions(self, bases: list[KrylovBasis], most: int) -> None:
        """Groups directions on the query points by how much of the kernel acts in them: batches do not mix them."""
        total = np.zeros_like(self._directions)
        for basis in bases:
            values, vectors = ritz_pairs(basis)
            residuals = combined(vectors.T, basis)
            for value, residual in zip(values, residuals, strict=True):
                total += value * residual.T @ residual
            self._leverage += np.einsum("i,ifp->f", values, residuals**2)
        sizes, self._directions = np.linalg.eigh(total)
        levels = np.log(sizes[-1] / np.maximum(sizes, 1e-30 * sizes[-1])) / np.log(GROUP_RATIO)
        self._labels = np.minimum(np.unique(np.floor(levels), return_inverse=True)[1], most - 1)

    def divided(self, basis: KrylovBasis) -> list[Float[Array, "functions points"]]:
        """A residual as noise leaves it, sqrt(Theta) times the drawn noise, divided among the groups."""
        values, vectors = ritz_pairs(basis)
        left = combined((vectors @ (np.sqrt(values) * vectors[0]))[None], basis)[0] @ self._directions
        return [np.where(self._labels == group, left, 0) @ self._directions.T for group in range(self.groups)]

    def largest_block(self, candidates: int = 6, steps: int = 4) -> float:
        """Largest eigenvalue of the kernel on a single function, of those in which most of the kernel was seen."""
        largest = 0.0
        for function in np.argsort(-self._leverage)[:candidates]:

            def alone(row: Array, function: int = int(function)) -> Array:
                whole = np.zeros(self.shape)
                whole[function] = row
                self.applications += 1
                return np.asarray(self.apply(whole))[function]

            start = self._random.normal(size=self.shape[1])
            largest = max(largest, float(ritz_pairs(lanczos(alone, start, steps))[0][-1]))
        return largest

    def nodes(self, source: Float[Array, "functions points"], number: int, draw: int) -> NoiseNodes:
        """Nodes of one draw. Where a Ritz vector is an eigenvector its weight needs no draw: it is the expectation

        sum_f (y_f . r_f)^2 - (y . r)^2 / n1,     and the other weights are scaled to the rest of (1 - 1 / n1) |r|^2.
        """
        source = source / np.linalg.norm(source)
        basis = self.lanczos_of_noise(source)
        values, vectors = ritz_pairs(basis)
        residuals = combined(vectors.T, basis)
        expected = centred_squares(np.einsum("ifp,fp->if", residuals, source))
        known = basis.off_diagonal[-1] * np.abs(vectors[-1]) <= CONVERGED * values
        rest = max(1 - 1 / len(source) - float(np.sum(expected[known])), 0.0)
        drawn = vectors[0] ** 2
        weights = np.where(known, expected, drawn * rest / max(float(np.sum(drawn[~known])), TINY))
        squares = np.sum((residuals @ self._directions) ** 2, axis=1)
        signs = np.sign(vectors[0])
        return NoiseNodes(
            eigenvalues=values,
            weights=weights * self.strength / self.draws,
            shares=np.stack([squares[:, self._labels == group].sum(1) for group in range(self.groups)], axis=1),
            sketches=self.sketch(residuals) * signs[:, None],
            source=np.full(len(values), number),
            draw=np.full(len(values), draw),
            draws=self.draws,
            images=self._images(basis, values, vectors * signs),
        )

    def _images(self, basis: KrylovBasis, values: Array, vectors: Array) -> tuple[Array, ...]:
        if self.test is None:
            return ()
        # A residual Theta a of the training functions comes with Theta(test, train) a on the test functions.
        inverse = np.where(values > 1e-12 * values[-1], 1 / np.maximum(values, TINY), 0)
        images = np.stack([self.test(residual) for residual in basis.vectors])
        images = np.tensordot((vectors * inverse).T, images, 1)
        return (np.einsum("ifp,jfp->ijf", images, images),)
