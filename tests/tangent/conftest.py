import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.problems import burgers


@pytest.fixture(scope="session")
def burgers_data():
    """60 Burgers functions on a grid of 16 points that is periodic."""
    data = burgers(samples=60, resolution=16, viscosity=0.05, simulation_resolution=128, time_steps=50)
    return OperatorDataset(data.inputs, data.outputs, data.sensor_points, data.query_points)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
