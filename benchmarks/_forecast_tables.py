"""The tables of benchmarks/forecast.py."""

from typing import Any

import numpy as np

MARKS = (1, 3, 10, 30, 100, 300, 1000)
BASES = ("infinite width", "drawn weights")
Result = dict[str, Any]


def percent(value: float, digits: int = 3) -> str:
    return f"{100 * value:.{digits}g} %"


def summary_of_curves(results: list[Result]) -> list[str]:
    """One row for each family of models, method and basis: medians of forecast / measured, shares inside the band."""
    groups: dict[tuple[str, str, str], list[tuple[Result, Result]]] = {}
    for result in results:
        for run in result["runs"]:
            family = result["model"].split()[0]
            groups.setdefault((family, result["method"], run["basis"]), []).append((result, run))
    lines = [
        "Forecast / measured, median over the runs (first line of a row: loss, second: test error)",
        "",
        "| model | method | kernel | runs | " + " | ".join(f"step {mark}" for mark in MARKS) + " | median error, worst "
        "(loss) | inside the band: loss, test error | half-width at the end | forecast, of 10,000 steps |",
        "|" + "---|" * (len(MARKS) + 8),
    ]
    for (family, method, basis), pairs in groups.items():
        runs = [run for _, run in pairs]
        loss, error = (np.array([run[name] for run in runs]) for name in ("loss_ratio", "test_error_ratio"))
        # A run that blew up has no loss to compare with from then on; it counts as outside the band.
        medians = [f"{a:.3f}<br>{b:.3f}" for a, b in zip(np.nanmedian(loss, 0), np.nanmedian(error, 0), strict=True)]
        shares = [np.mean([run[f"{name}_inside"] for run in runs]) for name in ("loss", "test_error")]
        off = np.abs(loss - 1)
        width = np.median([run["loss_width"][-1] for run in runs])
        cost = np.median([result["share_of_long_run"] for result, _ in pairs])
        lines.append(
            f"| {family} | {method} | {basis} | {len(runs)} | {' | '.join(medians)} | {percent(np.nanmedian(off))}, "
            f"{percent(np.nanmax(off))} | {percent(shares[0])}, {percent(shares[1])} | {width:.3f} | {percent(cost)} |"
        )
    beyond = sum(not run.get("stable", True) for pairs in groups.values() for _, run in pairs)
    held = [run[f"{name}_inside"] for pairs in groups.values() for _, run in pairs for name in ("loss", "test_error")]
    seconds = {name: sum(result[f"{name}_seconds"] for result in results) for name in ("forecast", "training")}
    return [
        *lines,
        "",
        f"Inside the 90 % bands: {percent(np.mean(held))} of {np.size(held)} measured points (to be 85 to 97 %). "
        f"Forecasts that said their draw was beyond its limit of stability, counted as outside: {beyond}. "
        f"Seconds of all forecasts {seconds['forecast']:.0f}, of one training each {seconds['training']:.0f}.",
    ]


def summary_of_adam(results: list[Result]) -> list[str]:
    rows = [(result, checkpoint) for result in results for checkpoint in result["checkpoints"]]
    lines = [
        "Adam from a checkpoint to twice its step, forecast / measured; scatter: of the measured log(loss) between "
        "steps at the end",
        "",
        "| problem | model | from step | +10 % | +25 % | +50 % | +100 % | test error | loss now / then | scatter | "
        "horizon | curvature | in the band | seconds |",
        "|" + "---|" * 14,
    ]
    for result, row in rows:
        ratios = " | ".join(f"{ratio:.3f}" for ratio in row["loss_ratio"])
        lines.append(
            f"| {result['problem']} | {result['model']} | {row['step']} | {ratios} | {row['test_error_ratio']:.3f} | "
            f"{row['now_over_then']:.2f} | {row['scatter']:.3f} | {row['horizon']} | {row['curvature']:.2f} | "
            f"{sum(row['loss_inside'])} of {len(row['loss_inside'])} | {row['forecast_seconds']:.1f} |"
        )
    off = np.array([abs(row["loss_ratio"][-1] - 1) for _, row in rows])
    held = np.mean([row["loss_inside"] for _, row in rows])
    return [
        *lines,
        "",
        f"At twice the checkpoint's step: median error {percent(np.median(off))}, worst {percent(np.max(off))} "
        f"(median to be at most 20 %). Inside the band: {percent(held)}.",
    ]


