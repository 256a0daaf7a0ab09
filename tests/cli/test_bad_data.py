"""Files a careless user hands in: one line on standard error, exit code 2, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest

FUNCTIONS = 40


def with_value(array, value):
    array = array.copy()
    array[3, 4] = value
    return array


ARRAYS = {
    "missing key": (lambda u, s: {"u": u, "s": s}, "expected the key 'inputs', came the keys s, u"),
    "no arrays": (lambda u, s: {}, "came the keys none"),
    "mismatched shapes": (lambda u, s: {"inputs": u, "outputs": s[1:]}, "came 40 inputs and 39 outputs"),
    "NaN": (lambda u, s: {"inputs": with_value(u, np.nan), "outputs": s}, "inputs: .* NaN .* row 3, column 4"),
    "infinity": (lambda u, s: {"inputs": u, "outputs": with_value(s, np.inf)}, "outputs: .* infinite"),
    "one sample": (lambda u, s: {"inputs": u[:1], "outputs": s[:1]}, "at least 2 functions .* came 1"),
    "no samples": (lambda u, s: {"inputs": u[:0], "outputs": s[:0]}, "at least 2 functions .* came 0"),
    "no sensors": (lambda u, s: {"inputs": u[:, :0], "outputs": s}, "at least one sensor"),
    "constant outputs": (lambda u, s: {"inputs": u, "outputs": 0 * s + 2}, "the constant 2 everywhere"),
    "duplicate inputs": (lambda u, s: {"inputs": u[[0, *range(39)]], "outputs": s}, "repeated, .* rows 0 and 1;"),
    "text": (lambda u, s: {"inputs": u.astype(str), "outputs": s}, "inputs: expected real numbers"),
    "complex numbers": (lambda u, s: {"inputs": u, "outputs": s + 0j}, "outputs: expected real numbers"),
    "a single number": (lambda u, s: {"inputs": 3.0, "outputs": s}, r"inputs: .* shape \(\); add the missing axis"),
    "one axis": (lambda u, s: {"inputs": u[:, 0], "outputs": s}, r"inputs: .* shape \(40,\)"),
    "pickled objects": (lambda u, s: {"inputs": u.astype(object), "outputs": s}, "pickled objects in inputs"),
    "a table with named columns": (
        lambda u, s: {"inputs": np.zeros(40, [("a", float)]), "outputs": s},
        "inputs: expected real numbers",
    ),
    "whole numbers too large to tell apart": (
        lambda u, s: {"inputs": np.uint64(2**64 - 1) - np.arange(640, dtype=np.uint64).reshape(40, 16), "outputs": s},
        "repeated",
    ),
    "numbers too large to square": (lambda u, s: {"inputs": 1e200 * u, "outputs": s}, "choose other units"),
    "too few query points": (
        lambda u, s: {"inputs": u, "outputs": s, "query_points": np.arange(7)},
        "query_points: expected 16 points",
    ),
    "query points all in one place": (
        lambda u, s: {"inputs": u, "outputs": s, "query_points": np.zeros(16)},
        "query_points: expected distinct points",
    ),
    "text as sensor points": (
        lambda u, s: {"inputs": u, "outputs": s, "sensor_points": np.array(list("abcdefghijklmnop"))},
        "sensor_points: expected real numbers",
    ),
    "training functions only": (lambda u, s: {"train_inputs": u, "train_outputs": s}, "the key 'test_inputs'"),
    "test functions that are learnt from": (
        lambda u, s: {"train_inputs": u, "train_outputs": s, "test_inputs": u[5:9], "test_outputs": s[5:9]},
        "came 4 test_inputs that are also train_inputs",
    ),
    "test functions with other sensors": (
        lambda u, s: {
            "train_inputs": u[:30],
            "train_outputs": s[:30],
            "test_inputs": u[30:, :5],
            "test_outputs": s[30:],
        },
        "came 16 for training and 5 for testing",
    ),
}


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_make_no_dataset_are_refused(case, command, folder, arrays, refused, said):
    build, message = ARRAYS[case]
    np.savez(folder / "data.npz", **build(arrays["inputs"], arrays["outputs"]))
    said(refused(f"{command} data.npz"), rf"data\.npz: .*{message}")


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 20]) + content[middle + 20 :]


FILES = {
    "text": (lambda content: b"inputs,outputs\n1,2\n", "something else"),
    "nothing": (lambda content: b"", "an empty file"),
    "half": (truncated, "something else"),
    "flipped bytes": (flipped, "damaged"),
}


@pytest.mark.parametrize("command", ["run", "inspect", "plan", "fit", "train --plan plan.toml"])
@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_archives_are_refused_by_every_command(case, command, folder, good, refused, said):
    change, message = FILES[case]
    Path("data.npz").write_bytes(change(good.read_bytes()))
    Path("plan.toml").write_text(PLAN)
    said(refused(f"{command} data.npz"), rf"data\.npz: expected .*{message}")


PLAN = """[plan]
activation = "relu"
form = "block"
width = 8
branch_width = 4
input_norm = 1.0
step_size = 0.1
steps = 5
key = 0
"""


def test_a_missing_file_a_folder_and_an_npy_file_are_refused(folder, arrays, refused, said):
    said(refused("run nothing.npz"), "found nothing there; check the path")
    said(refused("run", "a" * 300 + ".npz"), "cannot be read|cannot .*File name too long")
    (folder / "runs").mkdir()
    said(refused("run runs"), "came a folder")
    said(refused("inspect ."), "came a folder")
    np.save("inputs.npy", arrays["inputs"])
    said(refused("run inputs.npy"), "something else; write it with numpy.savez")


def test_a_file_without_permission_to_read_is_refused(good, refused, said, monkeypatch):
    opened = Path.open

    def forbid(path, *arguments, **keywords):
        if path.name == "good.npz":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", forbid)
    said(refused("run good.npz"), "Permission denied.; check the path and its permissions")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_too_few_functions_to_choose_by_are_refused(command, folder, arrays, refused, said):
    for count in (2, 3, 5, 15):
        np.savez("few.npz", **{name: values[:count] for name, values in arrays.items()})
        said(refused(f"{command} few.npz"), "expected at least (16 training|4) functions")


def test_a_line_names_the_file_even_if_its_name_looks_like_markup(folder, refused, said):
    Path("[bold]x[red].npz").touch()
    said(refused("inspect", "[bold]x[red].npz"), r"\[bold\]x\[red\]\.npz")
