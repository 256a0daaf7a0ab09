"""The Fourier operator's mean kernel against the kernels of many drawn networks."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset
from foretrain.forecast import drawn_kernels
from foretrain.models import ShallowFourierOperator, draw_network
from foretrain.tangent import fourier_limit

KEYS, WIDTH, COLUMNS = 64, 256, 3
RATES = {"readout": 0.5, "linear": 30.0}
CASES = {
    "line": (ShallowFourierOperator(WIDTH, modes=3), (8,)),
    "line, even": (
        ShallowFourierOperator(WIDTH, modes=9, activation="relu", input_norm=1.7, whitening=0.2, reflection=1),
        (9,),
    ),
    "line, odd": (ShallowFourierOperator(WIDTH, modes=3, reflection=-1), (8,)),
    "plane": (ShallowFourierOperator(WIDTH, modes=2, activation="erf"), (4, 6)),
    "plane, odd": (ShallowFourierOperator(WIDTH, modes=2, reflection=-1), (5, 4)),
}


def random_functions(samples: int, shape: tuple[int, ...], key: int) -> OperatorDataset:
    """Coloured noise, of no symmetry, on a regular grid of the unit square."""
    rng = np.random.default_rng(key)
    points = np.stack(np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij"), -1).reshape(
        -1, len(shape)
    )
    inputs = rng.normal(size=(samples, len(points))) @ np.exp(-3 * np.abs(points[:, :1] - points[:, 0])) + 0.3
    return OperatorDataset(inputs, inputs**2 + rng.normal(size=inputs.shape), points, points)


@dataclass(frozen=True)
class Draws:
    """Columns of the kernel, [columns, functions points], as told and for every key."""

    told: np.ndarray
    drawn: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Distances of the mean in standard errors of the mean."""
        error = np.std(self.drawn, axis=0, ddof=1) / np.sqrt(len(self.drawn))
        # Kernels of drawn weights are single precision.
        error = np.maximum(error, 1e-6 * np.abs(self.told).max())
        return (self.drawn.mean(axis=0) - self.told) / error


def draws(
    model: ShallowFourierOperator, shape: tuple[int, ...], rates: dict[str, float] | None = None, keys: int = KEYS
) -> Draws:
    train, test = random_functions(3, shape, 0), random_functions(3, shape, 1)
    gram, cross = fourier_limit(model, train, test, rates)
    kernel, _ = drawn_kernels(draw_network(model, train, 0), train, test, rates)
    ends = np.eye(train.outputs.size).reshape(-1, *train.outputs.shape)[:: max(1, train.outputs.size // COLUMNS)]
    told = [np.concatenate([gram.apply(end).ravel(), cross(end).ravel()]) for end in ends]
    drawn = [columns(replace(kernel, weights=draw_network(model, train, key)), test, ends) for key in range(keys)]
    return Draws(np.array(told), np.array(drawn))


def columns(kernel: Any, test: OperatorDataset, ends: np.ndarray) -> np.ndarray:
    found = []
    for end in ends:
        tangent = kernel.step(kernel.pull(end))
        unseen = kernel.push(tangent, test.inputs, test.query_points)
        found.append(np.concatenate([kernel.push(tangent).ravel(), unseen.ravel()]))
    return np.array(found, np.float64)


@pytest.mark.parametrize(
    ("name", "rates"),
    [("line", None), ("line, even", RATES), ("line, odd", None), ("plane", RATES), ("plane, odd", None)],
)
def test_the_mean_kernel_of_drawn_networks_is_the_one_told_from_the_data(name, rates):
    found = draws(*CASES[name], rates)
    assert np.abs(found.scores).max() < 4
    # The scores have the size of noise, and the noise is small: an error of a few per cent would show.
    assert 0.3 < np.sqrt(np.mean(found.scores**2)) < 1.6
    noise = np.std(found.drawn, axis=0).max() / np.abs(found.told).max()
    assert noise / np.sqrt(KEYS) < 0.03


@pytest.mark.parametrize("name", ["line", "line, even", "line, odd", "plane, odd"])
def test_the_linear_part_is_the_same_for_every_draw(name):
    found = draws(*CASES[name], {"readout": 0.0, "linear": 3.0}, keys=1)
    np.testing.assert_allclose(found.drawn[0], found.told, rtol=0, atol=2e-6 * np.abs(found.told).max())
    assert np.abs(found.told).max() > 0.1


def test_filters_and_biases_do_not_move_at_first():
    (model, _), data = CASES["line"], random_functions(3, (8,), 0)
    residual = np.random.default_rng(2).normal(size=data.outputs.shape)
    plain, _ = fourier_limit(model, data)
    moved, _ = fourier_limit(model, data, rates={"filters": 100.0, "biases": 100.0})
    np.testing.assert_array_equal(moved.apply(residual), plain.apply(residual))
    network = draw_network(model, data, 0)
    drawn = [drawn_kernels(network, data, None, rates)[0].apply(residual) for rates in (None, {"filters": 100.0})]
    np.testing.assert_array_equal(*drawn)


def test_the_width_scales_the_readouts_part_alone():
    data = random_functions(3, (8,), 0)
    residual = np.random.default_rng(2).normal(size=data.outputs.shape)

    def applied(width, **rates):
        return fourier_limit(ShallowFourierOperator(width, modes=3), data, rates=rates)[0].apply(residual)

    linear, readout = applied(8, readout=0.0), applied(8, linear=0.0)
    np.testing.assert_allclose(applied(24), 3 * readout + linear, rtol=1e-12)


def test_the_kernel_is_symmetric_and_has_no_negative_eigenvalue():
    for name in ("line", "line, odd"):
        gram, _ = fourier_limit(CASES[name][0], random_functions(4, (8,), 0))
        dense = np.array([gram.apply(end).ravel() for end in np.eye(32).reshape(-1, 4, 8)])
        np.testing.assert_allclose(dense, dense.T, atol=1e-12 * dense.max())
        values = np.linalg.eigvalsh(dense)
        assert values[0] > -1e-12 * values[-1]
        assert gram.eigenvalue_max(1e-6) == pytest.approx(values[-1], rel=1e-5)


def test_groups_it_has_not_are_refused():
    with pytest.raises(ForetrainError, match=r"expected some of filters, biases, readout, linear.*came branch") as said:
        fourier_limit(ShallowFourierOperator(8), random_functions(3, (8,), 0), rates={"branch": 2.0, "linear": 1.0})
    assert "\n" not in str(said.value)


def test_points_off_one_regular_grid_are_refused():
    data = random_functions(3, (8,), 0)
    bent = data.query_points**2
    coarse = OperatorDataset(data.inputs, data.outputs[:, ::2], data.sensor_points, data.query_points[::2])
    for other in (OperatorDataset(data.inputs, data.outputs, bent, bent), coarse):
        with pytest.raises(DataError, match="expected inputs and outputs on one regular grid") as said:
            fourier_limit(ShallowFourierOperator(8), other)
        assert "\n" not in str(said.value)
