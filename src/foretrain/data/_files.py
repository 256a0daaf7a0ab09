"""Datasets out of files of every format, whole or in part, and into them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from foretrain._foundation import DataError, Progress, ignore_progress, require_memory
from foretrain.data._dataset import OperatorDataset
from foretrain.data._known_layouts import annotated, is_divided, own_layout, recognised
from foretrain.data._layout import FileLayout
from foretrain.data._npz import check_parts, check_test_count, dataset_of, join, label_of, read_npz
from foretrain.data._npz_parts import held
from foretrain.data._open import format_of, open_file
from foretrain.data._side import Side, input_side, output_side
from foretrain.data._stored import Contents, keys_text

Functions = int | slice | Sequence[int] | None
"""How many functions from the first on, a slice of them, or their row numbers; None for all."""
PARTS = ("train_", "test_")


@dataclass(frozen=True, eq=False)
class OpenFunctions:
    """The functions of an open file, none of them read yet."""

    contents: Contents
    layout: FileLayout
    inputs: Side
    outputs: Side

    def __len__(self) -> int:
        return self.inputs.functions

    def numbers(self) -> int:
        """Input and output values of one function."""
        return len(self.inputs.points) + len(self.outputs.points)

    def take(self, functions: Functions = None, progress: Progress = ignore_progress) -> OperatorDataset:
        """Reads some functions; asks for the memory first."""
        path = self.contents.path
        count = len(range(len(self))[functions]) if isinstance(functions, slice) else functions
        count = len(self) if count is None else count if isinstance(count, int) else len(count)
        # Values as read, the dataset's own copy, and one more while it is checked.
        needed = 3 * 8 * min(count, len(self)) * self.numbers() + self.inputs.block_bytes() + self.outputs.block_bytes()
        advice = "read fewer functions (functions=), fewer points (points=) or fewer times (output_times=)"
        require_memory(needed, f"reading {count} functions of {path}", advice)
        rows = _rows(functions, len(self), path)
        name, description = label_of(self.contents.label, path)
        try:
            inputs, outputs = self.inputs.read(rows, progress), self.outputs.read(rows, progress)
            return OperatorDataset(inputs, outputs, self.inputs.points, self.outputs.points, name, description)
        except DataError as error:
            raise _with_path(path, error) from error


def _rows(functions: Functions, count: int, path: Path) -> Int[np.ndarray, " functions"]:
    if functions is None:
        return np.arange(count)
    if isinstance(functions, slice):
        return np.array(range(count)[functions], dtype=int)
    if isinstance(functions, int):
        if not 2 <= functions <= count:
            raise DataError(
                f"{path}: expected between 2 and {count} functions (the file's), came {functions}; ask for as many"
            )
        return np.arange(functions)
    rows = np.asarray(functions)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or np.any(rows < 0) or np.any(rows >= count):
        raise DataError(f"{path}: expected numbers of functions between 0 and {count - 1}, came others; count from 0")
    return rows


def _with_path(path: Path, error: DataError) -> DataError:
    told = str(error)
    return error if told.startswith(str(path)) else DataError(f"{path}: {told}")


def view(contents: Contents, layout: FileLayout | None, points: int | tuple[int, ...]) -> OpenFunctions:
    """The functions of an open file, under a layout or the one its keys tell."""
    layout = layout if layout is not None else recognised(contents)
    if layout is None:
        raise _undecided(contents)
    try:
        inputs, outputs = input_side(contents, layout, points), output_side(contents, layout, points)
        if inputs.functions != outputs.functions:
            raise DataError(
                f"expected as many output functions as input functions, came {inputs.functions} inputs and "
                f"{outputs.functions} outputs; name the axes if another one numbers the functions "
                "(input_axes=, output_axes=)"
            )
    except DataError as error:
        raise _with_path(contents.path, error) from error
    return OpenFunctions(contents, layout, inputs, outputs)


def _part(contents: Contents, prefix: str, points: int | tuple[int, ...]) -> OpenFunctions:
    return view(contents, own_layout(contents, prefix), points)


def _undecided(contents: Contents) -> DataError:
    if is_divided(contents):
        return DataError(
            f"{contents.path}: expected one set of functions, came a file that divides itself into two; name one: "
            "layout=FileLayout('train_inputs', 'train_outputs')"
        )
    return DataError(
        f"{contents.path}: expected keys that say what is input and output (inputs and outputs, a and u, coeff and "
        f"sol, or the layout of PDEBench or The Well), came {keys_text(contents.arrays)}; name them: "
        "layout=FileLayout(inputs=..., outputs=...), on the command line --inputs KEY --outputs KEY"
    )


@contextmanager
def open_functions(
    path: str | Path, layout: FileLayout | None = None, points: int | tuple[int, ...] = 1
) -> Iterator[OpenFunctions]:
    """The functions of a file, to be read in parts. Arguments and errors as `load`."""
    with open_file(Path(path)) as contents:
        yield view(contents, layout, points)


def load(
    path: str | Path,
    layout: FileLayout | None = None,
    functions: Functions = None,
    points: int | tuple[int, ...] = 1,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Reads a dataset from npz, MATLAB, HDF5, Zarr, NetCDF, torch or CSV files.

    Files in foretrain's own layout (inputs [functions, sensors], outputs [functions, points], optional sensor_points
    and query_points), FNO's, PDEBench's, The Well's and neuraloperator's say themselves what is what; for others give a
    `FileLayout`. Files with train_inputs, train_outputs, test_inputs, test_outputs are read by `load_split`; here
    their two parts are joined. Nothing in a file is ever executed.

    Arguments:
        path: the file; the folder for Zarr.
        layout: which arrays are input and output, and what their axes mean.
        functions: how many functions (the first ones), a slice of them, or their numbers. Only these are read.
        points: every how many-th point is kept along each axis in space: one number, or one for each axis.
        progress: called while parts are read.

    Raises:
        DataError: a file that is damaged, of no known format or layout, or holds what makes no `OperatorDataset`.
        MemoryBudgetError: if what was asked for would not fit into memory.
        MissingExtraError: if the format's library is not installed.
    """
    path = Path(path)
    if layout is None and functions is None and points == 1 and format_of(path) == "npz":
        return _load_npz(path)
    with open_file(path) as contents:
        if layout is None and is_divided(contents):
            whole = join(*check_parts(path, *(_part(contents, part, points).take() for part in PARTS)))
            return whole if functions is None else whole.take(_rows(functions, len(whole), path))
        return view(contents, layout, points).take(functions, progress)


