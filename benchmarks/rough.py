"""Rough coefficients: layers of local gates and global filters beside the closed form, error against processor seconds.

Run: .venv/bin/python benchmarks/rough.py [FILE ...] [--seeds N] [--width M ...] [--closed-form] [--darcy]
     [--json FILE] [--markdown FILE]

FILE: an npz with train_inputs, train_outputs, test_inputs, test_outputs on a square of nodes, listed row by row;
without coordinates its nodes are taken to lie k/n along each side, the first on the boundary, as in neuraloperator's
darcy_train_16 and darcy_test_16. --darcy adds this project's own Darcy flow, two materials, 29 x 29 nodes, 1,000
training and 200 test functions. `LayerwiseOperator` has everything on "auto"; seeds are of its random windows and of
the functions it holds out. --closed-form adds the kernel of the infinitely wide shallow operator, settings chosen as
usual.

Seconds are of the processor for `fit`, compilation included. Test functions decide nothing.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from _cases import machine

import foretrain as ft
from foretrain.training import LayerwiseOperator

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--darcy", action="store_true", help="add Darcy flow on 29 x 29 nodes")
    parser.add_argument("--closed-form", action="store_true", help="add the closed form")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, nargs="+", default=[64], help="neurons of a layer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    if not chosen.files and not chosen.darcy:
        parser.error("expected a file or --darcy, came neither")
    problems = [(path.stem, *_read(path)) for path in chosen.files]
    if chosen.darcy:
        problems.append(("Darcy 29 x 29", *ft.problems.darcy(1200).split(test=200, key=0)))
    results = []
    for name, train, test in problems:
        for width in chosen.width:
            for seed in range(chosen.seeds):
                results.append(_layers(name, train, test, width, seed))
                print(_row(results[-1]), flush=True)
        if chosen.closed_form:
            results.append(_closed_form(name, train, test))
            print(_row(results[-1]), flush=True)
    table = "\n".join([_row({}), "|---" * 6 + "|", *map(_row, results)]) + f"\n\n{machine()}\n"
    if chosen.markdown:
        chosen.markdown.write_text(table, encoding="utf-8")
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1), encoding="utf-8")


def _read(path: Path) -> tuple[ft.OperatorDataset, ft.OperatorDataset]:
    with np.load(path) as file:
        values = {name: np.asarray(file[name], float) for name in file.files}
    size = math.isqrt(values["train_inputs"].shape[1])
    axis = np.arange(size) / size
    square = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    points = values.get("query_points", square)
    train, test = (
        ft.OperatorDataset(values[f"{part}_inputs"], values[f"{part}_outputs"], points, points, name=path.stem)
        for part in ("train", "test")
    )
    return train, test


def _layers(name: str, train: ft.OperatorDataset, test: ft.OperatorDataset, width: int, seed: int) -> Result:
    fitted = LayerwiseOperator(width, key=seed).fit(train)
    held_out = min(record.held_out_error for record in fitted.records_)
    model = f"{fitted.operator_.layers} layers of {width}, seed {seed}"
    errors = {"held_out_error": held_out, "test_error": fitted.score(test)}
    return {
        "problem": name,
        "model": model,
        **errors,
        "cpu_seconds": fitted.cpu_seconds_,
        "numbers": fitted.trained_numbers_,
    }


def _closed_form(name: str, train: ft.OperatorDataset, test: ft.OperatorDataset) -> Result:
    started = time.process_time()
    model = ft.InfiniteWidthOperator().fit(train)
    seconds = time.process_time() - started
    errors = {"held_out_error": None, "test_error": model.score(test)}
    return {"problem": name, "model": "closed form", **errors, "cpu_seconds": seconds, "numbers": None}


def _row(result: Result) -> str:
    if not result:
        return "| problem | model | held-out error | test error | processor seconds | fitted numbers |"
    held_out = "" if result["held_out_error"] is None else f"{100 * result['held_out_error']:.2f} %"
    numbers = "" if result["numbers"] is None else f"{result['numbers']:,}"
    cells = (result["problem"], result["model"], held_out, f"{100 * result['test_error']:.2f} %")
    return f"| {' | '.join(cells)} | {result['cpu_seconds']:.1f} | {numbers} |"


if __name__ == "__main__":
    main()
