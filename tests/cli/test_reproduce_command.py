"""foretrain reproduce, on the command line."""

import dataclasses
import json
import re
import shlex

import pytest
import tyro

from foretrain.cli._reproduce import Reproduce
from foretrain.studies import _reproduce
from foretrain.studies._two_timescale_settings import SAMPLED_SETTINGS


@pytest.fixture
def brief(monkeypatch):
    """Of the experiments on fixed samples only one, and that small."""
    small = dataclasses.replace(SAMPLED_SETTINGS["relu"], samples=100, steps=300, test_samples=50)
    monkeypatch.setattr(_reproduce, "SAMPLED_NAMES", {"relu": "ReLU teacher"})
    monkeypatch.setattr(_reproduce, "DISTURBED_NAMES", {"relu": "ReLU teacher"})
    monkeypatch.setattr(_reproduce, "SAMPLED_SETTINGS", {"relu": small})


@pytest.mark.slow
def test_a_reproduction_leaves_its_figures_and_its_page(call, folder, brief):
    outcome = call("reproduce two-timescale --seeds 1 --key 3 --json")
    assert outcome.code == 0, outcome
    told = json.loads(outcome.output)
    made = folder / "runs" / "two-timescale"
    assert sorted(path.name for path in made.iterdir()) == ["report.html", "result.json"]
    kept = json.loads((made / "result.json").read_text())
    assert kept["claims"] == told["claims"]
    assert kept["settings"] == {"key": 3, "full": False, "uniform": False, "seeds": 1}
    assert kept["environment"]["command"].startswith("foretrain")
    assert len(kept["one_start"]["dynamics"]["gradient flow"]["loss"]) > 50
    page = (made / "report.html").read_text()
    assert kept["claims"][0]["measured"] in page


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--seeds 0", "seeds: expected a whole number, at least 1, came 0"),
        ("--key -1", "key: expected a whole number from 0"),
        ("--out taken", "taken: expected a folder to write to, came the file"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(refused, folder, said, options, line):
    (folder / "taken").write_text("")
    said(refused(f"reproduce two-timescale {options}"), line)


@pytest.mark.parametrize("line", ["reproduce", "reproduce narrow", "reproduce two-timescale --full 3"])
def test_what_cannot_be_understood_is_explained_with_code_two(call, line):
    outcome = call(line)
    assert outcome.code == 2
    assert "Traceback" not in outcome.output + outcome.errors


def test_the_help_shows_an_example_that_can_be_typed(call):
    outcome = call("reproduce --help")
    assert outcome.code == 0
    assert "Example: foretrain reproduce two-timescale" in " ".join(outcome.output.replace("│", " ").split())
    (example,) = re.findall(r"Example: foretrain reproduce (.*)", Reproduce.__doc__)
    typed = tyro.cli(Reproduce, args=shlex.split(example), config=(tyro.conf.OmitArgPrefixes,))
    assert typed.study == "two-timescale"
