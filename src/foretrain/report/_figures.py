"""The few figures of the first screen that are worth reading from across the room."""

from dataclasses import dataclass

from foretrain.report._compare import checked_rows, largest_gap, measured_points
from foretrain.report._format import about, count, percent, seconds, size
from foretrain.report._run_folder import RunFolder
from foretrain.report._sentences import chosen_form, horizon, target
from foretrain.report._shipping import shipped


@dataclass(frozen=True)
class Figure:
    """A number worth reading from across the room."""

    value: str
    caption: str


def figures(run: RunFolder) -> list[Figure]:
    """At most four figures, in the order of the sentences; those that are not known are left out."""
    candidates = (_forecast_figure(run), _gap_figure(run), _error_figure(run), _size_figure(run))
    return [figure for figure in candidates if figure is not None]


def _forecast_figure(run: RunFolder) -> Figure | None:
    if run.forecast is None:
        return None
    aim = target(run)
    if aim is not None and aim[1] is not None:
        return Figure(about(aim[1]), f"steps of training forecast to reach {percent(aim[0], trim=True)} test error")
    step, error = horizon(run)
    return None if error is None else Figure(percent(error), f"test error forecast at step {count(step)}")


def _gap_figure(run: RunFolder) -> Figure | None:
    gap = largest_gap(checked_rows(run), "loss")
    if gap is None:
        return None
    return Figure(percent(gap.value), "largest gap between forecast and measured training loss")


def _error_figure(run: RunFolder) -> Figure | None:
    form = chosen_form(run.exact)
    if form is not None and form.get("test_error") is not None:
        return Figure(percent(form["test_error"]), "test error of the closed-form fit")
    steps, errors = measured_points(run, "test_error")
    return Figure(percent(errors[-1]), f"test error measured at step {count(steps[-1])}") if errors else None


def _size_figure(run: RunFolder) -> Figure | None:
    row = shipped(run.compression)
    if row is None or row.get("numbers") is None or not row["within_budget"]:
        return None
    writers = {"bytes": size, "latency_seconds": seconds, "test_error": lambda value: f"{percent(value)} error"}
    known = ", ".join(write(row[trait]) for trait, write in writers.items() if row.get(trait) is not None)
    return Figure(count(row["numbers"]), f"numbers to ship: {known}")
