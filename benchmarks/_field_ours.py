"""One of this project's methods on one file of functions, in a process of its own, as one JSON.

Methods:
- blended: `BlendedOperator` of closed form and trained Fourier operator, on circles; shares from held-out functions.
- closed-form: `InfiniteWidthOperator` with everything on "auto", the choice of its settings counted as training.
- compressed: `compress` of that operator within 20,000 numbers, judged by training functions it does not learn from;
  its seconds are those of the teacher and its own.
- layerwise: `LayerwiseOperator`, random local neurons under filters solved layer by layer; numbers: those fitted.
- trained-fourier: `TrainedFourierOperator` of 64 neurons, on periodic grids.

Run: make bench, or .venv/bin/python benchmarks/_field_ours.py METHOD DATA --json FILE
"""

import argparse
import datetime
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import foretrain as ft
from foretrain.data import load_split, mean_relative_error

NUMBERS, WIDTH = 20_000, 64
FEWEST_CALLS, SECONDS_OF_CALLS = 20, 3.0
Result = dict[str, Any]


def closed_form(train: ft.OperatorDataset) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    operator = ft.InfiniteWidthOperator().fit(train)
    return operator.predict, train.inputs.size + train.outputs.size, f"{operator.form_}: {operator.settings_}"


def compressed(train: ft.OperatorDataset) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    found = ft.compress(ft.InfiniteWidthOperator().fit(train), ft.Budget(numbers=NUMBERS))
    chosen = found.chosen
    if chosen is None:
        raise ft.ForetrainError(f"expected a student within {NUMBERS:,} numbers, came none")
    return found.predict, chosen.numbers, f"{chosen.name}, {chosen.format}"


def trained_fourier(train: ft.OperatorDataset) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    operator = ft.TrainedFourierOperator(width=WIDTH).fit(train)
    return operator.predict, operator.trained_numbers_, str(operator.operator_)


def layerwise(train: ft.OperatorDataset) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    operator = ft.LayerwiseOperator().fit(train)
    return operator.predict, operator.trained_numbers_, str(operator.operator_)


def blended(train: ft.OperatorDataset) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    operator = ft.BlendedOperator().fit(train)
    return operator.predict, train.inputs.size + train.outputs.size, operator.verdict_


METHODS = {
    "blended": blended,
    "closed-form": closed_form,
    "compressed": compressed,
    "trained-fourier": trained_fourier,
    "layerwise": layerwise,
}


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one call: median by the clock on the wall, mean by that of the processor."""
    for _ in range(3):
        call()
    seconds, started = [], time.process_time()
    while len(seconds) < FEWEST_CALLS or sum(seconds) < SECONDS_OF_CALLS:
        before = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - before)
    processor = (time.process_time() - started) / len(seconds)
    return {"median_seconds": float(np.median(seconds)), "processor_seconds": processor, "repeats": len(seconds)}


def measure(method: str, path: Path, held_out: int | None) -> Result:
    train, test = load_split(path, held_out, key=0)
    started, started_wall = time.process_time(), time.perf_counter()
    predict, numbers, settings = METHODS[method](train)
    seconds, wall = time.process_time() - started, time.perf_counter() - started_wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "ours": method,
        "problem": path.stem,
        "train_fingerprint": train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "functions": [len(train), len(test)],
        "settings": settings,
        "numbers": numbers,
        "best_error_percent": 100 * mean_relative_error(predict(test.inputs), test.outputs),
        "processor_seconds": seconds,
        "wall_seconds": wall,
        "converged": True,
        "verdict": "",
        "latency": timed(lambda: predict(test.inputs[:1])),
        "peak_megabytes": peak,
        "seed": 0,
        "header": f"{datetime.date.today()}, {platform.machine()}, one core, foretrain {ft.__version__}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=tuple(METHODS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--test", type=int)
    options = parser.parse_args()
    result = measure(options.method, options.data, options.test)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.json.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1))
    os.replace(unfinished, options.json)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
