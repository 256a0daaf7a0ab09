"""Small datasets as CSV: one row for each function, one column for each number."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from foretrain._foundation import DataError, write_atomically
from foretrain.data._dataset import OperatorDataset
from foretrain.data._stored import Array, Contents, in_memory, reading

KIND = "CSV file"
MOST_BYTES = 100_000_000
COLUMN = re.compile(r"\s*([A-Za-z][A-Za-z_ ]*?)[\s_]*(\d+|\([^()]*\))?\s*")


@contextmanager
def open_csv(path: Path) -> Iterator[Contents]:
    """The columns of a CSV file, those of one name together as one array.

    The first row names them: `inputs(0.25)` is an input measured at the point 0.25, `outputs(0.25 0.5)` an output in
    two dimensions; `inputs_3` or `u3` tell no point. Columns of one name are taken in the order of the file.
    """
    if path.stat().st_size > MOST_BYTES:
        raise DataError(
            f"{path}: expected a CSV file of at most {MOST_BYTES / 1e6:g} MB, came {path.stat().st_size / 1e6:.3g} MB; "
            "store large data as HDF5 or npz"
        )
    with reading(path, KIND), path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise DataError(f"{path}: expected a row of names and rows of numbers, came an empty file; write it again")
    columns = _columns(path, rows[0])
    values = _numbers(path, rows[0], rows[1:])
    arrays = {}
    for key, members in columns.items():
        arrays[key] = in_memory(values[:, [column for column, _ in members]])
        points = [point for _, point in members]
        name = {"inputs": "sensor_points", "outputs": "query_points"}.get(key, f"{key}_points")
        if all(point is not None for point in points):
            if len({len(point or ()) for point in points}) != 1:
                raise DataError(
                    f"{path}: expected points of one dimension behind {key!r}, came several; name them alike"
                )
            arrays[name] = in_memory(np.array(points))
    yield Contents(path, KIND, arrays)


def _columns(path: Path, header: list[str]) -> dict[str, list[tuple[int, tuple[float, ...] | None]]]:
    columns: dict[str, list[tuple[int, tuple[float, ...] | None]]] = {}
    for place, name in enumerate(header):
        match = COLUMN.fullmatch(name)
        if match is None:
            raise DataError(
                f"{path}: expected a first row of names like inputs(0.25) or outputs_3, came {name[:40]!r} in column "
                f"{place + 1}; name the columns"
            )
        point = None
        if match[2] and match[2].startswith("("):
            try:
                point = tuple(float(part) for part in match[2][1:-1].replace(";", " ").split())
            except ValueError:
                raise DataError(
                    f"{path}: expected a point, numbers in brackets, came {name[:40]!r} in column {place + 1}; "
                    "write it as inputs(0.25 0.5)"
                ) from None
        columns.setdefault(match[1], []).append((place, point))
    return columns


def _numbers(path: Path, header: list[str], rows: list[list[str]]) -> Array:
    values = np.empty((len(rows), len(header)))
    for line, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"{path}: expected {len(header)} numbers in each row, came {len(row)} in row {line + 2}; complete it"
            )
        for column, cell in enumerate(row):
            try:
                values[line, column] = float(cell)
            except ValueError:
                raise DataError(
                    f"{path}: expected numbers, came {cell[:40]!r} in row {line + 2}, column {column + 1} "
                    f"({header[column][:40]}); replace or remove it"
                ) from None
    return values


def save_csv(data: OperatorDataset, path: Path, label: str) -> Path:
    """Writes one row for each function under a row of names with the points; numbers read back exactly."""
    if data.inputs.size + data.outputs.size > MOST_BYTES // 25:
        raise DataError(f"{path}: expected a small dataset for CSV, came {data!r}; save it as .npz or .h5")
    header = [
        f"{name}({' '.join(repr(float(x)) for x in point)})"
        for name, points in (("inputs", data.sensor_points), ("outputs", data.query_points))
        for point in points
    ]
    table = np.concatenate([data.inputs, data.outputs], axis=1).tolist()
    lines = [",".join(header), *(",".join(map(repr, row)) for row in table)]
    return write_atomically(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))
