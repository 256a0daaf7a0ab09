"""The field side by side: this project, FNO, DeepONet, POD-DeepONet, kernels, random features and linear models, on
the same functions and cores, in one run.

Run: make bench, or .venv/bin/python benchmarks/field.py [--only "darcy;fno"] [--peer-seconds N] [--cores 0,1]
     [--folder FOLDER] [--data FOLDER] [--python PEERS_PYTHON] [--list] [--tables]

Every job is a process of its own on one core with one thread: one method on one problem, its result a JSON file in the
folder as soon as it is done. Another run does what is missing (or was made from other functions), so an interrupted one
goes on; two jobs run beside each other on two cores. Seconds are of the processor, so neighbours hardly count.

Peers run in their own environment with their authors' settings (`benchmarks/peers/`). A network gets the budget of
seconds asked for (by default 150 on lines and 300 in the plane; a DeepONet two thirds, a POD-DeepONet a third of it),
and is marked where it was still improving at its end. Its error is the least along its training, to its advantage.
With "augmented" an FNO learns from all images of the functions under the symmetries that this project uses.

Energy is an estimate: processor seconds times the watts of a busy core (--watts). A method's own peak memory is that of
its process. Tables and plots: {folder}/field.md, field.json, field.PROBLEM.svg.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _cases import machine
from _field_problems import AUGMENTED, PROBLEMS, TEST, Problem, augmented, written
from _field_tables import curve_plot, markdown

import foretrain as ft
from foretrain.data import common_grid_shape, load_split, periodic_grid_shape

HERE = Path(__file__).parent
PEERS = HERE / "peers"
OURS = ("closed-form", "compressed", "layerwise", "trained-fourier", "blended")
NETWORKS = {"fno": 1.0, "deeponet": 2 / 3, "pod-deeponet": 1 / 3}
"""Shares of the budget."""
KERNELS = (
    "linear",
    "random-features",
    "kernel-matern",
    "kernel-matern-pca",
    "kernel-rational-quadratic",
    "kernel-rational-quadratic-pca",
)
SECONDS = {1: 150.0, 2: 300.0}
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One method on one problem."""

    problem: Problem
    method: str
    data: Path
    result: Path
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.problem.name} | {self.method}"

    def finished(self, fingerprints: dict[Path, str]) -> bool:
        """Whether there is a result of these very functions."""
        if not self.result.exists():
            return False
        if self.data not in fingerprints:
            fingerprints[self.data] = load_split(self.data, TEST, key=0)[0].fingerprint
        return bool(json.loads(self.result.read_text())["train_fingerprint"] == fingerprints[self.data])


def jobs_of(problem: Problem, options: argparse.Namespace) -> Iterator[Job]:
    """Every method that the problem's functions allow; the longest first."""
    data, folder = written(problem, options.data), options.folder
    given = ft.load(data)
    shape = common_grid_shape(given)
    seconds = options.peer_seconds or SECONDS[len(shape) if shape else 1]

    def job(method: str, program: Path, python: str, *more: str, of: Path = data, called: str = "") -> Job:
        result = folder / f"{problem.file}.{called or method}.json"
        command = (python, str(program), method, str(of), "--json", str(result), "--test", str(TEST), *more)
        return Job(problem, called or method, of, result, command)

    operators = PEERS / "torch_operators.py"
    for method, share in NETWORKS.items():
        if shape is not None:
            yield job(method, operators, options.python, "--seconds", f"{share * seconds:g}")
    if problem.symmetries and shape is not None:
        images = augmented(problem, options.data)
        yield job("fno", operators, options.python, "--seconds", f"{seconds:g}", of=images, called="fno" + AUGMENTED)
    circle = periodic_grid_shape(given) is not None
    possible = {"trained-fourier": circle, "blended": circle and shape is not None and len(shape) == 1}
    possible["layerwise"] = shape is not None
    for method in OURS:
        if possible.get(method, True):
            yield job(method, HERE / "_field_ours.py", sys.executable)
    for method in KERNELS:
        yield job(method, PEERS / "kernel_methods.py", options.python)


