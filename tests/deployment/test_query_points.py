"""Query points as an input of the graph: the output series, wherever it is asked for."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset
from foretrain.deployment import OnnxPackager, Runtime, with_trust, write_numpy_predictor
from foretrain.deployment._query_points import QueryGrid
from foretrain.deployment._trust import ConformalBand
from foretrain.models import FilteredBoxOperator, FilteredFourierOperator

# Coordinates are physical: neither from zero nor of length one.
ORIGIN, EXTENT = np.array([-1.0, 2.0]), np.array([2 * np.pi, 0.5])
PERIODIC = {"circle": (32,), "torus": (12, 16)}
BOXES = {"interval": (17,), "rectangle": (9, 12)}


def grid_points(shape, periodic):
    axes = np.meshgrid(*[np.arange(size) / (size - (not periodic)) for size in shape], indexing="ij")
    return ORIGIN[: len(shape)] + EXTENT[: len(shape)] * np.stack(axes, -1).reshape(-1, len(shape))


def drawn(shape, periodic, dirichlet=True):
    """A network whose outer layer is not zero, and inputs."""
    rng, points = np.random.default_rng(0), grid_points(shape, periodic)
    inputs, outputs = 1 + rng.standard_normal((2, 60, len(points)))
    if not periodic and dirichlet:
        inside = (points > points.min(axis=0)) & (points < points.max(axis=0))
        outputs = outputs * np.all(inside, axis=1)
    data = OperatorDataset(inputs, outputs, points, points)
    operator = FilteredFourierOperator(6, 5, 4) if periodic else FilteredBoxOperator(4, modes=5, output_modes=4)
    network = operator.initialise(data, jax.random.key(1))
    readout = jnp.asarray(rng.standard_normal(network.readout.shape))
    return eqx.tree_at(lambda net: net.readout, network, readout), data


def packaged(network, data, number_format="float32"):
    return OnnxPackager(latency_repeats=3, query_points=data.query_points)(network, number_format, data.inputs)


def difference(answer, truth):
    return np.linalg.norm(answer - truth) / np.linalg.norm(truth)


def interpolated(values, shape, data, points):
    """Trigonometric interpolation of the network's answers on the grid, by FFT and in double precision."""
    unit = (points - data.query_points.min(axis=0)) / EXTENT[: len(shape)]
    spectrum = np.fft.fftn(values.reshape(-1, *shape), axes=range(1, len(shape) + 1)) / np.prod(shape)
    waves = np.stack(np.meshgrid(*[np.fft.fftfreq(size, 1 / size) for size in shape], indexing="ij"), -1)
    phases = np.exp(2j * np.pi * unit @ waves.reshape(-1, len(shape)).T)
    return np.real(spectrum.reshape(len(values), -1) @ phases.T)


@pytest.mark.parametrize("name", PERIODIC)
def test_answers_at_any_points_are_the_networks_trigonometric_interpolant(name):
    network, data = drawn(PERIODIC[name], periodic=True)
    made = packaged(network, data)
    onnx.checker.check_model(onnx.load_model_from_string(made.file), full_check=True)
    own = np.asarray(network(data.inputs), np.float64)
    assert difference(made.predict(data.inputs), own) < 1e-5
    # A period to either side is the same place.
    points = data.query_points.min(axis=0) + EXTENT[: len(PERIODIC[name])] * np.random.default_rng(3).uniform(
        -1, 2, (57, len(PERIODIC[name]))
    )
    truth = interpolated(own, PERIODIC[name], data, points)
    for functions in (1, 50):
        answers = made.runtime.predict(data.inputs[:functions], points)
        assert answers.shape == (functions, 57)
        assert difference(answers, truth[:functions]) < 1e-5
    one = made.runtime.predict(data.inputs[:3], points[:1])
    assert difference(one, truth[:3, :1]) < 2e-5


