"""Errors a user can act on: one line, what was expected, what came, what to do."""

import importlib
from types import ModuleType


class ForetrainError(Exception):
    """A failure the user can act on; the command line prints it as one line and exits with code 2."""


class DataError(ForetrainError, ValueError):
    """The data handed in cannot be learnt from, and why."""


class MemoryBudgetError(ForetrainError, MemoryError):
    """The job would need more memory than there is."""


class MissingExtraError(ForetrainError, ImportError):
    """An optional dependency is not installed."""


def require_extra(module: str, extra: str) -> ModuleType:
    """Imports an optional dependency, or raises `MissingExtraError` naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: pip install 'foretrain[{extra}]'"
        ) from error