def run_all(jobs: list[Job], cores: list[int], log: Path) -> list[str]:
    """Runs the jobs, one on each core at a time; the names of those that failed."""
    waiting, running, failed = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes], float]](), []
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        while waiting or running:
            for core in cores:
                if core not in running and waiting:
                    job = waiting.pop(0)
                    with log.open("ab") as lines:
                        process = subprocess.Popen(
                            ("taskset", "-c", str(core), *job.command), stdout=lines, stderr=lines, env=environment
                        )
                    running[core] = (job, process, time.perf_counter())
            for core, (job, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[core]
                words = summary(json.loads(job.result.read_text())) if process.returncode == 0 else f"failed, see {log}"
                failed += [job.name] if process.returncode else []
                count = len(jobs) - len(waiting) - len(running)
                print(f"[{count}/{len(jobs)}] {job.name} ({time.perf_counter() - started:.0f} s): {words}", flush=True)
            time.sleep(0.5)
    finally:
        for _, process, _ in running.values():
            process.kill()
    return failed


def summary(result: Result) -> str:
    error, seconds = result["best_error_percent"], result["processor_seconds"]
    return f"{error:.3g} % after {seconds:.0f} processor seconds" + ("" if result["converged"] else ", still falling")


def results_in(folder: Path) -> list[Result]:
    """All that is there, with what a table needs."""
    found = []
    for problem in PROBLEMS:
        for path in sorted(folder.glob(f"{problem.file}.*.json")):
            result = json.loads(path.read_text())
            method = path.name.removeprefix(f"{problem.file}.").removesuffix(".json")
            found.append({**result, "problem": problem.name, "method": method, "ours": "ours" in result})
    return found


def write_tables(options: argparse.Namespace, header: str) -> None:
    results = results_in(options.folder)
    tables = markdown(results, {problem.name: problem.easy for problem in PROBLEMS}, options.watts, header)
    print("\n" + tables)
    (options.folder / "field.md").write_text(tables)
    (options.folder / "field.json").write_text(json.dumps({"header": header, "results": results}, indent=1))
    for problem in PROBLEMS:
        drawn = curve_plot(problem.name, [each for each in results if each["problem"] == problem.name])
        if drawn:
            (options.folder / f"field.{problem.file}.svg").write_text(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help='words that a job\'s name must contain, by ";"')
    parser.add_argument("--peer-seconds", type=float, help="processor seconds of training for each FNO")
    parser.add_argument("--cores", default=",".join(map(str, sorted(os.sched_getaffinity(0))[:2])))
    parser.add_argument("--watts", type=float, default=10.0, help="of a busy core, for the estimate of energy")
    parser.add_argument("--folder", type=Path, default=PEERS / "field", help="of results, tables and plots")
    parser.add_argument("--data", type=Path, default=PEERS / "data", help="folder that keeps the problems' data")
    parser.add_argument("--python", default=str(PEERS / ".venv-torch-modules" / "bin" / "python"))
    parser.add_argument("--list", action="store_true", help="only say what there is to do")
    parser.add_argument("--tables", action="store_true", help="only write tables and plots of what is there")
    options = parser.parse_args()
    header = machine()
    if options.tables:
        write_tables(options, header)
        return
    if not Path(options.python).exists():
        parser.error(f"expected the peers' environment, found no {options.python}; run: make bench")
    words = [word.strip().lower() for word in options.only.split(";") if word.strip()]
    wanted = [problem for problem in PROBLEMS if not words or any(word in problem.name.lower() for word in words)]
    jobs = [job for problem in wanted or PROBLEMS for job in jobs_of(problem, options)]
    jobs = [job for job in jobs if all(word in job.name.lower() for word in words)]
    if not jobs:
        parser.error(f"expected words that some job's name contains, came {options.only!r}")
    fingerprints: dict[Path, str] = {}
    todo = [job for job in jobs if not job.finished(fingerprints)]
    print(f"{header}\n{len(todo)} of {len(jobs)} jobs to do", flush=True)
    if options.list:
        print("\n".join(job.name for job in todo))
        return
    failed = run_all(todo, [int(core) for core in options.cores.split(",")], options.folder / "field.log")
    write_tables(options, header)
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
