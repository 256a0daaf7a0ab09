"""foretrain problem."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from foretrain._foundation import ForetrainError, write_atomically
from foretrain.cli._display import Display, seconds, size
from foretrain.data import OperatorDataset
from foretrain.problems import PROBLEMS, PUBLISHED, cached, problem, published
from foretrain.report import data_picture


@dataclass(frozen=True)
class ProblemCommand:
    """Makes the data of a problem, an equation solved for random inputs; without a name, lists the problems.

    Example: foretrain problem burgers --samples 200 --resolution 64 --set viscosity=0.01 --out burgers.npz
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A problem; with --published, a published set-up."""
    out: Path | None = None
    """The file to write."""
    samples: tuple[int, ...] | None = None
    """How many functions; for a published set-up two numbers, to train and to test."""
    resolution: int | None = None
    """Points along each side of the returned grid."""
    key: int = 0
    """Seed."""
    set: tuple[str, ...] = ()
    """Further parameters, each as name=value."""
    published: bool = False
    """The name is that of a published set-up; the file has its own test functions."""
    cache: Path | None = None
    """Keep the data in this folder too, and read them from there the next time."""
    plot: Path | None = None
    """Draw the first functions into this file (.svg or .html)."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        if self.name is None:
            _list(display)
            return
        if self.out is None:
            raise ForetrainError("expected a file to write, --out FILE.npz, came none")
        if self.plot is not None and self.plot.suffix.lower() not in (".svg", ".html"):
            raise ForetrainError(f"expected a picture, --plot FILE.svg or FILE.html, came {self.plot}")
        begun = time.perf_counter()
        if self.published:
            data, held_out = self._published(self.name, self.out, display)
            counts = {"functions to train": len(data), "functions to test": len(held_out)}
        else:
            data = self._made(self.name, display)
            data.save(self.out)
            counts = {"functions": len(data)}
        if self.plot is not None:
            data_picture(data, self.plot)
        hidden = ("cache_request", "fingerprint")
        facts = {
            "name": data.name,
            **counts,
            "sensors": data.inputs.shape[1],
            "query points": data.outputs.shape[1],
            **{name: value for name, value in data.description.items() if name not in hidden},
            "fingerprint": data.fingerprint,
            "seconds": time.perf_counter() - begun,
            "file": str(self.out),
            "bytes": self.out.stat().st_size if self.out.is_file() else None,
            "picture": None if self.plot is None else str(self.plot),
        }
        shown = [(name, _text(name, value)) for name, value in facts.items() if value is not None]
        display.table(("what", "value"), shown)
        display.result(facts)

    def _made(self, name: str, display: Display) -> OperatorDataset:
        if self.samples is not None and len(self.samples) != 1:
            raise ForetrainError(f"{name}: expected one number of samples, came {_plain(self.samples)}")
        given: dict[str, Any] = {"key": self.key} | dict(map(_assignment, self.set))
        if self.samples is not None:
            given["samples"] = self.samples[0]
        if self.resolution is not None:
            given["resolution"] = self.resolution
        return cached(problem(name).name, self.cache, progress=display, **given)

    def _published(self, name: str, out: Path, display: Display) -> tuple[OperatorDataset, OperatorDataset]:
        """Training and test functions, in one file that `load_split` divides as it is."""
        if self.set or self.resolution is not None:
            raise ForetrainError(f"{name}: expected no parameters beside --published, for they are, came some")
        if self.samples is not None and len(self.samples) != 2:
            raise ForetrainError(f"{name}: expected two numbers, to train and to test, came {_plain(self.samples)}")
        if out.suffix != ".npz":
            raise ForetrainError(f"{name}: expected --out FILE.npz beside --published, came {out}")
        sizes = self.samples or (None, None)
        train, test = published(name, sizes[0], sizes[1], self.key, cache=self.cache, progress=display)
        arrays: dict[str, Any] = {
            f"{part}_{side}": getattr(data, side)
            for part, data in (("train", train), ("test", test))
            for side in ("inputs", "outputs")
        }
        arrays |= {"sensor_points": train.sensor_points, "query_points": train.query_points}
        arrays["label"] = np.array(json.dumps({"name": train.name, "description": dict(train.description)}))
        write_atomically(out, lambda file: np.savez_compressed(file, **arrays))
        return train, test


def _list(display: Display) -> None:
    problems = {
        name: {"maps": _summary(entry.make.__doc__ or ""), "parameters": dict(entry.defaults)}
        for name, entry in PROBLEMS.items()
    }
    setups = {
        name: {
            "problem": setup.problem,
            "parameters": dict(setup.parameters),
            "train": setup.train,
            "test": setup.test,
            "source": setup.source,
            "too easy": setup.too_easy,
            "remark": setup.remark,
        }
        for name, setup in PUBLISHED.items()
    }
    display.table(("problem", "maps"), [(name, str(facts["maps"])) for name, facts in problems.items()])
    display.line("")
    rows = [
        (name, f"{setup.train:,} / {setup.test:,}", setup.source, setup.too_easy or "-")
        for name, setup in PUBLISHED.items()
    ]
    display.table(("published set-up", "train / test", "source", "too easy to judge by"), rows)
    display.result({"problems": problems, "published": setups})


def _summary(text: str) -> str:
    """The first sentence of a docstring, one line."""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


def _assignment(text: str) -> tuple[str, Any]:
    """ "viscosity=0.01" -> ("viscosity", 0.01); what is no number, true, false or none is text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ForetrainError(f"expected parameters as name=value, came {text!r}")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _plain(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _text(name: str, value: object) -> str:
    if name == "seconds" and isinstance(value, float):
        return seconds(value)
    return size(value) if name == "bytes" and isinstance(value, int) else str(value)
