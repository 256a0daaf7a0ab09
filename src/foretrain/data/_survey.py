"""What a file holds, and as many of its functions as one can look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foretrain._foundation import DataError, Progress, ignore_progress
from foretrain.data._dataset import OperatorDataset
from foretrain.data._files import Functions, load, view
from foretrain.data._known_layouts import is_divided, recognised
from foretrain.data._layout import FileLayout
from foretrain.data._open import open_file
from foretrain.data._side import Side
from foretrain.data._stored import shape_text

MOST_NUMBERS = 20_000_000
LEAST_FUNCTIONS = 200


@dataclass(frozen=True, eq=False)
class Survey:
    """A file's kind, its arrays as [shape] type, which of them are inputs and outputs, and some of its functions.

    `functions` is how many functions the file holds; `data` has all of them, or the first.
    """

    kind: str
    arrays: Mapping[str, str]
    inputs: str
    outputs: str
    functions: int
    data: OperatorDataset


def layout_of(path: str | Path) -> FileLayout | None:
    """The layout that a file's keys tell, to be changed with `dataclasses.replace`; None where it must be given.

    Raises:
        DataError: a file that cannot be read.
    """
    with open_file(Path(path)) as contents:
        return recognised(contents)


def survey(
    path: str | Path,
    layout: FileLayout | None = None,
    functions: Functions = None,
    points: int | tuple[int, ...] = 1,
    progress: Progress = ignore_progress,
) -> Survey:
    """Looks at a file. Of a large one the first functions are read: some 20 million numbers, 200 functions at least.

    Arguments and errors as `load`.
    """
    path = Path(path)
    with open_file(path) as contents:
        arrays = {key: f"{shape_text(array.shape)} {array.dtype}" for key, array in contents.arrays.items()}
        kind = contents.kind
        try:
            opened = None if layout is None and is_divided(contents) else view(contents, layout, points)
        except DataError:
            # npz files in foretrain's own layout are refused in the words of `load`.
            if kind != "npz file" or layout is not None:
                raise
            opened = None
        if opened is not None and (functions is not None or len(opened) * opened.numbers() > MOST_NUMBERS):
            few = max(LEAST_FUNCTIONS, MOST_NUMBERS // opened.numbers())
            data = opened.take(functions if functions is not None else min(few, len(opened)), progress)
            return Survey(kind, arrays, _told(opened.inputs), _told(opened.outputs), len(opened), data)
        told = (_told(opened.inputs), _told(opened.outputs)) if opened else ("train_inputs, test_inputs", "likewise")
    data = load(path, layout, functions, points, progress)
    return Survey(kind, arrays, *told, len(data), data)


def _told(side: Side) -> str:
    """Keys and axes, as in: a (sample 100, x 64); keys with the same axes together."""
    keys: dict[str, list[str]] = {}
    for piece in side.pieces:
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(piece.axes, piece.array.shape, strict=True))
        count = max(piece.sizes("time"), default=1)
        times = "" if len(piece.times) == count else f", {len(piece.times)} of {count} times from {piece.times[0]}"
        keys.setdefault(f"({axes}){times}", []).append(piece.key)
    return "; ".join(f"{', '.join(members)} {axes}" for axes, members in keys.items())
