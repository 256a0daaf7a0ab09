"""Where a file keeps inputs and outputs, said explicitly where it cannot be told."""

from dataclasses import dataclass

from foretrain._foundation import DataError

Times = int | slice | tuple[int, ...]
SAMPLE_NAMES = ("sample", "samples", "function", "functions", "trajectory", "member", "realization", "batch", "n")
TIME_NAMES = ("time", "t", "step", "steps")
CHANNEL_NAMES = ("channel", "channels", "component", "components", "variable", "field", "c", "v")


@dataclass(frozen=True)
class FileLayout:
    """Which arrays of a file are the input and the output functions, and what their axes mean.

    Functions are flattened in one order, whatever the file's: space (its axes in the file's order), then time, then
    channels, the last running fastest. Query points carry one coordinate for each of these axes that is longer than
    one: its values from the file where an array of the axis's name (x, x-coordinate, ...) holds them, else k / size.

    Arguments:
        inputs, outputs: key of the array; several keys are channels of one function, on the same grid.
        input_axes, output_axes: names of the array's axes, as in "sample time x y channel". `sample`, `time` and
            `channel` have these meanings (likewise trajectory, t, component and the like), every other name is an axis
            in space. By default as the file names them; else the first numbers the functions, the others are space.
        input_times, output_times: which times are read: one, a slice, or several. By default all; the first and the
            last where inputs and outputs are the same arrays.
        input_channels, output_channels: which channels are read; by default all.
        sensor_points, query_points: key of the coordinates of scattered points, [points, dimension].

    Raises:
        DataError: axes without exactly one for the functions, or with two for time.
    """

    inputs: str | tuple[str, ...]
    outputs: str | tuple[str, ...]
    input_axes: str | None = None
    output_axes: str | None = None
    input_times: Times | None = None
    output_times: Times | None = None
    input_channels: tuple[int, ...] | None = None
    output_channels: tuple[int, ...] | None = None
    sensor_points: str | None = None
    query_points: str | None = None

    def __post_init__(self) -> None:
        for side, axes in (("input_axes", self.input_axes), ("output_axes", self.output_axes)):
            if axes is not None:
                roles(tuple(axes.split()), side)
        for side, times in (("input_times", self.input_times), ("output_times", self.output_times)):
            if isinstance(times, slice) and times.step is not None and times.step <= 0:
                raise DataError(f"{side}: expected a step of at least 1, came {times.step}; list times forwards")
            if isinstance(times, tuple) and (not times or list(times) != sorted(set(times))):
                raise DataError(f"{side}: expected growing time numbers, came {times}; list each once, forwards")

    @property
    def input_keys(self) -> tuple[str, ...]:
        """Keys of the inputs' channels."""
        return (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)

    @property
    def output_keys(self) -> tuple[str, ...]:
        """Keys of the outputs' channels."""
        return (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)


def roles(axes: tuple[str, ...], name: str) -> tuple[str, ...]:
    """What each axis is: sample, time, channel, or space."""
    told = tuple(_role(axis) for axis in axes)
    if told.count("sample") != 1:
        raise DataError(
            f"{name}: expected exactly one axis called sample, that numbers the functions, came {' '.join(axes)!r}; "
            "name the axes in the array's order, as in 'sample time x y channel'"
        )
    if told.count("time") > 1:
        raise DataError(
            f"{name}: expected at most one axis for time, came {' '.join(axes)!r}; call the others otherwise"
        )
    return told


def _role(axis: str) -> str:
    for role, names in (("sample", SAMPLE_NAMES), ("time", TIME_NAMES), ("channel", CHANNEL_NAMES)):
        if axis.lower() in names:
            return role
    return "space"
