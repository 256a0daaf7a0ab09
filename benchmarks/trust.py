"""Trust at run time: does the band cover what it states, and does the score tell shifted inputs from usual ones?

Run: make bench-trust, or .venv/bin/python benchmarks/trust.py [--splits 20] [--json FILE]      (under two minutes)

- Coverage. One closed-form operator fitted to 300 functions of Burgers' equation (viscosity 0.05, 64 points); 1,000
  fresh ones are split at random, one half to calibrate the band, the other to count what it covers. Coverage of one
  split scatters about what is stated by the luck of its calibration functions; their mean over splits should not.
- Out of range. A score from 800 initial states of Burgers' equation, N(0, (-Laplace + 25)^-2) on 128 points; 500 usual
  ones beside 500 of another length (the shift 25 divided by its square), amplitude or spectrum (another power), at
  equal variance but for the amplitude. AUROC is the probability that a shifted input scores above a usual one; flagged
  is the share beyond the file's threshold, which 99 % of inputs like those of training stay below.
- Another viscosity changes the equation and not its inputs: no score of inputs can see it, and the line says so.

Every split draws training and other inputs anew. Bars: mean coverage within 2 points of what is stated; AUROC above
0.95 for lengths 1.5 times as long or as short.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from _cases import machine
from scipy.stats import rankdata

import foretrain as ft
from foretrain.deployment import ConformalBand, OutOfRange
from foretrain.problems._gaussian_fields import periodic_gaussian_field
from foretrain.tangent import FourierSettings

STATED = (0.8, 0.9, 0.95)
SHIFT, POWER, TRAINING, OTHERS = 25.0, 2.0, 800, 500
# The problem draws its initial states on the finer grid and reads them off at the points.
POINTS, FINE = 128, 512
# (shift, power, amplitude) of what is beside the training inputs.
SHIFTED = {
    "length x 1.5": (SHIFT / 1.5**2, POWER, 1.0),
    "length / 1.5": (SHIFT * 1.5**2, POWER, 1.0),
    "length x 2": (SHIFT / 4, POWER, 1.0),
    "length / 2": (SHIFT * 4, POWER, 1.0),
    "amplitude x 1.5": (SHIFT, POWER, 1.5),
    "amplitude / 1.5": (SHIFT, POWER, 1 / 1.5),
    "rougher spectrum (power 1.5)": (SHIFT, 1.5, 1.0),
    "smoother spectrum (power 2.5)": (SHIFT, 2.5, 1.0),
    "another viscosity": (SHIFT, POWER, 1.0),
}
MUST_SHOW = ("length x 1.5", "length / 1.5")


def coverage(splits: int) -> list[dict[str, Any]]:
    """Share of truths inside the band, by what is stated, point by point and for whole functions."""
    settings: dict[str, Any] = {"resolution": 64, "viscosity": 0.05, "time_steps": 100}
    learn = ft.problems.burgers(samples=300, key=0, **settings)
    fresh = ft.problems.burgers(samples=1000, key=1, **settings)
    operator = ft.InfiniteWidthOperator(settings=FourierSettings("matern72")).fit(learn)
    residuals = operator.predict(fresh.inputs) - fresh.outputs
    rows = []
    for stated in STATED:
        found: dict[str, list[float]] = {"each point": [], "whole functions": []}
        for split in range(splits):
            order = np.random.default_rng(split).permutation(len(fresh))
            calibrate, judge = residuals[order[:500]], np.abs(residuals[order[500:]])
            band = ConformalBand.fit(calibrate, stated)
            found["each point"].append(float(np.mean(judge <= band.half_width)))
            inside = np.all(judge <= band.simultaneous_half_width, axis=1)
            found["whole functions"].append(float(np.mean(inside)))
        rows += [
            {
                "stated": stated,
                "of": name,
                "mean": float(np.mean(values)),
                "least": min(values),
                "most": max(values),
                "within_2_points": float(np.mean(np.abs(np.array(values) - stated) <= 0.02)),
            }
            for name, values in found.items()
        ]
    return rows


def initial_states(count: int, shift: float, power: float, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Burgers' initial states, of variance amplitude^2 whatever the spectrum."""
    waves = 2 * np.pi * np.arange(1, FINE // 2)
    variance = np.sum((waves**2 + shift) ** -power)
    states = periodic_gaussian_field(count, FINE, 1.0, shift, power, rng)[:, :: FINE // POINTS]
    return amplitude * states / np.sqrt(variance)


def out_of_range(splits: int) -> list[dict[str, Any]]:
    """Area under the ROC curve and share flagged, for each shift."""
    areas: dict[str, list[float]] = {name: [] for name in SHIFTED}
    flagged: dict[str, list[float]] = {name: [] for name in SHIFTED}
    for split in range(splits):
        rng = np.random.default_rng(split)
        score = OutOfRange.fit(initial_states(TRAINING, SHIFT, POWER, 1.0, rng))
        usual = score.score(initial_states(OTHERS, SHIFT, POWER, 1.0, rng))
        for name, (shift, power, amplitude) in SHIFTED.items():
            other = score.score(initial_states(OTHERS, shift, power, amplitude, rng))
            areas[name].append(area_under_curve(usual, other))
            flagged[name].append(float(np.mean(other > score.threshold)))
    return [
        {
            "inputs": name,
            "auroc": float(np.mean(areas[name])),
            "least": min(areas[name]),
            "most": max(areas[name]),
            "flagged": float(np.mean(flagged[name])),
        }
        for name in SHIFTED
    ]


def area_under_curve(usual: np.ndarray, other: np.ndarray) -> float:
    """Probability that one of the others scores above a usual one."""
    ranks = rankdata(np.concatenate([usual, other]))[len(usual) :]
    return float((ranks.sum() - len(other) * (len(other) + 1) / 2) / (len(usual) * len(other)))


def show(covered: list[dict[str, Any]], shifted: list[dict[str, Any]]) -> None:
    """Both tables, and whether the bars are kept."""
    print(f"{'coverage':<28}{'mean':>8}{'least':>8}{'most':>8}   splits within 2 points")
    for row in covered:
        print(
            f"{100 * row['stated']:.0f} % of {row['of']:<20}{100 * row['mean']:>8.1f}{100 * row['least']:>8.1f}"
            f"{100 * row['most']:>8.1f}   {100 * row['within_2_points']:.0f} %"
        )
    print(f"\n{'inputs':<32}{'AUROC':>8}{'least':>8}{'most':>8}{'flagged':>10}")
    for row in shifted:
        print(
            f"{row['inputs']:<32}{row['auroc']:>8.3f}{row['least']:>8.3f}{row['most']:>8.3f}"
            f"{100 * row['flagged']:>8.1f} %"
        )
    print("another viscosity leaves the inputs' distribution as it was: 0.5 is what any score of inputs can reach\n")
    kept = all(abs(row["mean"] - row["stated"]) <= 0.02 for row in covered)
    told = all(row["auroc"] > 0.95 for row in shifted if row["inputs"] in MUST_SHOW)
    for name, holds in (("mean coverage within 2 points of what is stated", kept), ("AUROC above 0.95", told)):
        print(f"{name}: {'kept' if holds else 'MISSED'}")


def main() -> None:
    """Measures, shows, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    covered, shifted = coverage(options.splits), out_of_range(options.splits)
    show(covered, shifted)
    seconds = time.perf_counter() - started
    print(f"{options.splits} splits, {seconds:.0f} s")
    if options.json is not None:
        record = {"splits": options.splits, "coverage": covered, "out_of_range": shifted, "seconds": seconds}
        options.json.write_text(json.dumps({**record, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
