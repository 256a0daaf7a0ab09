"""foretrain compress with a user's own model as the teacher."""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from foretrain.cli._user_teacher import load_teacher
from foretrain.compression import compress
from foretrain.data import OperatorDataset, load_split, read_npz

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).parents[2] / "examples"

MODULE = """
import equinox as eqx
import jax
import jax.numpy as jnp


class Each(eqx.Module):
    weight: jax.Array

    def __call__(self, inputs, points):
        return jnp.tanh(inputs @ self.weight)[..., None] + 0 * points[:, 0]


net = Each(jnp.arange(16.0) / 16)


def made(key):
    return net


def plain(inputs):
    print("asked")
    return inputs**2


def at_points(inputs, points):
    return inputs[:, :1] * points[:, 0]


def broken(inputs):
    raise ValueError("no solution")


def wrong(inputs):
    return inputs[:, :3]


number = 3
"""


@pytest.fixture
def functions(folder):
    """Forty functions at sixteen points."""
    values, points = np.random.default_rng(0).standard_normal((40, 16)), np.linspace(0, 1, 16)
    data = OperatorDataset(values, np.tanh(values), points, points)
    data.save("data.npz")
    Path("my_module.py").write_text(MODULE)
    return data


TRUTHS = {
    "net": lambda u: np.tanh(u @ (np.arange(16) / 16))[:, None] * np.ones(16),
    "made": lambda u: np.tanh(u @ (np.arange(16) / 16))[:, None] * np.ones(16),
    "plain": lambda u: u**2,
    "at_points": lambda u: u[:, :1] * np.linspace(0, 1, 16),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_a_teacher_answers_as_what_the_file_names(name, functions, capsys):
    teacher = load_teacher(f"my_module.py:{name}", functions, 0)
    np.testing.assert_allclose(teacher(functions.inputs), TRUTHS[name](functions.inputs), rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().out == ""


def test_what_cannot_teach_is_refused_in_one_line(refused, said, functions):
    for name, message in {
        "nothing": "my_module.py: expected a name in it, .* came 'nothing'; .* are .*net, made, plain",
        "number": "my_module.py: number: expected a module .* came a int",
        "broken": "my_module.py: expected broken to answer, came ValueError in line [0-9]+: no solution",
        "wrong": r"the teacher: expected outputs \[6, 16\] from inputs \[6, 16\], came \[6, 3\]",
    }.items():
        said(refused(f"compress data.npz --teacher my_module.py:{name}", begun=True), message)
    said(refused("compress data.npz --teacher net"), "--teacher: expected FILE.py:NAME, came 'net'")
    said(refused("compress data.npz --teacher absent.py:net"), "absent.py: expected a Python file .*No such file")


@pytest.fixture
def light(monkeypatch):
    """A search of few steps."""
    search = functools.partial(compress, rows=400, evaluations=20)
    monkeypatch.setattr("foretrain.deployment._ship.compress", search)


@pytest.mark.slow
def test_the_examples_solver_is_shrunk_with_inputs_of_its_own(call, refused, said, folder, light, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import solver_teacher

    solver_teacher.main(functions=190, more=40)
    shutil.copy(EXAMPLES / "solver_teacher.py", "solver_teacher.py")
    line = "compress data.npz --teacher solver_teacher.py:solver --unlabelled inputs.npz --fresh 30"
    outcome = call(f"{line} --query-points input --max-error 20% --json")
    summary = json.loads(outcome.output)
    assert summary["stages"][0]["name"] == "teacher labels 40 given inputs and 30 fresh inputs"
    # The solver made the outputs: as a teacher it has no error, and all of the file's comes after it.
    assert summary["stages"][0]["error_after"] == pytest.approx(0, abs=1e-12)
    (chosen,) = (row for row in summary["rows"] if row["chosen"])
    parts = chosen["error_shares"]["parts"]
    assert [part["name"] for part in parts[:2]] == ["teacher", "compression into the student"]
    assert parts[0]["size"] == pytest.approx(0, abs=1e-12)
    assert sum(part["share"] for part in parts) == pytest.approx(1)
    assert json.loads(Path("compression.json").read_text())["trust"] == summary["trust"]
    # The file answers at other points, nearly as a finer solver would.
    _, test = load_split("data.npz")
    points = np.linspace(0, 1, 13)[:, None]
    np.savez("points.npz", points=points)
    np.savez("new.npz", inputs=test.inputs)
    report = call("predict model.onnx new.npz --points points.npz --out answers.npz").output
    assert "lower and upper" not in report
    arrays = read_npz("answers.npz")
    assert set(arrays) == {"outputs", "points", "score", "outside"}
    between = np.stack([np.interp(points[:, 0], np.linspace(0, 1, 48), row) for row in test.outputs])
    error = np.linalg.norm(arrays["outputs"] - between) / np.linalg.norm(between)
    assert error < 2 * chosen["test_error"] + 0.02
    said(refused("predict model.onnx new.npz --points new.npz"), "new.npz: expected the key 'points', came inputs")
    said(
        refused("predict model.onnx new.npz --points points.npz --simultaneous"),
        "--simultaneous: expected without --points",
    )
    np.savez("points.npz", points=points + 0.5)
    said(refused("predict model.onnx new.npz --points points.npz"), r"points in the box \[0, 1\], came 6 outside")


def test_the_examples_torch_operator_teaches_on_its_grid(folder, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(EXAMPLES)
    import torch_teacher

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch_teacher.main(samples=24, steps=20)
        shutil.copy(EXAMPLES / "torch_teacher.py", "torch_teacher.py")
        train, _ = load_split("data.npz")
        teacher = load_teacher("torch_teacher.py:net", train, 0)
        with torch.no_grad():
            own = torch_teacher.net()(torch.tensor(train.inputs, dtype=torch.float32)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(teacher(train.inputs), own, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
        sys.modules.pop("torch_teacher", None)
