"""The model that `foretrain forecast` is asked for: by name, or from a user's file, in JAX or in torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx

from foretrain._foundation import ForetrainError, Progress
from foretrain.cli._user_module import calling_convention, is_torch_module, load_user_module, names_a_file
from foretrain.data import OperatorDataset
from foretrain.forecast import Forecast, choose_descent_model, drawn_kernels, forecast, forecast_torch
from foretrain.models import FNO, MLP, DeepONet, ShallowOperator, draw_network
from foretrain.tangent import limit_kernel, torch_kernel

NAMED: dict[str, Callable[..., Any]] = {"deeponet": DeepONet, "fno": FNO, "mlp": MLP}
SHALLOW_WIDTH = 1024
MARKS = tuple(factor * 10**power for power in range(12) for factor in (1, 3))


def marks_up_to(steps: int) -> list[int]:
    """0, 1, 3, 10, ... and the last."""
    return sorted({0, *(mark for mark in MARKS if mark <= steps), steps})


@dataclass(frozen=True)
class ForecastModel:
    """A model, and how it is named to people.

    Attributes:
        value: of foretrain's, an Equinox module for all functions at once, or a torch module.
        name: as it was asked for.
        module: the user's own, before it was made to fit, or None.
        convention: what makes trees like the user's module into trees like `value`.
    """

    value: Any
    name: str
    module: Any = None
    convention: Callable[[Any], Any] = lambda tree: tree

    @property
    def in_torch(self) -> bool:
        """Whether it is a torch module."""
        return is_torch_module(self.value)

    def network(self, train: OperatorDataset, key: int) -> Any:
        """The user's own module, or the network that a model of ours draws."""
        return self.module if self.module is not None else draw_network(self.value, train, key)

    def eigenvalue_max(self, train: OperatorDataset, rates: Mapping[str, float] | None, key: int) -> float:
        """The largest eigenvalue of the kernel that the forecast rests on."""
        if self.in_torch:
            return torch_kernel(self.value, train, rates=rates).eigenvalue_max(1e-3)
        if isinstance(self.value, ShallowOperator):
            gram = limit_kernel(self.value, train, rates).gram(train.inputs, train.query_points)
            return gram.eigenvalue_max(1e-4)
        return drawn_kernels(draw_network(self.value, train, key), train, None, rates)[0].eigenvalue_max(1e-3)

    def forecast(
        self,
        train: OperatorDataset,
        method: Any,
        steps: int,
        test: OperatorDataset,
        key: int,
        tolerance: float,
        progress: Progress,
    ) -> Forecast:
        """The forecast of its training, with bounds of the last loss as near to each other as `tolerance`."""
        choices: dict[str, Any] = {"key": key, "tolerance": tolerance, "progress": progress}
        if self.in_torch:
            return forecast_torch(self.value, train, method, steps, test, **choices)
        return forecast(train, self.value, method, steps, test, **choices)


def chosen_model(
    name: str, width: int | None, train: OperatorDataset, steps: int, key: int, progress: Progress
) -> ForecastModel:
    """The model of that name.

    Raises:
        ForetrainError: no such model or file, or a module that does not fit the data.
    """
    if names_a_file(name):
        return _users_model(name, width, train, key)
    if name == "shallow":
        model, _ = choose_descent_model(train, steps, "auto", key, progress)
        return ForecastModel(replace(model, width=SHALLOW_WIDTH if width is None else width), name)
    if name not in NAMED:
        raise ForetrainError(
            f"--model: expected shallow, {', '.join(NAMED)} or FILE.py:NAME, came {name!r}; check the spelling"
        )
    return ForecastModel(NAMED[name]() if width is None else NAMED[name](width=width), name)


def _users_model(name: str, width: int | None, train: OperatorDataset, key: int) -> ForecastModel:
    if width is not None:
        raise ForetrainError(
            "--width: expected a model by name, came one from a file, which has its own; leave it away"
        )
    value = load_user_module(name, key)
    if is_torch_module(value) or not isinstance(value, eqx.Module) or hasattr(value, "initialise"):
        return ForecastModel(value, name)
    convention = calling_convention(value, train)
    return ForecastModel(convention(value), name, value, convention)
