"""The page itself: read the run, build the views, fill the template, write the file."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from foretrain._foundation import ForetrainError, require_extra, write_atomically
from foretrain.report import _format as words
from foretrain.report._equation import equation_html
from foretrain.report._figures import figures
from foretrain.report._run_folder import Record, RunFolder, read_run_folder
from foretrain.report._sentences import lead
from foretrain.report._views import (
    certificate_view,
    charts_of,
    compression_view,
    exact_view,
    fields_view,
    forecast_view,
    replay_view,
)

_HERE = Path(__file__).parent

_SECTIONS = {
    "forecast": "Forecast and measurement",
    "certificate": "Certificate",
    "plan": "Plan",
    "exact": "Closed-form fit",
    "fields": "Test functions",
    "compression": "Size against error",
    "replay": "Environment and replay",
}

_VIEWS: dict[str, tuple[str, Callable[[RunFolder], Record]]] = {
    "forecast": ("forecast.json or metrics.jsonl", forecast_view),
    "certificate": ("certificate.json", certificate_view),
    "exact": ("exact.json", exact_view),
    "fields": ("fields.npz", fields_view),
    "compression": ("compression.json", compression_view),
    "replay": ("environment.json or data.json", replay_view),
}


def report(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page about a run and returns where it is.

    The page holds everything it shows, charts and their script included, and loads nothing from any network. Sections
    whose files the run folder lacks are left out, with a line that names the command that makes them. The same folder
    gives the same page, byte for byte.

    Args:
        run_folder: a folder written by a foretrain command; it holds at least environment.json.
        path: the file to write; `report.html` in the run folder by default.

    Raises:
        ForetrainError: `run_folder` is not a run folder, or one of its files is damaged.
        MissingExtraError: jinja2 or plotly is not installed.

    **Assumes** that the numbers in the folder are those of one run: the page checks their form, not their truth.
    """
    folder = Path(run_folder)
    try:
        page = _render(read_run_folder(folder))
        target = folder / "report.html" if path is None else path
        return write_atomically(target, lambda file: file.write(page.encode()))
    except OSError as error:
        raise ForetrainError(f"{error.filename}: {error.strerror}; check the path and its permissions") from error


def _render(run: RunFolder) -> str:
    jinja2 = require_extra("jinja2", "report")
    plotly = require_extra("plotly.offline", "report")
    markup = require_extra("markupsafe", "report").Markup
    views = {name: _guarded(source, partial(build, run)) for name, (source, build) in _VIEWS.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_filters(markup, jinja2.Undefined))
    summary = _guarded("one of its files", lambda: {"lead": lead(run), "figures": figures(run)})
    try:
        return environment.get_template("page.html.jinja").render(
            run=run,
            sections=_SECTIONS,
            title=(run.data or {}).get("name") or run.name,
            date=_date(run.environment.get("date")),
            charts=markup(_script_json([chart.payload for chart in charts_of(views)])),
            style=markup((_HERE / "page.css").read_text(encoding="utf-8")),
            script=markup((_HERE / "page.js").read_text(encoding="utf-8")),
            plotly=markup(plotly.get_plotlyjs()),
            **summary,
            **views,
        )
    except (jinja2.UndefinedError, TypeError, ValueError) as error:
        raise ForetrainError(f"the run folder {run.name!r} cannot be shown: {_one_line(error)}") from error


def _guarded(source: str, build: Callable[[], Record]) -> Record:
    """Turns what a malformed file provokes into one line that names the file."""
    try:
        return build()
    except KeyError as error:
        raise ForetrainError(f"{source} of the run lacks the entry {error.args[0]!r}; write it again") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ForetrainError(f"{source} of the run is not as foretrain writes it: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _filters(markup: Callable[[str], str], undefined: type) -> dict[str, Callable[..., str]]:
    """The writers of numbers, by the names they have in the templates; an entry a file lacks is written as unknown."""

    def lenient(write: Callable[..., str]) -> Callable[..., str]:
        return lambda value, *options: write(None if isinstance(value, undefined) else value, *options)

    writers: dict[str, Callable[..., str]] = {
        "about": lambda value: words.DASH if value is None else words.about(value),
        "count": words.count,
        "number": words.number,
        "percent": words.percent,
        "plain": words.plain,
        "seconds": words.seconds,
        "signed": words.signed_percent,
        "size": words.size,
    }
    filters = {name: lenient(write) for name, write in writers.items()}
    return {**filters, "equation": lambda text: markup(equation_html(text))}


def _date(text: str | None) -> str:
    """An ISO time as a reader writes a date; text that is no such time is shown as it is."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y}, {moment:%H:%M} {moment:%Z}".strip()


def _script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, whatever strings it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
