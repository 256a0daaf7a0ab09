"""The problems of benchmarks/field.py: 1,000 functions to learn from and 200 others each, seed 0."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _cases import FILE_NAME

import foretrain as ft
from foretrain.data import OperatorDataset
from foretrain.tangent import Symmetry, SymmetryGroup, grid_symmetries

FUNCTIONS, TEST = 1000, 200
TOTAL = FUNCTIONS + TEST
AUGMENTED = ".augmented"


@dataclass(frozen=True)
class Problem:
    """A problem, where its data come from, and what to know before judging by it.

    Attributes:
        name: in tables.
        make: the data.
        symmetries: of the operator, by the names that `grid_symmetries` gives them; peers are trained with images of
            the functions under them as well.
        easy: why errors say little, if they do.
    """

    name: str
    make: Callable[[], OperatorDataset]
    symmetries: tuple[str, ...] = ()
    easy: str = ""

    @property
    def file(self) -> str:
        return self.name.lower().translate(FILE_NAME)


ODD = ("odd reflection of axis 0",)
SQUARE = ("reflection of axis 0", "reflection of axis 1", "exchange of axes 0 and 1")
PROBLEMS = (
    Problem("Burgers 0.1", lambda: ft.problems.burgers(TOTAL, 0.1), ODD, "nearly linear"),
    Problem("Burgers 0.1/(2 pi)", lambda: ft.problems.burgers(TOTAL), ODD),
    Problem("Burgers 0.01", lambda: ft.problems.burgers(TOTAL, 0.01), ODD),
    Problem("Darcy 29x29", lambda: ft.problems.darcy(TOTAL, simulation_resolution=421), SQUARE),
    Problem("Advection II", lambda: ft.problems.advection(TOTAL, "II"), easy="linear, one output of each jump is open"),
    Problem("Heat", lambda: ft.problems.heat(TOTAL), ("reflection of axis 0",)),
    Problem("Wave", lambda: ft.problems.wave(TOTAL), ("reflection of axis 0",)),
    Problem("Poisson", lambda: ft.problems.poisson(TOTAL), SQUARE),
    Problem("Helmholtz", lambda: ft.problems.helmholtz(TOTAL, resolution=26, elements=100)),
    Problem("Navier-Stokes", lambda: ft.problems.navier_stokes(TOTAL, resolution=32)),
)


def written(problem: Problem, folder: Path) -> Path:
    """The file of a problem's data, made if it is not there."""
    path = folder / f"{problem.file}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        problem.make().save(path)
    return path


def augmented(problem: Problem, folder: Path) -> Path:
    """The same with all images of the training functions under the symmetries; test functions as they are."""
    path = folder / f"{problem.file}{AUGMENTED}.npz"
    if not path.exists():
        train, test = ft.load(written(problem, folder)).split(test=TEST, key=0)
        more = with_all_images(train, symmetries_of(problem, train))
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez_compressed(
            unfinished,
            train_inputs=more.inputs,
            train_outputs=more.outputs,
            test_inputs=test.inputs,
            test_outputs=test.outputs,
            sensor_points=test.sensor_points,
            query_points=test.query_points,
        )
        unfinished.rename(path)
    return path


def symmetries_of(problem: Problem, data: OperatorDataset) -> tuple[Symmetry, ...]:
    """Those of the problem, on the data's grid."""
    found = {symmetry.name: symmetry for symmetry in grid_symmetries(data)}
    missing = [name for name in problem.symmetries if name not in found]
    if missing:
        raise ft.ForetrainError(f"{problem.name}: expected the symmetries {missing}, came only {sorted(found)}")
    return tuple(found[name] for name in problem.symmetries)


def with_all_images(data: OperatorDataset, symmetries: tuple[Symmetry, ...]) -> OperatorDataset:
    """The functions under every element of the group, none twice."""
    elements = SymmetryGroup.generated_by(symmetries).elements
    inputs = np.concatenate([element.of_inputs(data.inputs) for element in elements])
    outputs = np.concatenate([element.of_outputs(data.outputs) for element in elements])
    kept = np.sort(np.unique(inputs, axis=0, return_index=True)[1])
    return replace(data, inputs=inputs[kept], outputs=outputs[kept])
