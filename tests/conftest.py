"""Small data that many rooms test with."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.problems import burgers


@pytest.fixture(scope="session")
def small_burgers() -> OperatorDataset:
    """Sixty functions on a periodic grid of 32 points."""
    return burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50)


@pytest.fixture(scope="session")
def small_plane() -> OperatorDataset:
    """Thirty functions on a periodic grid of 6 x 8 points: noise, and its squares shifted along the second axis."""
    axes = np.meshgrid(np.arange(6) / 6, np.arange(8) / 8, indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, 2)
    inputs = np.random.default_rng(0).standard_normal((30, 6, 8))
    outputs = np.roll(inputs, 1, axis=2) ** 2
    return OperatorDataset(inputs, outputs, points, points, name="plane")


@pytest.fixture
def double() -> Iterator[None]:
    """The test computes in double precision."""
    with jax.enable_x64(True):
        yield
