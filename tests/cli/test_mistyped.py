"""Mistyped command lines: one line on standard error that says what was wrong, exit code 2."""

import pytest

from foretrain.cli._app import main


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["forecast", "x.npz", "--stepz", "10"], ["--stepz", "perhaps --steps", "foretrain forecast --help"]),
        (["forecast", "x.npz", "--steps", "ten"], ["--steps", "ten"]),
        (["forecast"], ["PATH", "foretrain forecast --help"]),
        (["foorcast", "x.npz"], ["foorcast", "forecast, train"]),
        (["reproduce", "wide"], ["'wide'", "two-timescale", "foretrain reproduce --help"]),
        (["train", "x.npz", "--steps"], ["--steps", "foretrain train --help"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_was_mistyped_is_one_line(typed, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(typed)
    told = capsys.readouterr()
    assert left.value.code == 2
    assert told.out == ""
    assert told.err.startswith("foretrain: ")
    assert told.err.count("\n") == 1
    assert all(part in told.err for part in said), told.err


def test_help_still_goes_to_standard_output(capsys):
    with pytest.raises(SystemExit) as left:
        main(["fit", "--help"])
    told = capsys.readouterr()
    assert left.value.code == 0
    assert "usage: foretrain fit" in told.out
    assert told.err == ""
