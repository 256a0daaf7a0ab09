"""How long an exported model takes on this machine: whole distributions, for several batch sizes and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.deployment._runtime import Latency, Runtime

BATCHES = (1, 32, 1024)
FEWEST_REPEATS, MOST_REPEATS = 100, 5000


@dataclass(frozen=True)
class Speed:
    """One file at one batch size.

    Attributes:
        name: of the file, as the caller calls it.
        number_format: from the model card; empty in another exporter's file.
        bytes: size of the file.
        batch: functions in one call.
        repeats: calls that were timed.
        latency: of one call.
    """

    name: str
    number_format: str
    bytes: int
    batch: int
    repeats: int
    latency: Latency

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        own = {key: value for key, value in vars(self).items() if key != "latency"}
        return {**own, **{f"{key}_seconds" if key != "throughput" else key: v for key, v in vars(self.latency).items()}}


def bench(
    models: Mapping[str, str | Path | bytes],
    batches: Sequence[int] = BATCHES,
    *,
    seconds: float = 1.0,
    threads: int = 1,
    progress: Progress = ignore_progress,
) -> list[Speed]:
    """Times each model at each batch size.

    **A shared or throttled processor shows in the upper percentiles:** they are of this machine as it was.

    Arguments:
        models: name -> file.
        batches: functions in one call.
        seconds: spent on each model and batch size, as far as at least 100 calls (a 99th percentile needs them) and at
            most 5,000 allow.
        threads: processor cores one call may use.

    Raises:
        ForetrainError: no time, a batch without functions, or a file that cannot be loaded.
        MissingExtraError: without onnxruntime.
    """
    if not seconds > 0 or not batches or min(batches) < 1:
        raise ForetrainError(
            f"bench: expected seconds > 0 and batches of at least 1 function, came {seconds:g} and {list(batches)}"
        )
    loaded = {name: Runtime(model, threads) for name, model in models.items()}
    speeds: list[Speed] = []
    total = len(loaded) * len(batches)
    for name, runtime in loaded.items():
        model = models[name]
        size = len(model) if isinstance(model, bytes) else Path(model).stat().st_size
        for batch in batches:
            progress("timing", len(speeds), total)
            one = runtime.latency(batch, repeats=5).median
            repeats = int(min(max(FEWEST_REPEATS, seconds / one), MOST_REPEATS))
            latency = runtime.latency(batch, repeats)
            number_format = str(runtime.metadata.get("number_format", ""))
            speeds.append(Speed(name, number_format, size, batch, repeats, latency))
    progress("timing", total, total)
    return speeds
