"""Small models beside FNO and DeepONet: size, error and latency of what `ft.compress` finds, on four problems.

Run: make bench-shrink, or .venv/bin/python benchmarks/shrink.py [--section teacher,...] [--only "Darcy;20,000"]
     [--peers FOLDER] [--json FILE] [--markdown FILE] [--plots FOLDER] [--data-cache FOLDER] [--write-data] [--fresh]

Sections, each made of cases:
- teacher: ft.InfiniteWidthOperator with everything on "auto" fitted to 1,000 functions, its error on 200 others
- compress: ft.compress of that teacher with everything at its defaults but for the budget, of 5,000, 10,000, 20,000 and
  100,000 numbers; every candidate's numbers, bytes, error and latency. The 200 functions mark the candidate to ship and
  decide nothing else, and all candidates are shown.
- peer file: how long a peer's DeepONet takes as an ONNX file, its trunk's answers at the fixed points folded in (an FNO
  has complex operators, which such files have not)

Numbers are all that a file stores, tables, means and scales included. Latency is of one function, raw values to raw
values: ONNX Runtime on one thread for candidates, torch on one thread for peers, as their users run them; the median by
the clock on the wall, and the mean by that of the processor, which stands still while other programs have the core.
Bars are judged by both.

Peers are trained by `make bench-shrink-peers` on the same functions, for as many processor seconds as their files say
(`benchmarks/peers/torch_operators.py`), and read from the folder of their results; one that is missing, or was trained
on other functions, is said to be. A peer's error is the least one along its training, its size the weights alone:
both to its advantage.

Bars: a candidate of at most 20,000 numbers within 0.6 % on Burgers 0.1/(2 pi) and 2.4 % on Darcy, of 100,000 within
0.3 % and 2.1 %; at DeepONet's error or better 1/10 of its weights and 1/2 of its latency; at FNO's error or better,
where the teacher is that good, 1/5 and 1/5; compression in under two minutes.

Every case is kept in FILE with the suffix .cases.json, one line of JSON each, as soon as it is done; another run skips
what it finds there (--fresh starts again). --only keeps the cases whose name contains every one of the given words,
with ";" between words where they contain commas.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _cases import FILE_NAME, Journal, kept_data, machine
from _peer_file import peer_file
from _shrink_plot import front_plot
from _shrink_tables import COMPRESS, PEER_FILE, TEACHER, Result, markdown, one_line, peer_name

import foretrain as ft
from foretrain.deployment import Runtime, bench

FUNCTIONS, TEST = 1000, 200
BUDGETS = (5_000, 10_000, 20_000, 100_000)
BURGERS, BURGERS_STEEP, DARCY, ADVECTION = "Burgers 0.1/(2 pi)", "Burgers 0.01", "Darcy 29x29", "Advection II"
PROBLEMS: dict[str, Callable[[], ft.OperatorDataset]] = {
    BURGERS: lambda: ft.problems.burgers(FUNCTIONS + TEST),
    BURGERS_STEEP: lambda: ft.problems.burgers(FUNCTIONS + TEST, 0.01),
    DARCY: lambda: ft.problems.darcy(FUNCTIONS + TEST, simulation_resolution=421),
    ADVECTION: lambda: ft.problems.advection(FUNCTIONS + TEST, "II"),
}


@dataclass(frozen=True)
class Case:
    """One line of the results; `name` is what --only looks at and what a later run recognises it by."""

    section: str
    problem: str
    numbers: int = 0
    peer: str = ""

    @property
    def name(self) -> str:
        parts = [self.section, self.problem, f"{self.numbers:,} numbers" if self.numbers else "", self.peer]
        return " | ".join(part for part in parts if part)


class Teachers:
    """The problems and their teachers, the last one kept in memory: cases of one problem follow each other."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._data: tuple[str, Any] = ("", None)
        self._fitted: tuple[str, Any] = ("", None)

    def data(self, problem: str) -> tuple[ft.OperatorDataset, ft.OperatorDataset]:
        """Training and test functions."""
        if self._data[0] != problem:
            self._data = (problem, kept_data(self.folder, problem, PROBLEMS[problem]).split(test=TEST, key=0))
        return self._data[1]

    def fitted(self, problem: str) -> tuple[ft.InfiniteWidthOperator, dict[str, float]]:
        """The teacher, and the seconds it took."""
        if self._fitted[0] != problem:
            train, _ = self.data(problem)
            clock = Clock()
            self._fitted = (problem, (ft.InfiniteWidthOperator().fit(train), clock.read()))
        return self._fitted[1]


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": time.perf_counter() - self.wall,
            "processor_seconds": time.process_time() - self.processor,
        }


def measure_teacher(case: Case, teachers: Teachers) -> Result:
    _, test = teachers.data(case.problem)
    teacher, seconds = teachers.fitted(case.problem)
    return {"test_error": teacher.score(test), **seconds, "settings": str(teacher.settings_)}


def measure_compression(case: Case, teachers: Teachers) -> Result:
    """The whole front of one budget, or why there is none."""
    _, test = teachers.data(case.problem)
    teacher, _ = teachers.fitted(case.problem)
    clock = Clock()
    try:
        found = ft.compress(teacher, ft.Budget(numbers=case.numbers), test=test)
    except ft.ForetrainError as error:
        return {"refused": str(error), **clock.read()}
    seconds = clock.read()
    students = [candidate for candidate in found.candidates if candidate.package is not None]
    rows = [candidate.as_dict() | times(candidate.package.file) for candidate in students if candidate.package]
    return {"budget": case.numbers, **seconds, "candidates": rows, "stages": [vars(stage) for stage in found.stages]}


