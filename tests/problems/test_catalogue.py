import json

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.data import mean_relative_error
from foretrain.problems import (
    PROBLEMS,
    PUBLISHED,
    Problem,
    antiderivative,
    cache_file,
    cached,
    helmholtz,
    pendulum,
    problem,
    published,
)
from foretrain.problems import _cache as cache_module
from foretrain.problems import _catalogue as catalogue_module

SMALL = {"samples": 6, "resolution": 16}


def counting(monkeypatch, version=1):
    """Pendulums that count how often they are simulated."""
    calls = []

    def make(samples=1200, resolution=64, key=0, *, duration=6.0):
        calls.append(samples)
        return pendulum(samples, resolution, key, duration=duration)

    entry = Problem("pendulum", make, version)
    monkeypatch.setattr(cache_module, "problem", lambda name: entry)
    return calls


def test_every_problem_makes_the_functions_its_own_function_makes():
    assert cached("antiderivative", None, **SMALL).fingerprint == antiderivative(**SMALL).fingerprint
    assert problem("navier-stokes") is PROBLEMS["navier_stokes"]
    for name, entry in PROBLEMS.items():
        assert entry.name == name
        assert {"samples", "resolution", "key"} <= set(entry.defaults)


def test_data_are_made_once_and_read_afterwards(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    first = cached("pendulum", tmp_path / "new", **SMALL)
    again = cached("pendulum", tmp_path / "new", **SMALL)
    assert calls == [6]
    assert first.fingerprint == again.fingerprint == pendulum(**SMALL).fingerprint
    assert (first.description["cache"], again.description["cache"]) == ("made", "read")
    assert dict(again.description) | {"cache": "made"} == dict(first.description)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [cache_file("pendulum", tmp_path, **SMALL).name]


def test_defaults_are_part_of_what_is_asked_for(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    cached("pendulum", tmp_path, **SMALL)
    cached("pendulum", tmp_path, **SMALL, duration=6.0, key=0)
    assert calls == [6]


@pytest.mark.parametrize("change", [{"key": 1}, {"samples": 7}, {"resolution": 17}, {"duration": 5.0}])
def test_other_parameters_are_other_files(tmp_path, monkeypatch, change):
    calls = counting(monkeypatch)
    cached("pendulum", tmp_path, **SMALL)
    changed = cached("pendulum", tmp_path, **(SMALL | change))
    assert len(calls) == 2
    assert changed.fingerprint == pendulum(**(SMALL | change)).fingerprint


def test_a_new_version_of_the_code_does_not_read_what_an_old_one_wrote(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    cached("pendulum", tmp_path, **SMALL)
    calls_later = counting(monkeypatch, version=2)
    cached("pendulum", tmp_path, **SMALL)
    assert (calls, calls_later) == ([6], [6])
    assert len(list(tmp_path.iterdir())) == 2


def damage_cut_short(path):
    path.write_bytes(path.read_bytes()[:200])


def damage_empty(path):
    path.write_bytes(b"")


def damage_one_number(path):
    arrays = dict(np.load(path))
    arrays["outputs"][2, 3] += 1e-9
    np.savez(path, **arrays)


def damage_other_request(path):
    arrays = dict(np.load(path))
    label = json.loads(str(arrays["label"]))
    label["description"]["cache_request"] = label["description"]["cache_request"].replace('"key": 0', '"key": 9')
    np.savez(path, **(arrays | {"label": np.array(json.dumps(label))}))


def damage_no_label(path):
    arrays = dict(np.load(path))
    np.savez(path, inputs=arrays["inputs"], outputs=arrays["outputs"])


@pytest.mark.parametrize("name", ["cut_short", "empty", "one_number", "other_request", "no_label"])
def test_a_damaged_file_is_made_again_and_says_so(tmp_path, monkeypatch, name):
    calls = counting(monkeypatch)
    first = cached("pendulum", tmp_path, **SMALL)
    path = cache_file("pendulum", tmp_path, **SMALL)
    globals()[f"damage_{name}"](path)
    again = cached("pendulum", tmp_path, **SMALL)
    assert calls == [6, 6]
    assert again.fingerprint == first.fingerprint
    assert again.description["cache"].startswith("made again: ")
    assert "\n" not in again.description["cache"]
    assert cached("pendulum", tmp_path, **SMALL).description["cache"] == "read"


def test_what_a_problem_refuses_leaves_no_file(tmp_path):
    with pytest.raises(ForetrainError, match="pendulum: expected samples"):
        cached("pendulum", tmp_path, samples=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("laplace", {}, "expected a problem among advection"),
        ("burgers", {"visc": 1}, "burgers: expected parameters among samples, viscosity"),
        ("poisson", {"amplitude": "high"}, "poisson: expected values like the defaults"),
        ("poisson", {"amplitude": np.ones(3)}, "poisson: expected parameters that are numbers or text"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(tmp_path, name, parameters, message):
    with pytest.raises(ForetrainError, match=message) as refusal:
        cached(name, tmp_path, **parameters)
    assert "\n" not in str(refusal.value)


def test_published_set_ups_are_the_published_ones():
    sizes = {name: (setup.train, setup.test) for name, setup in PUBLISHED.items()}
    assert sizes == {
        "burgers": (1000, 200),
        "darcy": (1000, 200),
        "advection I": (1000, 1000),
        "advection II": (20_000, 20_000),
        "helmholtz": (20_000, 20_000),
        "navier-stokes": (20_000, 20_000),
    }
    assert dict(PUBLISHED["burgers"].parameters) == {"viscosity": 0.1, "resolution": 128}
    points = {"darcy": 29**2, "advection I": 40, "advection II": 200}
    for name, count in points.items():
        train, test = published(name, 3, 2)
        assert (len(train), len(test), train.inputs.shape[1]) == (3, 2, count)
        assert not {row.tobytes() for row in train.inputs} & {row.tobytes() for row in test.inputs}
    assert published("helmholtz", 2, 2)[0].outputs.shape[1] == 101**2
    assert published("navier-stokes", 2, 2)[0].description["viscosity"] == 1 / 40


def test_set_ups_that_are_too_easy_are_those_where_a_linear_model_is_nearly_enough():
    train, test = published("advection I", 300, 50)
    solution = np.linalg.lstsq(train.inputs, train.outputs, rcond=1e-10)[0]
    assert mean_relative_error(test.inputs @ solution, test.outputs) < 1e-8
    assert PUBLISHED["advection I"].too_easy
    assert PUBLISHED["burgers"].too_easy
    assert PUBLISHED["helmholtz"].too_easy is None


def test_the_published_helmholtz_data_are_not_those_of_the_true_equation():
    train, _ = published("helmholtz", 2, 2)
    truth = helmholtz(2)
    np.testing.assert_allclose(train.inputs, truth.inputs, atol=1e-12)
    assert 0.4 < mean_relative_error(train.outputs, truth.outputs) < 1.5


def test_published_data_are_kept_where_asked(tmp_path):
    train, test = published("advection I", 5, 4, cache=tmp_path)
    again, more = published("advection I", 5, 4, cache=tmp_path)
    assert train.fingerprint == again.fingerprint
    assert test.fingerprint == more.fingerprint
    assert more.description["cache"] == "read"


@pytest.mark.parametrize(("name", "sizes"), [("kdv", (5, 5)), ("burgers", (1, 5)), ("burgers", (5, 1))])
def test_set_ups_that_are_none_are_refused(name, sizes):
    with pytest.raises(ForetrainError, match="expected"):
        published(name, *sizes)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        catalogue_module.PROBLEMS["mine"] = None
    with pytest.raises(TypeError):
        PUBLISHED["burgers"].parameters["viscosity"] = 1.0
