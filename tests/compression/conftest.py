"""Small data on a circle and on an interval, and students of both forms whose networks are known."""

from collections.abc import Callable

import numpy as np
import pytest

from foretrain.compression._students import ComponentStudent, FourierStudent, Student
from foretrain.data import OperatorDataset
from foretrain.models import ComponentOperator, ShallowFourierOperator
from foretrain.problems import antiderivative, burgers

NEURONS = 6


@pytest.fixture(scope="session")
def circle() -> OperatorDataset:
    return burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50)


@pytest.fixture(scope="session")
def interval() -> OperatorDataset:
    return antiderivative(samples=80, resolution=20)


@pytest.fixture(scope="session")
def student(circle: OperatorDataset, interval: OperatorDataset) -> Callable[[str], tuple[Student, OperatorDataset]]:
    """A small student with a random outer layer, and data of its kind."""

    def build(form: str) -> tuple[Student, OperatorDataset]:
        drawn: Student
        if form == "component":
            drawn, data = ComponentStudent.draw(ComponentOperator(NEURONS, 4, 3), interval, key=0), interval
            shape = drawn.network.outer.shape
        else:
            reflection = -1 if form == "odd fourier" else 0
            drawn = FourierStudent.draw(ShallowFourierOperator(NEURONS, 3, reflection=reflection), circle, key=0)
            data, shape = circle, (*drawn.network.outer.shape, 1)
        return drawn.with_weights(drawn.inner(), np.random.default_rng(1).standard_normal(shape)), data

    return build