@pytest.mark.parametrize("dirichlet", [True, False], ids=["clamped", "free"])
@pytest.mark.parametrize("name", BOXES)
def test_answers_in_a_box_are_the_series_that_fits_the_networks_own(name, dirichlet):
    shape = BOXES[name]
    network, data = drawn(shape, periodic=False, dirichlet=dirichlet)
    made = packaged(network, data)
    own = np.asarray(network(data.inputs), np.float64)
    assert difference(made.predict(data.inputs), own) < 1e-5
    unit = np.random.default_rng(3).uniform(0, 1, (43, len(shape)))

    def waves(places):
        """The four modes along every axis, written out."""
        table = np.ones((len(places), 1))
        for axis in range(len(shape)):
            k = np.arange(4)
            one = np.sin(np.pi * places[:, [axis]] * (k + 1)) if dirichlet else np.cos(np.pi * places[:, [axis]] * k)
            table = (table[:, :, None] * one[:, None, :]).reshape(len(places), -1)
        return table

    on_grid = waves((data.query_points - ORIGIN[: len(shape)]) / EXTENT[: len(shape)])
    coefficients = np.linalg.lstsq(on_grid, (own - network.scale.offset).T, rcond=None)[0]
    truth = (waves(unit) @ coefficients).T + network.scale.offset
    answers = made.runtime.predict(data.inputs, ORIGIN[: len(shape)] + EXTENT[: len(shape)] * unit)
    assert difference(answers, truth) < 1e-5


@pytest.mark.parametrize(
    ("number_format", "limit"),
    [("float16", 2e-3), ("int8 weights", 4e-2), ("int8", 8e-2)],
    ids=["half", "bytes", "int"],
)
def test_every_number_format_takes_points(number_format, limit):
    network, data = drawn((32,), periodic=True)
    made = packaged(network, data, number_format)
    points = data.query_points[:20] + 0.01
    truth = packaged(network, data).runtime.predict(data.inputs, points)
    assert difference(made.runtime.predict(data.inputs, points), truth) < limit


def test_the_file_knows_its_own_grid_and_carries_trust_as_others_do():
    network, data = drawn((12, 16), periodic=True)
    made = packaged(network, data)
    grid = made.runtime.query_grid
    np.testing.assert_allclose(grid.points(), data.query_points, atol=1e-12)
    assert made.runtime.points == 192
    trusted = with_trust(made, ConformalBand(0.9, 99, np.ones(192), np.ones(192)))
    assert trusted.runtime.band.half_width.shape == (192,)
    assert Runtime(trusted.file).latency(2, 3).median > 0


def test_points_that_cannot_be_answered_are_refused_in_one_line(tmp_path):
    network, data = drawn((9, 12), periodic=False)
    made = packaged(network, data)
    cases = {
        r"expected real coordinates \[points, 2\], came an array of shape \[3, 1\]": np.zeros((3, 1)),
        r"came an array of shape \[0, 2\]": np.zeros((0, 2)),
        "expected finite coordinates": np.full((2, 2), np.nan),
        r"points in the box \[-1, 5\.\d+\] x \[2, 2.5\], came 1 outside, the first in row 1": [[0, 2.1], [0, 2.6]],
    }
    for message, points in cases.items():
        with pytest.raises(DataError, match=message) as refused:
            made.runtime.predict(data.inputs, np.array(points))
        assert "\n" not in str(refused.value)
    with pytest.raises(ForetrainError, match="expected a model with fixed query points"):
        write_numpy_predictor(made.file, tmp_path / "small.py")
    fixed = OnnxPackager(latency_repeats=3)(network, "float32", data.inputs)
    with pytest.raises(ForetrainError, match="this file's 108 query points are fixed"):
        fixed.runtime.predict(data.inputs, data.query_points)
    with pytest.raises(ForetrainError, match="regular grid of 108 points that the network answers on"):
        replace(OnnxPackager(), query_points=data.query_points[:-1])(network, "float32", data.inputs)
    with pytest.raises(ForetrainError, match="metadata: expected the grid of the query points"):
        QueryGrid.from_card({"shape": [2], "origin": [0]})