def summary_of_promises(results: list[Result]) -> list[str]:
    """A sentence for each case."""
    said = []
    for result in results:
        title = f"- {result['section']}, {result['problem']}, {result['model']}, {result['method']}: "
        if result["section"] == "planner":
            text = (
                f"widths {result['width']} x {result['branch_width']} ({result['wanted_width']:.0f} wanted) for "
                f"{percent(result['tolerance'])}; "
                f"{result['kept_everywhere']} of 20 draws inside at every step, {result['kept_at_the_end']} at the "
                f"last (18 to be), {result['kept_in_band']} in their own bands; "
                f"largest error of a draw, median {percent(result['median_error'])}, worst "
                f"{percent(result['worst_error'])}"
            )
        elif result["section"] == "stopping":
            told = {basis: result[basis] for basis in BASES}
            text = f"least test error {result['least_error']:.4f} at step {result['measured_step']}"
            text += f" (at the last {result['last_error']:.4f})"
            for basis, each in told.items():
                text += f"; {basis}: step {each['step']} ({each['ratio']:.2f} of it), error higher by "
                text += percent(each["excess_error"])
        elif result["section"] == "stability":
            text = (
                f"{result['verdict']} (expected {result['expected']}), last step {result['last_step']}, loss at most "
            )
            text += f"{result['largest_loss']:.3g} and at the end {result['last_loss']:.3g} of the first"
        elif result["section"] == "overhead":
            text = "; ".join(
                f"{name} {percent(result[name]['share'])} beside its own steps, "
                f"{percent(result[name]['share_of_bare'])} beside bare stepping of {result[name]['bare_seconds']:.1f} s"
                for name in ("first", "again")
            )
        else:
            text = (
                f"forecast {result['forecast_seconds']:.1f} s, {1e3 * result['step_seconds']:.0f} ms a step "
                f"(foretold {1e3 * result['foretold_step_seconds']:.0f}): {percent(result['share_of_long_run'])} of "
                f"10,000 steps, {percent(result['processor_share_of_long_run'])} in processor time (2 % at most)"
            )
            if result["memory"]["step"]:
                step, told = (result["memory"][what]["bytes"] / 1e6 for what in ("step", "forecast"))
                basis = result["memory"]["forecast"]["basis_bytes"] / 1e6
                text += f"; {told:.0f} MB, a step {step:.0f} MB and the basis {basis:.0f} MB"
        said.append(title + text)
    return said


def markdown(results: list[Result], header: str) -> str:
    """All tables."""
    parts = [[header]]
    for section, table in (("curves", summary_of_curves), ("adam", summary_of_adam)):
        found = [result for result in results if result["section"] == section]
        parts += [table(found)] if found else []
    others = [result for result in results if result["section"] not in ("curves", "adam")]
    parts += [summary_of_promises(others)] if others else []
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def one_line(result: Result) -> str:
    """What is said when a case is done."""
    if result["section"] == "curves":
        parts = []
        for run in result["runs"]:
            held = np.mean([run["loss_inside"], run["test_error_inside"]])
            beyond = "" if run.get("stable", True) else "  beyond this draw's limit of stability"
            ratios = " ".join(f"{ratio:.3f}" for ratio in run["loss_ratio"])
            parts.append(
                f"\n    {run['basis']:15} {ratios}  test {run['test_error_ratio'][-1]:.3f}  in {100 * held:.0f} %"
                f"{beyond}"
            )
        costs = f"forecast {result['forecast_seconds']:.1f} s, training {result['training_seconds']:.1f} s"
        return costs + "".join(parts)
    if result["section"] == "adam":
        return "; ".join(f"from {row['step']}: {row['loss_ratio'][-1]:.3f}" for row in result["checkpoints"])
    return summary_of_promises([result])[0].split(": ", 1)[1]
