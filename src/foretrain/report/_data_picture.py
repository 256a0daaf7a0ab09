"""The first functions of a dataset as one picture: curves on a line, maps on a plane. No library draws it."""

import base64
import struct
import zlib
from html import escape
from pathlib import Path

import numpy as np

from foretrain._foundation import DataError, write_atomically
from foretrain.data import OperatorDataset, regular_grid_shape
from foretrain.report._field_charts import _ANSWER, _INPUT

_SIDE = 180
_GAP = 28
_MOST_POINTS = 400
_MOST_CELLS = 256


def check_picture(path: str | Path) -> Path:
    """The path of a picture, if its suffix is one that `data_picture` writes."""
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".html"):
        raise DataError(f"{path}: expected the suffix .svg or .html, came {path.suffix!r}; rename the picture")
    return path


def data_picture(data: OperatorDataset, path: str | Path, functions: int = 3) -> Path:
    """Draws the first input functions beside their outputs into an SVG file, or an HTML page that holds it.

    Axes beyond two (time, channels) are drawn at their last value.

    Raises:
        DataError: another suffix than .svg and .html.
    """
    path = check_picture(path)
    rows = range(min(functions, len(data)))
    parts = []
    for column, (title, values, points, colours) in enumerate(
        (
            ("input", data.inputs, data.sensor_points, _INPUT),
            ("output", data.outputs, data.query_points, _ANSWER),
        )
    ):
        left = _GAP + column * (_SIDE + _GAP)
        parts.append(f'<text x="{left}" y="18">{title}, {values.min():.3g} to {values.max():.3g}</text>')
        shape = regular_grid_shape(points)
        for row in rows:
            top = _GAP + row * (_SIDE + _GAP / 2)
            parts.append(f'<g transform="translate({left},{top})">{_panel(values, row, points, shape, colours)}</g>')
    width, height = 3 * _GAP + 2 * _SIDE, _GAP + len(rows) * (_SIDE + _GAP // 2)
    name = escape(f"{data.name}: first functions", quote=True)
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{name}" font-family="system-ui, sans-serif" font-size="11" fill="#444">'
        f'<title>{name}</title><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )
    if path.suffix.lower() == ".html":
        drawing = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>{drawing}</html>'
    return write_atomically(path, lambda file: file.write(drawing.encode()))


def _panel(
    values: np.ndarray, row: int, points: np.ndarray, shape: tuple[int, ...] | None, colours: tuple[str, ...]
) -> str:
    limits = float(values.min()), float(values.max())
    if shape is not None:
        grid = values[row].reshape(shape)
        while grid.ndim > 2:
            grid = grid[..., -1]
        if grid.ndim == 2 and min(grid.shape) > 1:
            return _map(grid, limits, colours)
        return _curve(np.linspace(0, 1, grid.size), grid.reshape(-1), limits, colours[0])
    if points.shape[1] == 1 and len(points) > 1:
        order = np.argsort(points[:, 0])
        return _curve(_share(points[order, 0]), values[row][order], limits, colours[0])
    return _dots(points, values[row], limits, colours)


def _share(values: np.ndarray) -> np.ndarray:
    extent = np.ptp(values)
    return (values - values.min()) / extent if extent > 0 else np.full(len(values), 0.5)


def _level(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return (values - low) / (high - low) if high > low else np.full(np.shape(values), 0.5)


def _curve(places: np.ndarray, values: np.ndarray, limits: tuple[float, float], colour: str) -> str:
    step = -(-len(values) // _MOST_POINTS)
    pairs = zip(_SIDE * places[::step], _SIDE * (1 - _level(values[::step], limits)), strict=True)
    frame = f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#ddd"/>'
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
    return f'{frame}<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _colours(levels: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """Levels between 0 and 1 as bytes of red, green and blue."""
    table = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in colours], float)
    stops = np.linspace(0, 1, len(table))
    return np.stack([np.interp(levels, stops, table[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def _map(grid: np.ndarray, limits: tuple[float, float], colours: tuple[str, ...]) -> str:
    """The first axis runs to the right, the second upwards."""
    steps = tuple(-(-size // _MOST_CELLS) for size in grid.shape)
    pixels = _colours(_level(grid[:: steps[0], :: steps[1]], limits), colours).transpose(1, 0, 2)[::-1]
    content = base64.b64encode(_png(np.ascontiguousarray(pixels))).decode()
    return (
        f'<image width="{_SIDE}" height="{_SIDE}" preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{content}"/>'
    )


def _png(pixels: np.ndarray) -> bytes:
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _dots(points: np.ndarray, values: np.ndarray, limits: tuple[float, float], colours: tuple[str, ...]) -> str:
    step = -(-len(values) // (4 * _MOST_POINTS))
    second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    places = zip(_SIDE * _share(points[:, 0])[::step], _SIDE * (1 - _share(second)[::step]), strict=True)
    dyes = _colours(_level(values[::step], limits), colours)
    return "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="rgb({r},{g},{b})"/>'
        for (x, y), (r, g, b) in zip(places, dyes, strict=True)
    )
