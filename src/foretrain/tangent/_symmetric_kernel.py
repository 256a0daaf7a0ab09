"""The branch-trunk kernel averaged over the symmetries of the operator."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel
from foretrain.tangent._grid import GridKernel, Term
from foretrain.tangent._symmetric_grid import SymmetricGridKernel, adapted_bases
from foretrain.tangent._symmetry import Symmetry, SymmetryGroup

Array = np.ndarray


@functools.lru_cache(maxsize=8)
def _group_with_bases(symmetries: tuple[Symmetry, ...]) -> tuple[SymmetryGroup, tuple[Array, ...]]:
    group = SymmetryGroup.generated_by(symmetries)
    return group, adapted_bases(group)


@dataclass(frozen=True)
class SymmetricBranchTrunkKernel:
    """Theta_G((u, y), (u', y')) = 1/|G| sum_g Theta((u, y), (g u', g y')): every transformed pair counts as data.

    **Assumption:** the operator commutes with the symmetries; test it on held-out functions.

    Attributes:
        kernel: the kernel to average.
        symmetries: generators of the group.

    Source: Reisert, Burkhardt, "Learning equivariant functions with matrix valued kernels" (JMLR 2007).
    """

    kernel: BranchTrunkKernel
    symmetries: tuple[Symmetry, ...]

    @property
    def group(self) -> SymmetryGroup:
        """Everything the symmetries generate."""
        return _group_with_bases(self.symmetries)[0]

    @property
    def bases(self) -> tuple[Float[Array, "dimension points multiplicity"], ...]:
        """The symmetry-adapted basis of the output functions, for each irreducible representation."""
        return _group_with_bases(self.symmetries)[1]

    def gram(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"]
    ) -> SymmetricGridKernel:
        """The kernel of the training data, with the ridge on the diagonals of all its factors.

        Raises:
            ForetrainError: symmetries of other data, or that the kernel of the points or of the inputs does not have.
        """
        self._require_size(inputs, points)
        first, second = self.kernel.point_factors(points, points)
        self._require_invariant(first + second)
        functions = self._function_factors(inputs, inputs)
        self._require_invariant_functions(functions[0])
        parts, bases = [], []
        for matrices, basis in zip(self.group.representations, self.bases, strict=True):
            if basis.shape[2]:
                a1, a2 = (_averaged(factors, matrices) for factors in functions)
                b1, b2 = (basis[0].T @ factor @ basis[0] for factor in (first, second))
                parts.append(GridKernel((self._term(a1, b1), self._term(a2, b2))))
                bases.append(basis)
        return SymmetricGridKernel(tuple(parts), tuple(bases), len(inputs))

    def cross_apply(
        self,
        inputs: Float[Array, "new sensors"],
        points: Float[Array, "new_points dimension"],
        train_inputs: Float[Array, "functions sensors"],
        train_points: Float[Array, "points dimension"],
        coefficients: Float[Array, "functions points"],
    ) -> Float[Array, "new new_points"]:
        """The kernel between new pairs and the training pairs, applied to coefficients."""
        parts = self.contract_functions(inputs, train_inputs, coefficients)
        return sum(
            part @ factor.T for part, factor in zip(parts, self.point_factors(points, train_points), strict=True)
        )

    def contract_functions(
        self,
        inputs: Float[Array, "new sensors"],
        train_inputs: Float[Array, "functions sensors"],
        coefficients: Float[Array, "functions points"],
    ) -> tuple[Float[Array, "new points"], Float[Array, "new points"]]:
        """1/|G| sum_g g (A1(g^-1 u, U) alpha), and the same of A2: `cross_apply` before its points.

        **Assumption:** A(g u, g u') = A(u, u'), which `gram` checks; so only new functions are transformed.
        """
        first, second = np.zeros((2, len(inputs), coefficients.shape[1]))
        for element, inverse in zip(self.group.elements, self._inverses, strict=True):
            moved = self.group.elements[inverse].of_inputs(inputs)
            value, slope = self.kernel.contract_functions(moved, train_inputs, coefficients)
            # sum_y' B(y, g y') a(y') = sum_y' B(y, y') (g a)(y')
            first += element.of_outputs(value)
            second += element.of_outputs(slope)
        return first / len(self.group), second / len(self.group)

    def point_factors(
        self, points: Float[Array, "rows dimension"], other_points: Float[Array, "columns dimension"]
    ) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
        """Those of the kernel that is averaged."""
        return self.kernel.point_factors(points, other_points)

    @property
    def _inverses(self) -> Array:
        """The number of each element's inverse; the identity is number 0."""
        return np.argmin(self.group.products, axis=1)

    def explained_variance(
        self,
        gram: SymmetricGridKernel,
        inputs: Float[Array, "new sensors"],
        points: Float[Array, "new_points dimension"],
        train_inputs: Float[Array, "functions sensors"],
        train_points: Float[Array, "points dimension"],
    ) -> Float[Array, "new new_points"]:
        """k*^T Theta_G^{-1} k* for new functions and points."""
        factors = self.kernel.point_factors(points, train_points)
        functions = self._function_factors(inputs, train_inputs)
        total = np.zeros((len(inputs), len(points)))
        filled = [
            (matrices, basis)
            for matrices, basis in zip(self.group.representations, self.bases, strict=True)
            if basis.shape[2]
        ]
        for part, (matrices, basis) in zip(gram.parts, filled, strict=True):
            dimension = basis.shape[0]
            terms = []
            for stacked, factor in zip(functions, factors, strict=True):
                rows = _averaged(stacked, matrices).reshape(len(inputs), dimension, -1)
                terms += [Term(rows[:, level], factor @ basis[level]) for level in range(dimension)]
            total += part.explained_variance(tuple(terms))
        return total

    def diagonal(
        self, inputs: Float[Array, "new sensors"], points: Float[Array, "new_points dimension"]
    ) -> Float[Array, "new new_points"]:
        """Theta_G of every function and point with itself, without the ridge.

        Raises:
            ForetrainError: at points that the symmetries do not map onto the training points.
        """
        if len(points) != len(self.symmetries[0].output_order):
            raise ForetrainError(
                f"std with symmetries: expected the {len(self.symmetries[0].output_order)} training query points, "
                f"came {len(points)} points; leave `points` out"
            )
        factors = self.kernel.point_factors(points, points)
        total = np.zeros((len(inputs), len(points)))
        rows = np.arange(len(points))
        for element in self.group.elements:
            pair = self.kernel.function_factors(inputs, element.of_inputs(inputs))
            order = list(element.output_order)
            for index, factor in enumerate(factors):
                # Entry (y, y) of B P_g: the point whose value lands on y is the inverse image of y.
                diagonal = np.zeros(len(points))
                diagonal[order] = element.output_sign * factor[order, rows]
                total += np.outer(np.diagonal(pair[index]), diagonal)
        return total / len(self.group)

    def _function_factors(self, rows: Array, columns: Array) -> tuple[list[Array], list[Array]]:
        """K(u, g u') and D(u, g u') for each element g."""
        pairs = [self.kernel.function_factors(rows, element.of_inputs(columns)) for element in self.group.elements]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def _term(self, functions: Array, points: Array) -> Term:
        return Term(_ridged(functions, self.kernel.ridge), _ridged(points, self.kernel.ridge))

    def _require_size(self, inputs: Array, points: Array) -> None:
        first = self.symmetries[0]
        expected, came = (len(first.input_order), len(first.output_order)), (inputs.shape[1], len(points))
        if came != expected:
            raise ForetrainError(
                f"the symmetry {first.name!r}: expected its {expected[0]} sensors and {expected[1]} query points, "
                f"came data with {came[0]} and {came[1]}; make it from this data"
            )

    def _require_invariant_functions(self, factors: Sequence[Array]) -> None:
        for factor, inverse in zip(factors, self._inverses, strict=True):
            # K(u, g u') = K(g^-1 u, u') = K(u', g^-1 u) where K(g u, g u') = K(u, u').
            if np.abs(factor - factors[inverse].T).max() > 1e-6 * np.abs(factors[0]).max():
                raise ForetrainError(
                    f"{self.group}: expected the kernel of the inputs to have these symmetries, came a prior or local "
                    "receptive fields that do not; leave those or the symmetries out"
                )

    def _require_invariant(self, factor: Array) -> None:
        for generator in self.symmetries:
            order = list(generator.output_order)
            if np.abs(factor[np.ix_(order, order)] - factor).max() > 1e-6 * np.abs(factor).max():
                raise ForetrainError(
                    f"the symmetry {generator.name!r}: expected it to preserve the distances of the query points, "
                    "came one that does not; only rigid motions of the grid can be averaged over"
                )


def _averaged(factors: Sequence[Array], matrices: Float[Array, "elements dimension dimension"]) -> Array:
    """A_rho[(i, l), (j, k)] = 1/|G| sum_g A(u_i, g u_j) rho_lk(g)."""
    stacked = np.stack(factors)
    dimension = matrices.shape[1]
    mixed = np.tensordot(matrices, stacked, axes=(0, 0)) / len(stacked)
    rows, columns = stacked.shape[1:]
    return mixed.transpose(2, 0, 3, 1).reshape(rows * dimension, columns * dimension)


def _ridged(matrix: Array, ridge: float) -> Array:
    symmetric = (matrix + matrix.T) / 2
    return symmetric + ridge * np.mean(np.diagonal(matrix)) * np.eye(len(matrix))
