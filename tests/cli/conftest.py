"""The command line, called in the process; and one file that a command accepts."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from foretrain.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    output: str
    errors: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `foretrain ...` in the folder."""

    def run(line: str, *more: object) -> Outcome:
        capsys.readouterr()
        code: int | str | None = 0
        try:
            main([*shlex.split(line), *map(str, more)])
        except SystemExit as stop:
            code = stop.code
        output, errors = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, output, errors)

    return run


@pytest.fixture
def refused(call: Callable[..., Outcome], folder: Path) -> Callable[..., str]:
    """Runs a command that must be refused: one line, code 2, and nothing made; returns the line.

    A command that has begun to work may have said so on standard output.
    """

    def run(line: str, *more: object, begun: bool = False) -> str:
        before = sorted(folder.rglob("*"))
        outcome = call(line, *more)
        assert outcome.code == 2, outcome
        assert outcome.errors.startswith("foretrain: "), outcome
        assert outcome.errors.count("\n") == 1, outcome
        assert begun or outcome.output == ""
        assert sorted(folder.rglob("*")) == before
        return outcome.errors

    return run


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Forty functions and their cumulative sums."""
    inputs = np.random.default_rng(0).standard_normal((40, 16))
    return {"inputs": inputs, "outputs": np.cumsum(inputs, axis=1)}


@pytest.fixture
def good(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A file nothing is wrong with."""
    np.savez(folder / "good.npz", **arrays)
    return Path("good.npz")


@pytest.fixture
def said() -> Callable[[str, str], None]:
    """Checks that a line says what a pattern describes."""

    def check(line: str, pattern: str) -> None:
        assert re.search(pattern, line), line

    return check
