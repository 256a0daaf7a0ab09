"""Fourier tables in a graph: computed from wave numbers where the grid is regular, else stored; and their use."""

from functools import partial
from itertools import product

import numpy as np

from foretrain.deployment._builder import GraphBuilder

Array = np.ndarray


def fourier_table(builder: GraphBuilder, table: Array, name: str = "") -> tuple[str, str]:
    """Values cos 2 pi k x and sin 2 pi k x, [points, modes] each, from a table of both, [points, 2 modes].

    On a regular grid only the wave numbers and the grid's size are stored (on a line whose wave numbers follow one
    another, only how many there are), and runtimes compute the table once when they load the file:

        angle = 2 pi (t - n round(t / n)) / n,   t = sum_axes (n / n_axis) j_axis k_axis,

    in whole numbers up to the last step, so that no precision is lost for large k. `name` begins the names of its
    constants: two tables of one graph need two names.
    """
    table = np.asarray(table, np.float64)
    found = _wave_numbers(table)
    if found is None:
        count = table.shape[1] // 2
        return builder.weight(f"{name}cosine", table[:, :count]), builder.weight(f"{name}sine", table[:, count:])
    shape, waves = found
    return _of_turns(builder, _turns(builder, shape, waves, name), len(table), name)


def half_wave_table(builder: GraphBuilder, size: int, waves: int, name: str) -> tuple[str, str]:
    """cos and sin of pi j k / (size - 1), [size, waves] each, j and k from 0 on; computed by the runtime as well."""
    return _of_turns(builder, _turns_of_a_line(builder, size, waves, name), 2 * (size - 1), name)


def wave_numbers(table: Array, shape: tuple[int, ...]) -> Array:
    """Those of a table [points, 2 modes] on this periodic grid, [axes, modes]."""
    count = table.shape[1] // 2
    angles = np.arctan2(table[:, count:], table[:, :count]) / (2 * np.pi)
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return np.stack([np.round(angles[s] * n) for s, n in zip(strides, shape, strict=True)])


def turned_coefficients(
    builder: GraphBuilder, grid: tuple[str, str], samples: tuple[str, str], balance: Array | None
) -> tuple[str, str]:
    """Real and imaginary parts of balance_k n u_k e^{2 pi i k y} for each sample y, [batch, samples, modes].

    Arguments:
        grid, samples: (cosine, sine) of the modes at the points of the inputs and at the samples.
    """
    axis, factor = builder.constant("point_axis", [1], np.int64), ""
    if balance is not None:
        factor = builder.constant("balance", balance)
    parts = []
    for table in grid:
        part = builder.node("MatMul", "inputs", table)
        if factor:
            part = builder.node("Mul", part, factor)
        parts.append(builder.node("Unsqueeze", part, axis))
    (along_cosine, along_sine), (cosine, sine) = parts, samples
    real = builder.node("Add", builder.node("Mul", along_cosine, cosine), builder.node("Mul", along_sine, sine))
    imaginary = builder.node("Sub", builder.node("Mul", along_cosine, sine), builder.node("Mul", along_sine, cosine))
    return real, imaginary


def _of_turns(builder: GraphBuilder, turns: str, points: int, name: str) -> tuple[str, str]:
    """cos and sin of 2 pi turns / points, whole turns taken off first."""
    unit = builder.constant(f"{name}point_count", points)
    whole = builder.node("Mul", builder.node("Round", builder.node("Div", turns, unit)), unit)
    return _cosine_and_sine(builder, builder.node("Sub", turns, whole), points, name)


def _cosine_and_sine(builder: GraphBuilder, turns: str, points: int, name: str) -> tuple[str, str]:
    """cos and sin of 2 pi turns / points, as exact as float32 holds them.

    One rounded product with 2 pi / points would cost a digit: the unit is split in two, turns times the first part is
    exact, and the addition theorem puts the parts together.
    """
    unit = 2 * np.pi / points
    bits = 23 - int(np.ceil(np.log2(points)))
    grain = 2.0 ** (np.floor(np.log2(unit)) - bits)
    coarse = np.floor(unit / grain) * grain
    first = builder.node("Mul", turns, builder.constant(f"{name}unit_coarse", coarse))
    second = builder.node("Mul", turns, builder.constant(f"{name}unit_fine", unit - coarse))
    (cosine_1, sine_1), (cosine_2, sine_2) = (
        (builder.node("Cos", angle), builder.node("Sin", angle)) for angle in (first, second)
    )
    times = partial(builder.node, "Mul")
    cosine = builder.node("Sub", times(cosine_1, cosine_2), times(sine_1, sine_2))
    sine = builder.node("Add", times(sine_1, cosine_2), times(cosine_1, sine_2))
    return cosine, sine


def _turns(builder: GraphBuilder, shape: tuple[int, ...], waves: Array, name: str) -> str:
    """t = sum over axes of (n / n_axis) j_axis k_axis, [points, modes]."""
    points, total = int(np.prod(shape)), ""
    if len(shape) == 1 and np.array_equal(waves[0], np.arange(waves.shape[1])):
        return _turns_of_a_line(builder, points, waves.shape[1], name)
    for axis, size in enumerate(shape):
        # [1, .., n_axis, .., 1, 1] times [modes]
        positions = np.arange(size).reshape([-1 if other == axis else 1 for other in range(len(shape))] + [1])
        grid = builder.constant(f"{name}grid_{axis}", positions)
        wave = builder.constant(f"{name}waves_{axis}", waves[axis] * (points // size))
        turns = builder.node("Mul", grid, wave)
        total = builder.node("Add", total, turns) if total else turns
    if len(shape) == 1:
        return total
    return builder.node("Reshape", total, builder.constant(f"{name}table_shape", [points, waves.shape[1]], np.int64))


def _turns_of_a_line(builder: GraphBuilder, points: int, modes: int, name: str) -> str:
    """j k for j < points and k < modes."""
    start, step = builder.constant(f"{name}first", 0), builder.constant(f"{name}step", 1)
    grid, waves = (
        builder.node("Range", start, builder.constant(f"{name}{word}", count), step)
        for word, count in (("grid", points), ("waves", modes))
    )
    return builder.node("Mul", builder.node("Unsqueeze", grid, builder.constant(f"{name}axis", [1], np.int64)), waves)


def _wave_numbers(table: Array) -> tuple[tuple[int, ...], Array] | None:
    """(grid shape, wave numbers [axes, modes]) such that the table is theirs, or None if there are none."""
    points = table.shape[0]
    for shape in _shapes(points):
        waves = wave_numbers(table, shape)
        # A few rows rule out most shapes of a large grid.
        if all(
            _agrees(table, shape, waves, rows) for rows in (np.arange(0, points, 1 + points // 32), np.arange(points))
        ):
            return shape, waves
    return None


def _agrees(table: Array, shape: tuple[int, ...], waves: Array, rows: Array) -> bool:
    grid = np.stack(np.unravel_index(rows, shape), axis=1) / np.asarray(shape)
    angle = 2 * np.pi * grid @ waves
    return np.allclose(np.concatenate([np.cos(angle), np.sin(angle)], axis=1), table[rows], atol=1e-5)


def _shapes(points: int) -> list[tuple[int, ...]]:
    """Grids of one to three axes, of at least two points each, with that many points."""
    sides = [side for side in range(2, points + 1) if points % side == 0]
    shapes = [shape for axes in (1, 2, 3) for shape in product(sides, repeat=axes)]
    return [shape for shape in shapes if np.prod(shape) == points]
