"""The page is read back with an HTML parser of its own and held against the files of the run."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.report import report
from foretrain.report._format import count, number, percent, seconds, signed_percent, size

OPTIONAL = (
    "config.toml", "data.json", "plan.json", "forecast.json", "metrics.jsonl", "certificate.json", "exact.json",
    "compression.json", "fields.npz",
)  # fmt: skip
Write = Callable[..., Path]
VOID = {"meta", "link", "br", "circle", "path", "rect"}
HOSTILE = '"\'><script>alert(1)</script></script><img src="https://example.invalid/x.png" onerror="alert(2)">&amp;'


class Page(HTMLParser):
    """Elements, their text, and whether every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open[-1]['tag']}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()["tag"] == tag, f"</{tag}> does not close the element it stands in"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """Elements by tag and by class."""
        of_tag = [element for element in self.elements if tag in (None, element["tag"])]
        return [element for element in of_tag if kind is None or kind in (element.get("class") or "").split()]

    @property
    def sentences(self) -> list[str]:
        return [plain(element["text"]) for element in self.all("dd", "sentence")]

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        (script,) = [element for element in self.all("script") if element.get("id") == "charts"]
        return {chart["id"]: chart for chart in json.loads(script["text"])}

    @property
    def text(self) -> str:
        return plain(self.all("body")[0]["text"])


