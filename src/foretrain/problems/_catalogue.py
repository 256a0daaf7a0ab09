"""All problems by name, and the version of the code that makes their data."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset
from foretrain.problems._advection import advection
from foretrain.problems._antiderivative import antiderivative
from foretrain.problems._burgers import burgers
from foretrain.problems._darcy import darcy
from foretrain.problems._heat import heat
from foretrain.problems._helmholtz import helmholtz
from foretrain.problems._navier_stokes import navier_stokes
from foretrain.problems._pendulum import pendulum
from foretrain.problems._poisson import poisson
from foretrain.problems._wave import wave


@dataclass(frozen=True)
class Problem:
    """A problem: its name, the function that makes its data, the version of the code behind it.

    **The version is raised whenever the same parameters would give other values,** which makes cached files of earlier
    versions unknown.
    """

    name: str
    make: Callable[..., OperatorDataset]
    version: int = 1

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Every parameter and its value where none is given."""
        parameters = inspect.signature(self.make).parameters
        return {name: parameter.default for name, parameter in parameters.items() if name != "progress"}

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, those not given at their defaults.

        Raises:
            ForetrainError: if the problem has no parameter of that name, or a value is not a number, text or None.
        """
        unknown = sorted(set(given) - set(self.defaults))
        if unknown:
            raise ForetrainError(
                f"{self.name}: expected parameters among {', '.join(self.defaults)}, came {', '.join(unknown)}"
            )
        parameters = dict(self.defaults) | dict(given)
        try:
            json.dumps(parameters)
        except TypeError as error:
            raise ForetrainError(f"{self.name}: expected parameters that are numbers or text, came {given}") from error
        return parameters

    def data(self, parameters: Mapping[str, Any], progress: Progress = ignore_progress) -> OperatorDataset:
        """The dataset of these parameters.

        Raises:
            ForetrainError: whatever the problem refuses, and values of a wrong type.
        """
        listens = {"progress": progress} if "progress" in inspect.signature(self.make).parameters else {}
        try:
            return self.make(**self.parameters(parameters), **listens)
        except TypeError as error:
            raise ForetrainError(
                f"{self.name}: expected values like the defaults {dict(self.defaults)}, came {dict(parameters)}"
            ) from error


PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        make.__name__: Problem(make.__name__, make)
        for make in (
            advection,
            antiderivative,
            burgers,
            darcy,
            heat,
            helmholtz,
            navier_stokes,
            pendulum,
            poisson,
            wave,
        )
    }
)
"""By name; hyphens and underscores are alike to `problem`."""


def problem(name: str) -> Problem:
    """The problem of this name.

    Raises:
        ForetrainError: if there is none.
    """
    found = PROBLEMS.get(name.replace("-", "_"))
    if found is None:
        raise ForetrainError(f"expected a problem among {', '.join(PROBLEMS)}, came {name!r}")
    return found
