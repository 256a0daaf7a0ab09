"""A small problem, networks wide and narrow, and forecasts with a band of known width that cost no pilots."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.forecast import Cost, Forecast, GradientDescent, WidthDeviation, forecast
from foretrain.models import ShallowOperator
from foretrain.problems import antiderivative

PILOTS, STUDENT_95 = 8, 1.895
STEPS = 40


@pytest.fixture(scope="session")
def data() -> OperatorDataset:
    return antiderivative(samples=12, resolution=10, modes=4)


@pytest.fixture(scope="session")
def unseen() -> OperatorDataset:
    return antiderivative(samples=5, resolution=10, modes=4, key=1)


@pytest.fixture(scope="session")
def narrow() -> ShallowOperator:
    return ShallowOperator(8, 4)


@pytest.fixture(scope="session")
def wide() -> ShallowOperator:
    return ShallowOperator(1024, 4)


@pytest.fixture(scope="session")
def planned(data: OperatorDataset) -> Callable[..., dict[str, Any]]:
    """What to call `train` with: a forecast from the drawn weights, its band a factor exp(0.2) either way."""
    made: dict[tuple[ShallowOperator, float, int], Forecast] = {}

    def told(model: ShallowOperator, relative_step_size: float, key: int) -> Forecast:
        case = (model, relative_step_size, key)
        if case not in made:
            deviation = {name: np.full(2, 0.2 / STUDENT_95) for name in ("infinite width", "drawn weights")}
            band = WidthDeviation(np.array([0.0, STEPS]), deviation, deviation, model.width, PILOTS)
            stable = None if relative_step_size == 1 else told(model, 1.0, key).step_size
            method = None if stable is None else GradientDescent(relative_step_size * stable)
            cost = Cost(1e-4, 10**6)
            made[case] = forecast(data, model, method, STEPS, key=key, basis="drawn weights", deviation=band, cost=cost)
        return made[case]

    def build(model: ShallowOperator, relative_step_size: float = 1.0, key: int = 0) -> dict[str, Any]:
        return {"plan_or_model": model, "told": told(model, relative_step_size, key), "steps": STEPS, "key": key}

    return build