def plain(text: str) -> str:
    return " ".join(text.replace("\u202f", " ").replace("\u2212", "-").replace("\u00d7", "x").split())


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Lets `change` edit one JSON file of a run folder in place."""
    record = read(folder, name)
    change(record)
    (folder / name).write_text(json.dumps(record))


def poison(value: Any) -> Any:
    """Every string of a JSON value with a hostile tail; keys are the format's own and stay."""
    if isinstance(value, dict):
        return {key: poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


# ---- the first screen


def test_numbers_in_the_sentences_are_those_of_the_files(write_run: Write) -> None:
    folder = write_run()
    page = Page(report(folder))
    checked, compression = read(folder, "forecast.json")["checked"], read(folder, "compression.json")
    loss = max(abs(row["forecast_loss"] / row["measured_loss"] - 1) for row in checked)
    test = max(abs(row["forecast_test_error"] / row["measured_test_error"] - 1) for row in checked)
    forecast, happened, shipped = page.sentences
    assert f"test error to {100 * checked[-1]['forecast_test_error']:.0f} % in 1 000 steps" in forecast
    assert "about 12 million steps to reach 2 %" in forecast
    assert "“closed form, Fourier”" in forecast
    assert f"within {100 * loss:.1f} % of the forecast and the test error within {100 * test:.2f} %" in happened
    assert f"test error of {100 * read(folder, 'exact.json')['forms'][1]['test_error']:.2f} % on 200 unseen" in happened
    (row,) = [row for row in compression["rows"] if row["chosen"]]
    assert f"{100 * row['test_error']:.2f} % test error, 18 944 numbers (76 kB) and 0.2 ms per answer" in shipped
    assert "the budget of 1.2 % error and 20 000 numbers" in shipped


@pytest.mark.parametrize("ratio", [0.9713, 1.0332])
def test_sentence_follows_a_changed_figure(write_run: Write, ratio: float) -> None:
    folder = write_run()
    edit(folder, "forecast.json", lambda forecast: forecast["checked"][2].update(loss_ratio=ratio))
    assert f"stayed within {100 * abs(ratio - 1):.1f} % of the forecast" in Page(report(folder)).sentences[1]


@pytest.mark.parametrize("absent", [(), *[(name,) for name in OPTIONAL], OPTIONAL])
def test_lead_is_three_sentences_and_page_is_sound_whatever_is_missing(
    write_run: Write, absent: tuple[str, ...]
) -> None:
    page = Page(report(write_run(without=absent)))
    assert len(page.sentences) == 3
    for sentence in page.sentences:
        assert sentence.endswith(".")
        assert len(re.findall(r"[.!?](?=\s|$)", sentence)) == 1, sentence
    assert len(page.all("p", "missing")) >= len(absent)
    drawn = {element["id"] for element in page.all("div", "plot")}
    assert drawn == set(page.charts)


def test_missing_certificate_names_the_command_that_makes_it(write_run: Write) -> None:
    page = Page(report(write_run(without=("certificate.json",))))
    assert any("certificate; foretrain train plan.toml makes it" in plain(p["text"]) for p in page.all("p", "missing"))


def test_a_forecast_that_was_off_is_called_off(write_run: Write) -> None:
    folder = write_run()
    edit(folder, "forecast.json", lambda forecast: forecast["checked"][4].update(loss_ratio=0.89))
    sentence = Page(report(folder)).sentences[1]
    assert "departed from the forecast by up to 11 % (step 1 000)" in sentence
    assert "stayed within 11" not in sentence


def test_a_test_error_that_was_off_is_called_off(write_run: Write) -> None:
    folder = write_run()
    edit(folder, "forecast.json", lambda forecast: forecast["checked"][1].update(test_ratio=1.2))
    assert "test error departed from it by up to 20 % (step 30)" in Page(report(folder)).sentences[1]


@pytest.mark.parametrize(
    ("verdict", "step", "words", "tone"),
    [
        ("left the linear regime", 300, "the run left the linear regime at step 300", "warn"),
        ("unstable", 20, "training became unstable at step 20", "bad"),
        ("unstable", None, "training became unstable", "bad"),
    ],
)
def test_a_verdict_that_is_not_held_is_said(
    write_run: Write, verdict: str, step: int | None, words: str, tone: str
) -> None:
    folder = write_run()
    edit(folder, "certificate.json", lambda record: record.update(verdict=verdict, first_violation=step))
    page = Page(report(folder))
    assert words in page.sentences[1]
    assert "certificate held" not in page.text
    assert verdict in {badge["text"] for badge in page.all("span", tone)}


def test_diverged_training_is_said(write_run: Write) -> None:
    folder = write_run()
    gone = {"measured_loss": None, "loss_ratio": None, "measured_test_error": None, "test_ratio": None}
    edit(folder, "forecast.json", lambda forecast: [row.update(gone) for row in forecast["checked"][3:]])
    assert "no longer finite at step 300" in Page(report(folder)).sentences[1]


def test_nothing_fits_the_budget_is_said_with_the_closest_candidate(write_run: Write) -> None:
    folder = write_run()

    def tighten(record: dict[str, Any]) -> None:
        record["budget"]["error"] = 0.00719
        for row in record["rows"]:
            row.update(chosen=False, within_budget=False)

    edit(folder, "compression.json", tighten)
    sentence = Page(report(folder)).sentences[2]
    assert sentence.startswith("Nothing can be shipped within the budget of 0.719 % error and 20 000 numbers")
    assert "“student” in float32, has 0.72 % test error" in sentence


def test_a_chosen_model_over_its_budget_is_said(write_run: Write) -> None:
    folder = write_run()
    edit(folder, "compression.json", lambda record: record["rows"][2].update(within_budget=False))
    page = Page(report(folder))
    assert "does not fit the budget" in page.sentences[2]
    assert "can be shipped" not in page.sentences[2]
    assert "numbers to ship" not in page.all("dl", "figures")[0]["text"]


def test_a_target_out_of_reach_is_said(write_run: Write) -> None:
    folder = write_run()
    edit(folder, "forecast.json", lambda forecast: forecast["steps_to"].update({"0.02": None}))
    assert "would not reach 2 % within 10 000 steps" in Page(report(folder)).sentences[0]


def test_without_a_test_set_the_loss_is_forecast(write_run: Write) -> None:
    folder = write_run()

    def forget(forecast: dict[str, Any]) -> None:
        forecast.update(test_error=None, test_error_lower=None, test_error_upper=None, steps_to={})
        for row in forecast["checked"]:
            row.update(forecast_test_error=None, measured_test_error=None, test_ratio=None)

    edit(folder, "forecast.json", forget)
    forecast = read(folder, "forecast.json")
    share = forecast["checked"][-1]["forecast_loss"] / forecast["initial_loss"]
    assert f"bring the loss to {100 * share:.1f} % of its first value" in Page(report(folder)).sentences[0]


# ---- the charts


def test_forecast_chart_draws_the_forecast(write_run: Write) -> None:
    folder = write_run()
    forecast = read(folder, "forecast.json")
    traces = Page(report(folder)).charts["chart-loss"]["data"]
    (line,) = [trace for trace in traces if trace["line"] == {"color": "@forecast", "width": 2}]
    np.testing.assert_allclose(line["y"], forecast["loss"][1:], rtol=1e-4)
    assert line["x"] == forecast["steps"][1:]
    low, high = [trace for trace in traces if trace["line"] == {"width": 0} and "yaxis" not in trace]
    np.testing.assert_allclose(low["y"], forecast["lower"][1:], rtol=1e-4)
    np.testing.assert_allclose(high["y"], forecast["upper"][1:], rtol=1e-4)


def test_gap_panel_is_forecast_over_measured(write_run: Write) -> None:
    folder = write_run()
    rows = read(folder, "forecast.json")["checked"]
    traces = Page(report(folder)).charts["chart-test-error"]["data"]
    (discs,) = [trace for trace in traces if trace.get("marker", {}).get("size") == 8 and trace.get("yaxis") == "y2"]
    expected = [row["forecast_test_error"] / row["measured_test_error"] - 1 for row in rows]
    np.testing.assert_allclose(discs["y"], expected, atol=1e-5)


def test_points_inside_the_band_are_counted(write_run: Write) -> None:
    folder = write_run()
    forecast = read(folder, "forecast.json")
    measured = {
        line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    }
    steps = np.log1p(forecast["steps"])
    edges = [np.interp(np.log1p(list(measured)), steps, forecast[name]) for name in ("lower", "upper")]
    inside = sum(low <= loss <= high for loss, low, high in zip(measured.values(), *edges, strict=True))
    assert f"Of {len(measured)} measured values of the training loss, {inside} lie inside" in Page(report(folder)).text


def test_a_forecast_that_falls_to_zero_still_has_axes(write_run: Write) -> None:
    folder = write_run()

    def fall(forecast: dict[str, Any]) -> None:
        forecast["lower"] = [0.0 for _ in forecast["lower"]]
        forecast["upper"][5] = None

    edit(folder, "forecast.json", fall)
    for axis in ("xaxis", "yaxis"):
        assert np.all(np.isfinite(Page(report(folder)).charts["chart-loss"]["layout"][axis]["range"]))


def test_maps_put_every_value_at_its_place(write_run: Write) -> None:
    folder = write_run(dimension=2)
    fields = dict(np.load(folder / "fields.npz"))
    straight = Page(report(folder)).charts
    order = np.random.default_rng(1).permutation(fields["truth"].shape[1])
    for name in ("truth", "prediction", "query_points"):
        fields[name] = fields[name][order] if name == "query_points" else fields[name][:, order]
    np.savez(folder / "fields.npz", **fields)
    shuffled = Page(report(folder)).charts
    (trace,) = straight["chart-function-2-truth"]["data"]
    assert shuffled["chart-function-2-truth"]["data"] == [trace]
    where = np.flatnonzero(np.isclose(fields["query_points"], [trace["x"][4], trace["y"][20]], atol=1e-4).all(axis=1))
    np.testing.assert_allclose(trace["z"][20][4], fields["truth"][2, where], rtol=1e-4)


def test_errors_share_one_scale_and_truth_shares_with_prediction(write_run: Write) -> None:
    charts = Page(report(write_run(dimension=2))).charts
    errors = [charts[f"chart-function-{index}-error"]["data"][0] for index in range(4)]
    assert len({(trace["zmin"], trace["zmax"]) for trace in errors}) == 1
    for index in range(4):
        truth, prediction = (charts[f"chart-function-{index}-{name}"]["data"][0] for name in ("truth", "prediction"))
        assert (truth["zmin"], truth["zmax"]) == (prediction["zmin"], prediction["zmax"])
    curves = Page(report(write_run("curves"))).charts
    assert len({str(curves[f"chart-function-{index}"]["layout"]["yaxis"]["range"]) for index in range(4)}) == 1


def test_scattered_points_are_drawn_as_dots(write_run: Write) -> None:
    folder = write_run(dimension=2)
    fields = dict(np.load(folder / "fields.npz"))
    fields["query_points"] = np.random.default_rng(0).uniform(size=fields["query_points"].shape)
    np.savez(folder / "fields.npz", **fields)
    (trace,) = Page(report(folder)).charts["chart-function-0-truth"]["data"]
    assert trace["mode"] == "markers"
    np.testing.assert_allclose(trace["marker"]["color"], fields["truth"][0], rtol=1e-4)


@pytest.mark.parametrize("dimension", [1, 2])
def test_a_prediction_that_is_not_finite_is_shown_as_such(write_run: Write, dimension: int) -> None:
    folder = write_run(dimension=dimension)
    fields = dict(np.load(folder / "fields.npz"))
    del fields["errors"]
    fields["prediction"][1] = np.nan
    np.savez(folder / "fields.npz", **fields)
    page = Page(report(folder))
    assert plain(page.all("h3")[1]["text"]) == "median error not finite"
    assert page.charts


# ---- safety and form


def test_hostile_strings_stay_text(write_run: Write) -> None:
    clean = Page(report(write_run("clean")))
    folder = write_run("hostile")
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(poison(json.loads(path.read_text()))))
    (folder / "config.toml").write_text(HOSTILE)
    fields = dict(np.load(folder / "fields.npz"))
    np.savez(folder / "fields.npz", **{**fields, "labels": np.array([HOSTILE] * 4)})
    page = Page(report(folder))
    assert len(page.all("script")) == len(clean.all("script"))
    assert not page.all("img")
    assert not [key for element in page.elements for key in element if key.startswith("on")]
    assert "</script>" not in next(script["text"] for script in page.all("script") if script.get("id") == "charts")
    assert HOSTILE in page.all("h1")[0]["text"]
    assert HOSTILE in page.all("pre")[-1]["text"]
    assert HOSTILE in page.all("h3")[0]["text"]
    shown = [text for trace in page.charts["chart-front"]["data"] for text in trace.get("text", [])]
    assert shown
    assert all("<" not in text for text in shown)


