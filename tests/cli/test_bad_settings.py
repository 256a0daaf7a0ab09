"""Options, configurations and plans that cannot be meant: refused in one line before anything is made."""

import os
from pathlib import Path

import pytest

from foretrain.cli import _inspect

DATA = '[data]\npath = "good.npz"\n'
CONFIGURATIONS = {
    "no TOML": ("this is [not toml", "bad.toml: expected a run's config.toml, came none that can be read"),
    "brackets without end": ("x = " + "[" * 100_000, "expected a run's config.toml"),
    "no data": ("[run]\nsteps = 3", r"expected \[data\] with a path"),
    "data that is no table": ('data = "path"', r"expected \[data\] with a path"),
    "path that is a number": ("[data]\npath = 3", "path: expected a path in quotes, came 3"),
    "run that is no table": ('run = "x"\n[data]\npath = "good.npz"', r"expected a table \[run\]"),
    "unknown setting": (DATA + "[run]\nwidht = 3\n", "expected settings among error_budget, .*, came widht"),
    "text for a number": (DATA + '[run]\nsteps = "many"', "steps: expected a whole number, at least 1, came 'many'"),
    "a fraction of a step": (DATA + "[run]\nsteps = 3.5", "steps: expected a whole number"),
    "no steps": (DATA + "[run]\nsteps = 0", "steps: expected a whole number"),
    "yes for a number": (DATA + "[run]\ntolerance = true", "tolerance: expected a positive number, came True"),
    "a list for a number": (DATA + "[run]\ntarget_error = [0.1]", "target_error: expected a number"),
    "NaN": (DATA + "[run]\nerror_budget = nan", "error_budget: expected a positive number, came nan"),
    "infinity": (DATA + "[run]\nprice_per_hour = inf", "price_per_hour: expected a number, at least 0, came inf"),
    "a negative key": (DATA + "[run]\nkey = -1", "key: expected a whole number from 0"),
    "a key of 33 bits": (DATA + f"[run]\nkey = {2**32}", "key: expected a whole number from 0"),
    "a split by text": (DATA + 'test = "some"', "test: expected a whole number of functions"),
    "a split key by text": (DATA + 'key = "a"', "key: expected a whole number"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_bad_configurations_are_refused(case, good, refused, said):
    text, message = CONFIGURATIONS[case]
    Path("bad.toml").write_text(text)
    said(refused("run bad.toml"), message)


def test_a_configuration_that_is_no_text_is_refused(good, refused, said):
    Path("bad.toml").write_bytes(b"\xff\xfe\x00")
    said(refused("run bad.toml"), "bytes that are no text")
    said(refused("run nothing.toml"), "nothing.toml: .*No such file or directory")
    Path("folder.toml").mkdir()
    said(refused("run folder.toml"), "Is a directory")


def test_a_configuration_whose_data_has_gone_is_refused(folder, refused, said):
    Path("config.toml").write_text('[data]\npath = "gone.npz"\n')
    said(refused("run config.toml"), "gone.npz: expected a data file, found nothing there")


OPTIONS = {
    "run good.npz --target-error 2": "target_error: expected a number between 0 and 1",
    "run good.npz --target-error nan": "target_error: expected a number between 0 and 1",
    "run good.npz --steps 0": "steps: expected a whole number, at least 1",
    "run good.npz --steps 1000000000000": "a forecast of 1000000000000 steps: .* ask for fewer steps",
    "run good.npz --error-budget 0": "error_budget: expected a positive number",
    "run good.npz --numbers-budget -5": "numbers_budget: expected a whole number",
    "run good.npz --key -1": "key: expected a whole number from 0",
    "run good.npz --test 1000": "hold out between 2 and 38 of 40 functions, came 1000",
    "run good.npz --test 30": "at least 16 training functions, came 10",
    "run good.npz --test 0": "test: expected a whole number of functions, at least 2, came 0",
    "run good.npz --test -3": "test: expected",
    "plan good.npz --target-error 2": "target_error: expected a number between 0 and 1 .0.02 is 2 %., came 2.0",
    "plan good.npz --tolerance 0": "tolerance: expected a positive number",
    "plan good.npz --steps -1": "steps: expected",
    "plan good.npz --price-per-hour -1": "price_per_hour: expected a number, at least 0",
    "plan good.npz --out .": "expected a file to write, came a folder",
    "plan good.npz --out good.npz/plan.toml": "came the file good.npz",
    "fit good.npz --activation swish": "unknown activation 'swish'",
    "fit good.npz --test 39": "hold out between 2 and 38",
    "fit good.npz --key 99999999999999999999": "key: expected",
    "run good.npz --out good.npz": "good.npz: expected a folder to write to, came the file good.npz",
    "run good.npz --out good.npz/run": "expected a folder to write to, came the file good.npz",
    "demo --samples 10": "at least 16 training functions, came 8",
    "demo --samples 0": "samples: expected a whole number, at least 1",
    "demo --samples 20 --steps 0": "steps: expected",
    "demo --samples 20 --viscosity 0": "viscosity > 0",
    "demo --samples 20 --viscosity nan": "viscosity > 0",
    "demo --samples 20 --viscosity 1e-12": "simulating Burgers' equation: .* memory",
    "demo --samples 20 --resolution 4": "resolution >= 16",
    "demo --samples 20 --out good.npz": "came the file good.npz",
    "compress nothing": "nothing/config.toml: expected a run's config.toml",
    "compress good.npz": "Not a directory",
    "compress . --max-error 0": "max_error: expected a positive number",
    "compress . --max-error nan": "max_error: expected a positive number",
    "report .": ". is not a run folder",
    "report nothing": "nothing is not a run folder",
    "report good.npz": "good.npz is not a run folder",
}


@pytest.mark.parametrize("line", OPTIONS)
def test_impossible_options_are_refused(line, good, refused, said):
    said(refused(line, begun=line.startswith(("demo", "fit"))), OPTIONS[line])


PLAN = {
    "activation": '"relu"',
    "form": '"block"',
    "width": "8",
    "branch_width": "4",
    "input_norm": "1.0",
    "step_size": "0.1",
    "steps": "5",
    "key": "0",
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", '"big"', "width: expected a whole number"),
        ("width", "2.5", "width: expected a whole number"),
        ("width", "1000000000000", "a network of .* choose smaller widths"),
        ("branch_width", "0", "branch_width: expected"),
        ("activation", '"swish"', "plan.toml: unknown activation 'swish'"),
        ("activation", '["relu"]', "activation: expected a name in quotes"),
        ("form", '"blocks"', "plan.toml: expected the form 'block' or 'shared', came 'blocks'"),
        ("step_size", "nan", "step_size: expected a positive number"),
        ("input_norm", "0.0", "input_norm: expected a positive number"),
        ("steps", "-4", "steps: expected"),
        ("key", "-1", "key: expected"),
        ("steps", None, "came one without steps; plan again"),
    ],
)
def test_plans_that_cannot_be_trained_are_refused(good, call, folder, said, name, value, message):
    lines = [f"{key} = {item}" for key, item in (PLAN | {name: value}).items() if item is not None]
    Path("plan.toml").write_text("\n".join(["[plan]", *lines]))
    outcome = call("train good.npz --plan plan.toml --json")
    assert outcome.code == 2
    said(outcome.errors, message)
    assert sorted(path.name for path in folder.iterdir()) == ["good.npz", "plan.toml"]


def test_files_that_are_no_plans_are_refused(good, refused, said):
    said(refused("train good.npz --plan nothing.toml"), "expected a TOML plan")
    Path("plan.toml").write_text("steps = 3")
    said(refused("train good.npz --plan plan.toml"), r"expected a table \[plan\]")
    Path("plan.toml").write_bytes(b"\xff\xfe\x00")
    said(refused("train good.npz --plan plan.toml"), "bytes that are no text")
    said(refused("train good.npz --plan ."), "expected a TOML plan")


def test_a_folder_without_permission_to_write_is_refused(good, refused, said, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    said(refused("run good.npz --out elsewhere/run"), "elsewhere/run: .* without permission to write")
    said(refused("run good.npz"), "runs: .* without permission to write")


def test_a_run_of_other_settings_is_not_written_over(good, folder, refused, said):
    Path("done").mkdir()
    Path("done/config.toml").write_text(f'[data]\npath = "{good.resolve()}"\ntest = 5\nkey = 0\n[run]\nsteps = 7\n')
    said(refused("run good.npz --test 5 --steps 8 --out done"), "^foretrain: done: .*other steps; choose another --out")


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (OSError(28, "No space left on device", "file"), 2, "file: No space left on device; check .* the space left"),
        (OSError("broken"), 2, "broken; check the path"),
        (MemoryError("two lines\nof it"), 2, r"out of memory \(two lines of it\); use fewer functions"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_of_the_machine_end_in_one_line(good, call, said, monkeypatch, failure, code, message):
    def fail(*_):
        raise failure

    monkeypatch.setattr(_inspect, "survey", fail)
    outcome = call("inspect good.npz")
    assert outcome.code == code
    assert outcome.errors.count("\n") == 1
    said(outcome.errors, f"^foretrain: {message}")


def test_a_mistake_of_ours_is_not_dressed_up_as_one_of_the_user(good, call, monkeypatch):
    def fail(*_):
        raise AssertionError("a bug")

    monkeypatch.setattr(_inspect, "survey", fail)
    with pytest.raises(AssertionError, match="a bug"):
        call("inspect good.npz")
