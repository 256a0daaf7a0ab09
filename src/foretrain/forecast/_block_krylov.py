"""The Krylov space of several starting vectors at once, and a symmetric operator projected on it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike, Float

from foretrain._foundation import ForetrainError

Array = np.ndarray
NOTHING_LEFT = 1e-7
"""A new direction smaller than this part of its image is what single-precision products leave, not a direction."""


@dataclass(frozen=True)
class BlockKrylov:
    """Orthonormal vectors of span(starts, A starts, A^2 starts, ...), and A in them.

        A Q_n = Q T,    T [vectors, n],    starts = Q coordinates

    The operator has been applied to the first n vectors; those after them are what it leaves to follow, at most as many
    as there are starts. Their rows of T say by how much a vector of the space leaves it under A.

    Attributes:
        vectors: Q^T, [vectors, rows].
        matrix: T, [vectors, n].
        coordinates: of the starts, [vectors, starts].
        shape: of one vector before it was made a row.
    """

    vectors: Float[Array, "vectors rows"]
    matrix: Float[Array, "vectors applied"]
    coordinates: Float[Array, "vectors starts"]
    shape: tuple[int, ...]

    @property
    def applied(self) -> int:
        """n, how many times the operator was applied."""
        return self.matrix.shape[1]

    @property
    def exhausted(self) -> bool:
        """Whether the space is invariant, so that more applications would add nothing."""
        return len(self.vectors) == self.applied

    def projected(self) -> tuple[Float[Array, " applied"], Float[Array, "applied applied"]]:
        """Eigenvalues and eigenvectors of Q_n^T A Q_n. **A is positive semi-definite**: none is below zero."""
        inside = self.matrix[: self.applied]
        values, vectors = np.linalg.eigh((inside + inside.T) / 2)
        return np.maximum(values, 0), vectors

    @property
    def leaving(self) -> Float[Array, "following applied"]:
        """The components of A Q_n outside the n vectors."""
        return self.matrix[self.applied :]


def block_krylov(apply: Callable[[Array], ArrayLike], starts: list[Array], applications: int) -> BlockKrylov:
    """The space after so many applications of a symmetric operator, fully reorthogonalised in double precision.

    Starts that depend on the ones before them cost nothing: they add coordinates, no vector. Holds
    applications + starts vectors.

    **Assumption:** the operator is real, symmetric and positive semi-definite.

    Raises:
        ForetrainError: no start, or one that is not finite; fewer applications than starts.

    Source: Golub and Underwood (1977), the vectors of a block taken one by one (Ruhe 1979).
    """
    if not starts or applications < len(starts):
        raise ForetrainError(
            f"a Krylov space: expected at least one start and an application for each, came {len(starts)} starts "
            f"and {applications} applications"
        )
    shape, flat = starts[0].shape, [np.asarray(start, np.float64).ravel() for start in starts]
    if not all(np.all(np.isfinite(start)) for start in flat):
        raise ForetrainError("a Krylov space: expected finite starts, came values that are not: check the data")
    vectors, columns = np.empty((0, flat[0].size)), []
    for start in flat:
        vectors, column = _joined(vectors, start)
        columns.append(column)
    empty = BlockKrylov(vectors, np.zeros((len(vectors), 0)), _columns(columns, len(vectors)), shape)
    return extended(empty, apply, applications)


def extended(space: BlockKrylov, apply: Callable[[Array], ArrayLike], applications: int) -> BlockKrylov:
    """The space after up to so many more applications."""
    vectors, columns = space.vectors, list(space.matrix.T)
    for _ in range(applications):
        if len(columns) == len(vectors):
            break
        image = np.asarray(apply(vectors[len(columns)].reshape(space.shape)), np.float64).ravel()
        if not np.all(np.isfinite(image)):
            raise ForetrainError("the kernel's product is not finite: check data and weights for values that are not")
        vectors, column = _joined(vectors, image)
        columns.append(column)
    count = len(vectors)
    return BlockKrylov(vectors, _columns(columns, count), _columns(list(space.coordinates.T), count), space.shape)


def _joined(vectors: Array, image: Array) -> tuple[Array, Array]:
    """The vectors with the image's new direction, if it has one, and the image's coordinates in them."""
    coordinates = vectors @ image
    remainder = image - coordinates @ vectors
    again = vectors @ remainder
    remainder -= again @ vectors
    size = float(np.linalg.norm(remainder))
    if size <= NOTHING_LEFT * float(np.linalg.norm(image)):
        return vectors, coordinates + again
    return np.vstack([vectors, remainder / size]), np.append(coordinates + again, size)


def _columns(columns: list[Array], rows: int) -> Array:
    """Columns of growing length as one matrix, zeros below."""
    matrix = np.zeros((rows, len(columns)))
    for index, column in enumerate(columns):
        matrix[: len(column), index] = column
    return matrix