def test_page_loads_nothing(write_run: Write) -> None:
    page = Page(report(write_run()))
    loading = ("src", "href", "srcset", "poster", "action", "data", "xlink:href", "formaction")
    addresses = [element[name] for element in page.elements for name in loading if name in element]
    assert all(address == "data:," or address.startswith("#") for address in addresses), addresses
    styles = " ".join([style["text"] for style in page.all("style")] + [e.get("style") or "" for e in page.elements])
    assert "url(" not in styles
    assert "@import" not in styles
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert len(re.findall(r"\* plotly\.js v", page.source)) == 1


def test_page_is_accessible_in_form(write_run: Write) -> None:
    page = Page(report(write_run()))
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(element["tag"][1]) for element in page.elements if re.fullmatch(r"h[1-6]", element["tag"])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(element.get("scope") for element in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(len(plot["aria-label"]) > 40 and plot["role"] == "img" for plot in page.all("div", "plot"))
    names = [element["id"] for element in page.elements if "id" in element]
    assert len(names) == len(set(names))
    assert {link["href"][1:] for link in page.all("a")} <= set(names)


def test_same_folder_gives_the_same_page(write_run: Write, tmp_path: Path) -> None:
    first = report(write_run()).read_bytes()
    assert report(write_run("again/burgers-run"), tmp_path / "elsewhere" / "page.html").read_bytes() == first


def test_browser_draws_the_charts_without_a_complaint(write_run: Write, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to draw with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, *flags, profile, "--dump-dom", report(write_run(dimension=2)).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert 'data-charts="drawn"' in done.stdout
    assert done.stdout.count('class="main-svg"') >= 20
    assert "CONSOLE" not in done.stderr


# ---- damaged folders


def damage(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def save(**arrays: Any) -> Callable[[Path], object]:
    return lambda folder: np.savez(folder / "fields.npz", **{**dict(np.load(folder / "fields.npz")), **arrays})


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "environment.json").unlink(), "is not a run folder"),
        (lambda folder: shutil.rmtree(folder), "is not a run folder"),
        (damage("plan.json", "{"), "plan.json is not valid JSON"),
        (damage("plan.json", "[]"), "plan.json should hold a JSON object"),
        (damage("exact.json", '{"chosen": "fourier", "forms": 3}'), "exact.json"),
        (damage("forecast.json", '{"steps": [0, 1]}'), "'loss'"),
        (damage("certificate.json", "{}"), "'verdict'"),
        (damage("compression.json", '{"rows": [{"name": "student"}]}'), "within_budget"),
        (lambda folder: (folder / "config.toml").write_bytes(b"\xff\xfe\x00"), "config.toml is not UTF-8"),
        (damage("fields.npz", "not an archive"), "fields.npz cannot be read"),
        (save(labels=np.array([{}] * 4, dtype=object)), "fields.npz cannot be read"),
        (save(prediction=np.zeros((4, 7))), "'prediction' should have shape (4, 128), not (4, 7)"),
    ],
)
def test_damage_gives_one_line_and_leaves_no_page(
    write_run: Write, break_it: Callable[[Path], object], words: str
) -> None:
    folder = write_run()
    break_it(folder)
    with pytest.raises(ForetrainError) as caught:
        report(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.exists() or not list(folder.glob("*report*"))


def test_a_half_written_last_line_of_metrics_is_not_read(write_run: Write) -> None:
    folder = write_run()
    whole = Page(report(folder)).text
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1020, "lo')
    assert Page(report(folder)).text == whole


# ---- numbers as text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.0136), "1.4 %"),
        (percent(0.264), "26 %"),
        (percent(0.02, trim=True), "2 %"),
        (percent(3e-7), "3.0 x 10⁻⁵ %"),
        (percent(None), "–"),  # noqa: RUF001
        (signed_percent(-0.0086), "-0.86 %"),
        (signed_percent(0.0), "+0 %"),
        (count(18_944), "18 944"),
        (count(12_340_000), "12 million"),
        (seconds(2e-4), "0.2 ms"),
        (seconds(2e-5), "20 µs"),
        (seconds(52.0), "52 s"),
        (seconds(4800.0), "80 min"),
        (seconds(610_000.0), "7.1 days"),
        (size(75_776), "76 kB"),
        (size(999_999), "1 MB"),
        (size(12), "12 bytes"),
        (number(2.1e-9, 2), "2.1 x 10⁻⁹"),
        (number(-1234.5, 5), "-1 234.5"),
        (number(float("nan")), "not finite"),
    ],
)
def test_numbers_are_written_for_readers(text: str, expected: str) -> None:
    assert plain(text) == expected
