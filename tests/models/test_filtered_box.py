"""The operator with filters on a box, against sums written out and against what boundary values say."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import FilteredBoxOperator

WIDTH = 3
OPERATOR = FilteredBoxOperator(WIDTH, modes=4, output_modes=3, bias_modes=2)
SHAPES = {"line": (9,), "plane": (7, 6)}


def box_data(shape, dirichlet, functions=5):
    """Smooth random functions on a box; outputs vanish at the ends of the axes named."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij"), axis=-1)
    points = grid.reshape(-1, len(shape))
    inputs, outputs = rng.standard_normal((2, functions, len(points)))
    for axis, vanishes in enumerate(dirichlet):
        if vanishes:
            outputs = outputs * np.where((points[:, axis] == 0) | (points[:, axis] == 1), 0, 1)
    return OperatorDataset(inputs, outputs, points, points)


def drawn(data, **settings):
    """A network whose outer layer is not zero."""
    network = FilteredBoxOperator(**{**vars(OPERATOR), **settings}).initialise(data, jax.random.key(1))
    readout = jnp.asarray(np.random.default_rng(2).standard_normal(network.readout.shape))
    return eqx.tree_at(lambda net: net.readout, network, readout)


def wave(kind, number, places):
    """One wave of mean square one."""
    values = np.cos(np.pi * number * places) if kind == "c" else np.sin(np.pi * number * places)
    return values * (1 if number == 0 else np.sqrt(2))


def integral(values, shape):
    """Trapezoidal rule over the box."""
    values = values.reshape(-1, *shape)
    for axis in range(len(shape), 0, -1):
        values = np.trapezoid(values, dx=1 / (shape[axis - 1] - 1), axis=axis)
    return values


def written_out(network, data, shape, dirichlet):
    """The equation of the model, one wave at a time."""
    axes = len(shape)
    coordinates = [data.query_points[:, axis] for axis in range(axes)]

    def product(kinds, numbers):
        return np.prod([wave(*each, places) for *each, places in zip(kinds, numbers, coordinates, strict=True)], axis=0)

    filters, biases, readout, prior, bias_prior = (
        np.asarray(values, np.float64)
        for values in (network.filters, network.biases, network.readout, network.prior, network.bias_prior)
    )
    values = np.zeros((len(data), WIDTH, len(coordinates[0])))
    for place, numbers in enumerate(itertools.product(range(4), repeat=axes)):
        cosine = product("c" * axes, numbers)
        coefficient = integral((data.inputs - network.centre) * cosine, shape) * prior.ravel()[place]
        values += coefficient[:, None, None] * filters[place][:, None] * cosine
    for place, numbers in enumerate(itertools.product(range(2), repeat=axes)):
        varying = biases if place == 0 else filters[prior.size + place - 1] * bias_prior[place - 1]
        values += varying[:, None] * product("c" * axes, numbers)
    neurons = np.tanh(values)
    total = np.zeros((len(data), len(coordinates[0])))
    neighbours = (("s", 1), ("c", 0), ("c", 2))
    for mode, numbers in enumerate(itertools.product(range(3), repeat=axes)):
        coefficient = np.full(len(data), readout[mode, -1])
        for parity, pairs in enumerate(itertools.product(neighbours, repeat=axes)):
            kinds, shifts = zip(*pairs, strict=True)
            analysis = product(kinds, np.add(numbers, shifts))
            for neuron in range(WIDTH):
                part = integral(neurons[:, neuron] * analysis, shape)
                coefficient += readout[mode, parity * WIDTH + neuron] * part
        kinds = ["s" if vanishes else "c" for vanishes in dirichlet]
        total += coefficient[:, None] * product(kinds, np.add(numbers, [int(kind == "s") for kind in kinds]))
    return total * network.scale.scale + network.scale.offset


CASES = [("line", (False,)), ("line", (True,)), ("plane", (True, True)), ("plane", (False, True))]


