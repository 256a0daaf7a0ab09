"""What every room stands on: errors, progress, frozen files, double precision."""

from foretrain._foundation._errors import DataError, ForetrainError, MemoryBudgetError, MissingExtraError, require_extra
from foretrain._foundation._files import write_atomically, write_json
from foretrain._foundation._memory import available_bytes, require_memory
from foretrain._foundation._precision import double_precision
from foretrain._foundation._progress import Progress, ignore_progress

__all__ = [
    "DataError",
    "ForetrainError",
    "MemoryBudgetError",
    "MissingExtraError",
    "Progress",
    "available_bytes",
    "double_precision",
    "ignore_progress",
    "require_extra",
    "require_memory",
    "write_atomically",
    "write_json",
]
