"""Flags that say which arrays of a file are inputs and outputs, and which part of them is read."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain._foundation import DataError, Progress, ignore_progress
from foretrain.data import FileLayout, OperatorDataset, layout_of, load_split


@dataclass(frozen=True)
class LayoutFlags:
    """Where the file keeps inputs and outputs, and which part of them is read; needed where its keys do not tell."""

    inputs: str | None = None
    """Key of the input functions; several, with commas, are channels of one function."""
    outputs: str | None = None
    """Key of the output functions, likewise."""
    input_axes: str | None = None
    """Names of the axes of the inputs, as in "sample time x y channel"."""
    output_axes: str | None = None
    """Names of the axes of the outputs."""
    input_times: str | None = None
    """Which times of the inputs: 0, -1, 0:10, 0:50:5 or 0,5,9."""
    output_times: str | None = None
    """Which times of the outputs; several become coordinates of the query points."""
    input_channels: str | None = None
    """Which channels of the inputs: 0 or 0,2."""
    output_channels: str | None = None
    """Which channels of the outputs."""
    sensor_points: str | None = None
    """Key of the coordinates of scattered sensors, [points, dimension]."""
    query_points: str | None = None
    """Key of the coordinates of scattered query points."""
    functions: str | None = None
    """How many functions are read (the first ones), or which: 100:200."""
    points: str = "1"
    """Every how many-th point is read along the axes in space: 4, or 4,2."""

    def layout(self, path: Path) -> FileLayout | None:
        """The layout asked for, on top of what the file's keys tell; None if that does not make one."""
        asked = self._asked()
        if not asked:
            return None
        told = layout_of(path) if not {"inputs", "outputs"} <= asked.keys() else None
        if told is None:
            # Half an answer is none: the refusal that follows lists what is in the file.
            return FileLayout(**asked) if {"inputs", "outputs"} <= asked.keys() else None
        for side in ("inputs", "outputs"):
            if side in asked:
                # What the file tells of the array it would have chosen does not hold for another.
                name = side.removesuffix("s")
                fresh = {f"{name}_axes": None, f"{name}_times": None, f"{name}_channels": None}
                points = {"sensor_points" if side == "inputs" else "query_points": None}
                told = dataclasses.replace(told, **{**fresh, **points})  # type: ignore[arg-type]
        return dataclasses.replace(told, **asked)

    def split(
        self, path: Path, test: int | float | None, key: int, progress: Progress = ignore_progress
    ) -> tuple[OperatorDataset, OperatorDataset]:
        """(train, test) of the file, as `load_split` with these flags."""
        return load_split(path, test, key, self.layout(path), self.chosen_functions(), self.steps(), progress)

    def chosen_functions(self) -> int | slice | None:
        """How many functions, or which."""
        chosen = None if self.functions is None else _numbers(self.functions, "functions")
        if isinstance(chosen, tuple):
            raise DataError(f"functions: expected a number or a range, came {self.functions!r}; write 1000 or 100:200")
        return chosen

    def steps(self) -> int | tuple[int, ...]:
        """Every how many-th point."""
        steps = _numbers(self.points, "points")
        if isinstance(steps, slice):
            raise DataError(f"points: expected a step, or one for each axis, came {self.points!r}; write 4 or 4,2")
        return steps

    def _asked(self) -> dict[str, Any]:
        asked: dict[str, Any] = {}
        for field in dataclasses.fields(FileLayout):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name.endswith("_times"):
                value = _numbers(value, field.name)
            elif field.name.endswith("_channels"):
                chosen = _numbers(value, field.name)
                if isinstance(chosen, slice):
                    raise DataError(f"{field.name}: expected channel numbers, came {value!r}; write 0 or 0,2")
                value = (chosen,) if isinstance(chosen, int) else chosen
            elif field.name in ("inputs", "outputs") and "," in value:
                value = tuple(key.strip() for key in value.split(","))
            asked[field.name] = value
        return asked


def _numbers(text: str, flag: str) -> int | slice | tuple[int, ...]:
    """3 -> 3, 0:50:5 -> slice, 0,5,9 -> tuple."""
    try:
        if ":" in text:
            ends = [int(part) if part.strip() else None for part in text.split(":")]
            if len(ends) <= 3:
                return slice(*ends)
        numbers = tuple(int(part) for part in text.split(","))
        return numbers[0] if len(numbers) == 1 else numbers
    except ValueError:
        pass
    flag = flag.replace("_", "-")
    raise DataError(f"--{flag}: expected a number, a range like 0:50:5 or a list like 0,5,9, came {text!r}; write one")