def times(file: bytes) -> dict[str, float]:
    """Seconds of one function: percentiles by the clock on the wall, and the mean by that of the processor."""
    (speed,) = bench({"": file}, (1,))
    kept = {name: value for name, value in speed.as_dict().items() if name.endswith("_seconds")}
    runtime = Runtime(file)
    one = np.zeros((1, runtime.sensors))
    started = time.process_time()
    for _ in range(speed.repeats):
        runtime.predict(one)
    return kept | {"processor_seconds": (time.process_time() - started) / speed.repeats}


def measure_peer_file(case: Case, teachers: Teachers, peers: list[Result]) -> Result:
    train, _ = teachers.data(case.problem)
    (peer,) = (peer for peer in peers if peer_name(peer) == case.peer)
    file = peer_file(peer["settings"], train.inputs.shape[1], train.outputs.shape[1])
    return {"peer": case.peer, "bytes": len(file), **times(file)}


# ---------------------------------------------------------------------------------------------- running


def cases(peers: dict[str, list[Result]]) -> list[Case]:
    """All of them, one problem after the other."""
    found = []
    for problem in PROBLEMS:
        found += [Case(TEACHER, problem), *(Case(COMPRESS, problem, numbers) for numbers in BUDGETS)]
        with_branch = [peer for peer in peers[problem] if "branch" in peer["settings"]]
        found += [Case(PEER_FILE, problem, peer=peer_name(peer)) for peer in with_branch]
    return found


def chosen_cases(every: list[Case], sections: str, words: str) -> list[Case]:
    wanted = [word.strip().lower() for word in words.split(";" if ";" in words else ",") if word.strip()]
    named = [section for section in sections.split(",") if section]
    kept = [case for case in every if not named or case.section in named]
    return [case for case in kept if all(word in case.name.lower() for word in wanted)]


def measure(case: Case, teachers: Teachers, peers: list[Result]) -> Result:
    if case.section == PEER_FILE:
        return measure_peer_file(case, teachers, peers)
    return {TEACHER: measure_teacher, COMPRESS: measure_compression}[case.section](case, teachers)


def file_name(problem: str) -> str:
    """What a problem's files are called, without suffix."""
    return problem.lower().translate(FILE_NAME)


def peers_of(problem: str, folder: Path) -> list[Result]:
    """What is known of other libraries' networks on this problem."""
    found = sorted(folder.glob(f"{file_name(problem)}.*.json"))
    return [json.loads(path.read_text()) for path in found]


def write_plots(results: list[Result], peers: dict[str, list[Result]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for problem in peers:
        drawn = front_plot(problem, [result for result in results if result["problem"] == problem], peers[problem])
        if drawn:
            (folder / f"shrink.{file_name(problem)}.svg").write_text(drawn)


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    parser.add_argument("--plots", type=Path, help="folder for one plot of each problem; by default beside the JSON")
    parser.add_argument("--section", default="", help="teacher, compress, peer file; by commas")
    parser.add_argument("--only", default="", help="words that a case's name must contain, by commas")
    parser.add_argument("--peers", type=Path, default=here / "peers" / "results", help="folder of the peers' results")
    parser.add_argument("--data-cache", type=Path, help="folder that keeps the problems' data between runs")
    parser.add_argument("--write-data", action="store_true", help="only put the problems' data into that folder")
    parser.add_argument("--fresh", action="store_true", help="forget the cases kept by earlier runs")
    chosen = parser.parse_args()
    if chosen.write_data:
        if chosen.data_cache is None:
            parser.error("expected --data-cache FOLDER beside --write-data, came none")
        for problem, make in PROBLEMS.items():
            kept_data(chosen.data_cache, problem, make)
        return
    peers = {problem: peers_of(problem, chosen.peers) for problem in PROBLEMS}
    every = cases(peers)
    todo = chosen_cases(every, chosen.section, chosen.only)
    if not todo:
        parser.error(f"expected words that some case's name contains, came {chosen.section!r} and {chosen.only!r}")
    journal, header = Journal(chosen.json, chosen.fresh), machine()
    done = journal.done
    print(header, flush=True)
    teachers = Teachers(chosen.data_cache)
    for number, case in enumerate(todo):
        if case.name in done:
            continue
        measured = measure(case, teachers, peers[case.problem])
        train, test = teachers.data(case.problem)
        result = {
            "name": case.name,
            "section": case.section,
            "problem": case.problem,
            "train_fingerprint": train.fingerprint,
            "test_fingerprint": test.fingerprint,
            **measured,
            "header": header,
        }
        journal.keep(result)
        print(f"[{number + 1}/{len(todo)}] {case.name}: {one_line(result)}", flush=True)
    shown = [done[case.name] for case in every if case.name in done]
    peers = {problem: peers[problem] for problem in dict.fromkeys(result["problem"] for result in shown)}
    tables = markdown(shown, peers, header)
    print("\n" + tables)
    chosen.json.write_text(json.dumps({"header": header, "results": shown, "peers": peers}, indent=1))
    if chosen.markdown:
        chosen.markdown.write_text(tables)
    write_plots(shown, peers, chosen.plots or chosen.json.parent)


if __name__ == "__main__":
    main()
