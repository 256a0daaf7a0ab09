"""Symmetries an operator may have, the finite groups they generate, and the irreducible representations of those."""

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import scipy.spatial
from jaxtyping import Float, Int

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, periodic_grid_shape

Array = np.ndarray
LARGEST_GROUP = 64
COORDINATE_TOLERANCE = 1e-6
"""Of the extent: what coordinates kept in single precision need."""


@dataclass(frozen=True)
class Symmetry:
    """A transformation S of input functions and of output functions, by rearranging points and changing signs.

        (S u)[q] = input_sign u[input_order[q]],     (S s)[k] = output_sign s[output_order[k]]

    An operator has the symmetry if G(S u) = S G(u).

    Attributes:
        name: for explanations.
        input_order: for each sensor, the sensor whose value it takes.
        output_order: likewise for the query points.
        input_sign, output_sign: +1 or -1.

    Raises:
        ForetrainError: an order that does not name every point once, or a sign other than +1 and -1.
    """

    name: str
    input_order: tuple[int, ...]
    output_order: tuple[int, ...]
    input_sign: int = 1
    output_sign: int = 1

    def __post_init__(self) -> None:
        for what, order in (("sensors", self.input_order), ("query points", self.output_order)):
            if sorted(order) != list(range(len(order))):
                raise ForetrainError(
                    f"the symmetry {self.name!r}: expected an order that names each of the {len(order)} {what} once, "
                    "came one that does not"
                )
        if {self.input_sign, self.output_sign} - {1, -1}:
            raise ForetrainError(
                f"the symmetry {self.name!r}: expected signs of +1 or -1, came {self.input_sign} and {self.output_sign}"
            )

    @classmethod
    def of_coordinates(
        cls,
        name: str,
        data: OperatorDataset,
        transform: Callable[[Float[Array, "points dimension"]], Float[Array, "points dimension"]],
        input_sign: int = 1,
        output_sign: int = 1,
    ) -> "Symmetry":
        """(S u)(x) = sign u(transform(x)), for sensors and query points alike.

        Raises:
            ForetrainError: if the transform does not map the sensors, or the query points, onto themselves.
        """
        return cls(
            name,
            _rearrangement(data.sensor_points, transform, f"{name}: the sensors"),
            _rearrangement(data.query_points, transform, f"{name}: the query points"),
            input_sign,
            output_sign,
        )

    def of_inputs(self, inputs: Float[Array, "functions sensors"]) -> Float[Array, "functions sensors"]:
        """S u for every row."""
        return self.input_sign * np.asarray(inputs)[:, list(self.input_order)]

    def of_outputs(self, outputs: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """S s for every row."""
        return self.output_sign * np.asarray(outputs)[:, list(self.output_order)]

    def at_points(self, chosen: Int[Array, " some"]) -> "Symmetry":
        """The same, of outputs at some of the query points.

        Raises:
            ForetrainError: points that it maps onto others.
        """
        place = {point: number for number, point in enumerate(chosen.tolist())}
        images = [place.get(self.output_order[point]) for point in place]
        if None in images:
            raise ForetrainError(f"{self.name}: expected points that it maps onto one another, came others")
        return replace(self, output_order=tuple(images))  # type: ignore[arg-type]

    def after(self, other: "Symmetry") -> "Symmetry":
        """The composition u -> self(other(u))."""
        return Symmetry(
            f"{self.name}, {other.name}",
            tuple(other.input_order[place] for place in self.input_order),
            tuple(other.output_order[place] for place in self.output_order),
            self.input_sign * other.input_sign,
            self.output_sign * other.output_sign,
        )

    @property
    def action(self) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
        """What it does, whatever its name."""
        return self.input_order, self.output_order, self.input_sign, self.output_sign


def _rearrangement(points: Array, transform: Callable[[Array], Array], what: str) -> tuple[int, ...]:
    """For each point, the index of its image."""
    size = float(np.ptp(points)) or 1.0
    distance, order = scipy.spatial.cKDTree(points).query(transform(points))
    if len(set(order)) < len(points) or distance.max() > COORDINATE_TOLERANCE * size:
        raise ForetrainError(f"{what}: expected the symmetry to map them onto themselves, came images off the grid")
    return tuple(order.tolist())


@dataclass(frozen=True)
class SymmetryGroup:
    """A finite group of symmetries, the identity first.

    Attributes:
        elements: all of them.
        generators: those it was made from, for explanations.
    """

    elements: tuple[Symmetry, ...]
    generators: tuple[Symmetry, ...] = ()

    @classmethod
    def generated_by(cls, generators: Iterable[Symmetry]) -> "SymmetryGroup":
        """The least group that contains the generators.

        Raises:
            ForetrainError: no generators, generators of other data, or more than 64 elements.
        """
        generators = tuple(generators)
        if not generators:
            raise ForetrainError("a symmetry group: expected at least one symmetry, came none")
        first = generators[0]
        sizes = {(len(each.input_order), len(each.output_order)) for each in generators}
        if len(sizes) > 1:
            raise ForetrainError(f"a symmetry group: expected symmetries of one dataset, came sizes {sorted(sizes)}")
        identity = Symmetry("identity", tuple(range(len(first.input_order))), tuple(range(len(first.output_order))))
        elements = {identity.action: identity}
        newest = [identity]
        while newest:
            found = [generator.after(element) for generator in generators for element in newest]
            newest = []
            for element in found:
                if element.action not in elements:
                    elements[element.action] = element
                    newest.append(element)
            if len(elements) > LARGEST_GROUP:
                raise ForetrainError(
                    f"a symmetry group: expected at most {LARGEST_GROUP} elements, came more from "
                    f"{', '.join(each.name for each in generators)}; for translations use the Fourier form"
                )
        return cls(tuple(elements.values()), generators)

    def __len__(self) -> int:
        return len(self.elements)

    def __str__(self) -> str:
        return f"{' and '.join(each.name for each in self.generators) or 'none'} ({len(self)} elements)"

    @functools.cached_property
    def products(self) -> Int[Array, "elements elements"]:
        """products[g, h] is the number of the element g after h."""
        number = {element.action: index for index, element in enumerate(self.elements)}
        table = [[number[left.after(right).action] for right in self.elements] for left in self.elements]
        return np.asarray(table)

    @functools.cached_property
    def representations(self) -> tuple[Float[Array, "elements dimension dimension"], ...]:
        """Its irreducible real orthogonal representations, rho(g after h) = rho(g) rho(h).

        Raises:
            ForetrainError: for groups that need complex ones (rotations without reflections).
        """
        return irreducible_representations(self.products)

    def point_matrices(self) -> Iterable[tuple[Int[Array, " points"], int]]:
        """For each element the rearrangement and sign of output values."""
        return [(np.asarray(element.output_order), element.output_sign) for element in self.elements]


def irreducible_representations(
    products: Int[Array, "elements elements"],
) -> tuple[Float[Array, "elements dimension dimension"], ...]:
    """Real orthogonal irreducible representations from a group's multiplication table, the trivial one first.

    The eigenspaces of a random symmetric matrix that commutes with the left regular representation are irreducible, and
    each representation of dimension d appears d times among them.

    **Assumption:** every real irreducible representation stays irreducible over the complex numbers, as in groups
    generated by reflections.

    Raises:
        ForetrainError: where that fails.

    Source: Dixon, "Computing irreducible representations of groups" (1970).
    """
    order = len(products)
    columns = np.arange(order)
    regular = np.zeros((order, order, order))
    for g in range(order):
        regular[g, products[g], columns] = 1
    seed = np.random.default_rng(0).normal(size=(order, order))
    commuting = np.einsum("gab,bc,gdc->ad", regular, seed + seed.T, regular, optimize=True)
    values, vectors = np.linalg.eigh(commuting)
    gaps = np.flatnonzero(np.diff(values) > 1e-8 * np.abs(values).max()) + 1
    found: list[Array] = []
    for space in np.split(np.arange(order), gaps):
        basis = vectors[:, space]
        matrices = np.einsum("ak,gab,bl->gkl", basis, regular, basis)
        character = np.einsum("gkk->g", matrices)
        if abs(np.mean(character**2) - 1) > 1e-6:
            raise ForetrainError(
                "a symmetry group: expected one whose real irreducible representations are absolutely irreducible, "
                "came rotations without reflections; add the reflections, or leave the quarter turns out"
            )
        if all(abs(np.mean(character * np.einsum("gkk->g", other))) < 0.5 for other in found):
            found.append(matrices)
    found.sort(key=lambda matrices: (matrices.shape[1], -np.sum(np.einsum("gkk->g", matrices))))
    return tuple(found)


def grid_symmetries(data: OperatorDataset) -> tuple[Symmetry, ...]:
    """The reflections, exchanges of axes and sign changes that map the data's points onto themselves.

    Candidates only: nothing says yet that the operator has them.
    """
    points, sensors = data.query_points, data.sensor_points
    if points.shape[1] != sensors.shape[1]:
        return _sign_change(data)
    lower, upper = points.min(axis=0), points.max(axis=0)
    if not (np.allclose(lower, sensors.min(axis=0)) and np.allclose(upper, sensors.max(axis=0))):
        return _sign_change(data)
    shape = periodic_grid_shape(data)
    closing = np.zeros(len(lower)) if shape is None else (upper - lower) / (np.asarray(shape) - 1)
    transforms: list[tuple[str, Callable[[Array], Array]]] = []
    for axis in range(len(lower)):
        transforms.append((f"reflection of axis {axis}", functools.partial(_reflect, axis, lower, upper, closing)))
    for first, second in itertools.combinations(range(len(lower)), 2):
        if np.isclose(upper[first] - lower[first], upper[second] - lower[second]):
            transforms.append(
                (f"exchange of axes {first} and {second}", functools.partial(_swap, first, second, lower))
            )
    candidates = []
    for name, transform in transforms:
        try:
            candidates.append(Symmetry.of_coordinates(name, data, transform))
        except ForetrainError:
            continue  # a candidate that the points do not have
    # An operator may have neither the reflection nor the change of sign, but both together, as Burgers' equation has.
    odd = [replace(each, name=f"odd {each.name}", input_sign=-1, output_sign=-1) for each in candidates]
    return (*candidates, *odd, *_sign_change(data))


def _sign_change(data: OperatorDataset) -> tuple[Symmetry, ...]:
    sensors, points = data.inputs.shape[1], data.outputs.shape[1]
    return (Symmetry("change of sign", tuple(range(sensors)), tuple(range(points)), -1, -1),)


def _reflect(axis: int, lower: Array, upper: Array, closing: Array, points: Array) -> Array:
    images = points.copy()
    if closing[axis]:
        period = upper[axis] - lower[axis] + closing[axis]
        # The wrap of a rounding error below zero would be a whole period.
        images[:, axis] = lower[axis] + np.mod(lower[axis] - points[:, axis] + 1e-9 * period, period) - 1e-9 * period
    else:
        images[:, axis] = lower[axis] + upper[axis] - points[:, axis]
    return images


def _swap(first: int, second: int, lower: Array, points: Array) -> Array:
    images = points.copy()
    images[:, first] = points[:, second] - lower[second] + lower[first]
    images[:, second] = points[:, first] - lower[first] + lower[second]
    return images
