"""Small data on a circle and on an interval, and a student whose network is known."""

import numpy as np
import pytest

from foretrain.compression._component_student import ComponentStudent
from foretrain.data import OperatorDataset
from foretrain.models import ComponentOperator
from foretrain.problems import antiderivative, burgers

NEURONS = 6


@pytest.fixture(scope="session")
def circle() -> OperatorDataset:
    return burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50)


@pytest.fixture(scope="session")
def interval() -> OperatorDataset:
    return antiderivative(samples=80, resolution=20)


@pytest.fixture(scope="session")
def component(interval: OperatorDataset) -> ComponentStudent:
    """A small student with a random outer layer."""
    drawn = ComponentStudent.draw(ComponentOperator(NEURONS, 4, 3), interval, key=0)
    outer = np.random.default_rng(1).standard_normal(drawn.network.outer.shape)
    return drawn.with_weights(drawn.inner(), outer)
