import json
import math

import numpy as np
import pytest

from foretrain.cli._display import Display, percent, seconds, size


def test_with_json_nothing_else_goes_to_standard_output(capsys):
    display = Display(json_only=True)
    display.heading("Heading")
    display("stage", 0, 2)
    display("stage", 2, 2, {"loss": 0.5})
    display.line("a line")
    display.table(("what", "value"), [("x", "1")], right=("value",))
    value = {
        "figures": np.array([1.0, np.nan]),
        "count": np.int64(3),
        "worst": math.inf,
        "pair": (1, None),
        "place": pytest,
        "yes": np.bool_(True),
    }
    display.result(value)
    output, errors = capsys.readouterr()
    assert json.loads(output) == {
        "figures": [1.0, None],
        "count": 3,
        "worst": None,
        "pair": [1, None],
        "place": str(pytest),
        "yes": True,
    }
    for text in ("Heading", "stage", "a line", "what"):
        assert text in errors


def test_for_people_there_is_no_json(capsys):
    Display().result({"count": 3})
    assert capsys.readouterr().out == ""


def test_long_paths_stay_on_one_line_and_brackets_stay(capsys):
    path = "runs/[v2]/" + "long" * 40
    display = Display()
    display.line(f"report: {path}")
    display.heading("[/x] [red]")
    output = capsys.readouterr().out
    assert f"report: {path}\n" in output
    assert "[/x] [red]\n" in output


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (percent, 0.0123, "1.23 %"),
        (percent, None, "-"),
        (seconds, 5e-6, "5 us"),
        (seconds, 0.25, "250 ms"),
        (seconds, 90.0, "90 s"),
        (seconds, 600.0, "10 min"),
        (seconds, 36_000.0, "10 h"),
        (seconds, None, "-"),
        (size, 999, "999 B"),
        (size, 2_500, "2.5 kB"),
        (size, 3.2e6, "3.2 MB"),
        (size, 7e9, "7 GB"),
        (size, None, "-"),
    ],
)
def test_quantities_are_written_in_their_natural_unit(write, value, text):
    assert write(value) == text