@pytest.mark.parametrize(("grid", "dirichlet"), CASES, ids=["free", "clamped", "clamped plane", "one side clamped"])
def test_the_network_is_the_equation_written_out(grid, dirichlet):
    data = box_data(SHAPES[grid], dirichlet)
    network = drawn(data)
    assert network.sine == dirichlet
    expected = written_out(network, data, SHAPES[grid], dirichlet)
    np.testing.assert_allclose(np.asarray(network(data.inputs)), expected, rtol=1e-4, atol=1e-4 * expected.std())


@pytest.mark.parametrize("grid", SHAPES)
def test_outputs_that_vanish_at_the_boundary_stay_zero_there(grid):
    shape = SHAPES[grid]
    data = box_data(shape, [True] * len(shape))
    answers = np.asarray(drawn(data)(data.inputs)).reshape(-1, *shape)
    for axis in range(1, answers.ndim):
        np.testing.assert_allclose(np.take(answers, [0, -1], axis=axis), 0, atol=1e-5 * answers.std())
    assert answers.std() > 0.1


def test_a_sine_series_is_recovered_from_its_coefficients_and_parseval_holds():
    data = box_data((9,), [True])
    network = drawn(data, output_modes=7)
    targets = network.scale.normalise(data.outputs)
    spectrum = network.output_spectrum(targets)
    np.testing.assert_allclose(spectrum[:, 0].T @ np.asarray(network.synthesis[0], float).T, targets, atol=1e-6)
    energy = np.einsum("k,kcn->n", np.asarray(network.multiplicity, float), spectrum**2)
    np.testing.assert_allclose(energy, np.mean(targets**2, axis=1), rtol=1e-6)


def test_biases_vary_over_the_box_only_where_they_may():
    data = box_data((9,), [False])
    varying, constant = (np.asarray(drawn(data, bias_modes=modes).bias_fields()) for modes in (3, 1))
    assert np.ptp(varying, axis=1).min() > 1e-2
    np.testing.assert_allclose(np.ptp(constant, axis=1), 0, atol=1e-6)


def test_pre_activations_start_at_the_norm_asked_for():
    data = box_data((33,), [False], functions=200)
    operator = FilteredBoxOperator(400, modes=16, bias_modes=1, input_norm=0.7)
    network = operator.initialise(data, jax.random.key(0))
    coefficients = np.asarray(network.coefficients(data.inputs) @ network.filters, float)
    series = np.asarray(network.coefficients(data.inputs), float)[:, :, None] * np.asarray(network.filters, float)
    values = np.einsum("xk,nkr->nxr", np.asarray(network.input_table[0], float), series)
    assert coefficients.shape == (200, 400)
    # Over the box; near its ends cosines add up.
    assert np.sqrt(np.mean(values**2)) == pytest.approx(0.7, rel=0.1)


@pytest.mark.parametrize("settings", [{"width": 0}, {"modes": 0}, {"input_norm": 0.0}, {"activation": "sinh"}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ForetrainError):
        FilteredBoxOperator(**{"width": 2, **settings})


def test_scattered_points_three_axes_and_inputs_without_the_modes_are_refused():
    scattered = np.random.default_rng(0).random((9, 1))
    data = box_data((9,), [False])
    with pytest.raises(DataError, match="one regular grid"):
        OPERATOR.initialise(OperatorDataset(data.inputs, data.outputs, scattered, scattered), jax.random.key(0))
    with pytest.raises(DataError, match="one or two axes"):
        OPERATOR.initialise(box_data((3, 3, 3), [False] * 3), jax.random.key(0))
    fast = np.array([-2, -1, 0.5, 1, 1.5])[:, None] * np.cos(6 * np.pi * data.sensor_points[:, 0])
    with pytest.raises(DataError, match="raise modes"):
        OPERATOR.initialise(
            OperatorDataset(fast, data.outputs, data.sensor_points, data.query_points), jax.random.key(0)
        )
