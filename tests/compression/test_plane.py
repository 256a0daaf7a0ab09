"""Compression on a periodic grid of two axes."""

import numpy as np
import pytest

from foretrain.compression import Budget, compress
from foretrain.data import OperatorDataset, mean_relative_error, periodic_grid_shape
from foretrain.deployment import OnnxPackager, Runtime, write_numpy_predictor

pytestmark = pytest.mark.slow

SIZE = 12
WAVES = np.fft.fftfreq(SIZE, 1 / SIZE)
SMOOTHING = (1 + WAVES[:, None] ** 2 + WAVES**2) ** -1.5
# Taught by few functions, outer filters cancel one another: rounding counts some hundred times.
SINGLE_PRECISION = 2e-5


def smoothed(fields):
    return np.real(np.fft.ifft2(np.fft.fft2(fields) * SMOOTHING))


def operator(inputs):
    """A map that commutes with shifts along both axes: S(u(x - e_1) u + tanh u(x - 2 e_2))."""
    fields = inputs.reshape(-1, SIZE, SIZE)
    return smoothed(np.roll(fields, 1, 1) * fields + np.tanh(np.roll(fields, 2, 2))).reshape(len(inputs), -1)


@pytest.fixture(scope="module")
def parts():
    fields = smoothed(np.random.default_rng(0).standard_normal((160, SIZE, SIZE)))
    inputs = (fields / fields.std()).reshape(160, -1)
    axes = np.meshgrid(np.arange(SIZE) / SIZE, np.arange(SIZE) / SIZE, indexing="ij")
    points = np.stack(axes, -1).reshape(-1, 2)
    return OperatorDataset(inputs, operator(inputs), points, points).split(40, key=0)


@pytest.fixture(scope="module")
def small(parts):
    package = OnnxPackager(latency_repeats=3, query_points=parts[0].query_points)
    budget = Budget(error=0.3, numbers=4000)
    return compress(operator, budget, parts[0], test=parts[1], package=package, fresh=0, rows=6000, evaluations=15)


def test_students_of_a_plane_keep_their_budget_and_beat_a_linear_map(small, parts):
    train, test = parts
    assert periodic_grid_shape(train) == (SIZE, SIZE)
    chosen = small.chosen
    assert chosen.numbers <= 4000
    affine = np.linalg.lstsq(np.c_[train.inputs, np.ones(120)], train.outputs, rcond=1e-3)[0]
    linear = mean_relative_error(np.c_[test.inputs, np.ones(40)] @ affine, test.outputs)
    assert chosen.test_error < 0.5 * linear
    assert small.candidates[1].agreement < SINGLE_PRECISION
    assert {row.format for row in small.candidates[1:]} == {"float32", "float16", "int8 weights", "int8"}
    for row in small.candidates[1:]:
        over = row.test_error > 0.3 or row.numbers > 4000
        assert bool(row.excess) == over
        assert any(f"in {row.format} is refused" in line for line in small.refused) or not over


def test_shifted_inputs_give_shifted_answers_along_both_axes(small, parts):
    runtime, inputs = small.candidates[1].package.runtime, parts[1].inputs

    def shifted(values):
        return np.roll(values.reshape(-1, SIZE, SIZE), (3, 5), (1, 2)).reshape(len(values), -1)

    np.testing.assert_allclose(runtime.predict(shifted(inputs)), shifted(runtime.predict(inputs)), atol=2e-4)


def test_answers_between_the_points_are_those_of_moved_inputs(small, parts):
    """By shifts: the answer half a cell further is that of the input moved back by half a cell."""
    runtime, inputs = small.candidates[1].package.runtime, parts[1].inputs[:5]
    # Below the Nyquist frequency, where a function moved by part of a cell is known.
    spectrum = np.fft.fft2(inputs.reshape(-1, SIZE, SIZE)) * (np.abs(WAVES) < 6) * (np.abs(WAVES) < 6)[:, None]
    turned = np.exp(2j * np.pi * (WAVES[:, None] / 24 + WAVES / 24))
    still, moved = (np.real(np.fft.ifft2(each)).reshape(5, -1) for each in (spectrum, spectrum * turned))
    between = runtime.predict(still, parts[0].query_points + 1 / 24)
    error = np.linalg.norm(between - runtime.predict(moved)) / np.linalg.norm(between)
    # Neurons on a coarse grid alias.
    assert error < 0.05


def test_the_numpy_predictor_answers_as_the_file(small, parts, tmp_path):
    network = small.candidates[1].network
    fixed = OnnxPackager(latency_repeats=3)(network, "float32", parts[0].inputs).file
    file = write_numpy_predictor(fixed, tmp_path / "predictor.py")
    space = {"__name__": "predictor", "__file__": str(file)}
    exec(compile(file.read_text(), str(file), "exec"), space)
    answers = Runtime(fixed).predict(parts[1].inputs)
    assert np.linalg.norm(space["predict"](parts[1].inputs) - answers) < SINGLE_PRECISION * np.linalg.norm(answers)