def _load_npz(path: Path) -> OperatorDataset:
    """A whole npz file, which NumPy checks while it unpacks it."""
    arrays = read_npz(path)
    contents = annotated(held(path, arrays))
    if is_divided(contents):
        return join(*check_parts(path, *(dataset_of(arrays, path, part) for part in PARTS)))
    if "inputs" in arrays or recognised(contents) is None:
        return dataset_of(arrays, path, "")
    return view(contents, None, 1).take()


def load_split(
    path: str | Path,
    test: int | float | None = None,
    key: int = 0,
    layout: FileLayout | None = None,
    functions: Functions = None,
    points: int | tuple[int, ...] = 1,
    progress: Progress = ignore_progress,
) -> tuple[OperatorDataset, OperatorDataset]:
    """Reads a file as (train, test): as the file itself divides it, else by drawing `test` functions at random.

    Arguments:
        path: a file with train_inputs, train_outputs, test_inputs, test_outputs, or one that `load` reads.
        test: how many functions (or which fraction) to hold out; by default one in six. A file that divides itself is
            read as it does.
        key: seed of the draw.
        layout, points, progress: as for `load`.
        functions: as for `load`; of a file that divides itself, the training functions.

    Raises:
        DataError: see `load`; and if a file's own parts do not belong together, share functions, or are not of the
            size asked for.
    """
    path = Path(path)
    parts = _own_parts(path, functions, points) if layout is None else None
    if parts is None:
        data = load(path, layout, functions, points, progress)
        return data.split(test if test is not None else max(2, len(data) // 6), key)
    check_test_count(test, len(parts[0]), len(parts[1]), path)
    return parts


def _own_parts(
    path: Path, functions: Functions, points: int | tuple[int, ...]
) -> tuple[OperatorDataset, OperatorDataset] | None:
    """A file's own training and test functions; None if it does not divide itself."""
    with open_file(path) as contents:
        if not is_divided(contents):
            return None
        if contents.kind == "npz file" and functions is None and points == 1:
            arrays = read_npz(path)
            return check_parts(path, *(dataset_of(arrays, path, part) for part in PARTS))
        train, test = (_part(contents, part, points) for part in PARTS)
        return check_parts(path, train.take(functions), test.take())


def load_parts(
    path: str | Path, size: int, layout: FileLayout | None = None, points: int | tuple[int, ...] = 1
) -> Iterator[OperatorDataset]:
    """All functions of a file, `size` at a time (the last part holds up to one more): memory holds one part.

    Arguments and errors as `load`.
    """
    if size < 2:
        raise DataError(f"size: expected at least 2 functions at a time, came {size}; ask for more")
    with open_functions(path, layout, points) as opened:
        starts = list(range(0, max(len(opened) - 1, 1), size))
        for start, end in zip(starts, [*starts[1:], len(opened)], strict=True):
            yield opened.take(slice(start, end))
