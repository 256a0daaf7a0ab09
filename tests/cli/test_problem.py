import json

import numpy as np
import pytest

from foretrain.data import load, load_split
from foretrain.problems import PROBLEMS, PUBLISHED, pendulum, poisson, wave


def test_the_file_holds_the_data_of_the_problem(call, folder):
    outcome = call("problem pendulum --samples 6 --resolution 16 --key 3 --set gravity=2 duration=4.5 --out swings.npz")
    assert outcome.code == 0, outcome
    data = load(folder / "swings.npz")
    assert data.fingerprint == pendulum(6, 16, 3, gravity=2, duration=4.5).fingerprint
    assert data.description["gravity"] == 2
    assert "fingerprint" in outcome.output
    assert "simulating pendulums" in outcome.output


def test_words_are_parameters_too(call, folder):
    assert call("problem wave --samples 4 --resolution 9 --set given=velocity times=2 --out w.npz").code == 0
    assert load(folder / "w.npz").fingerprint == wave(4, "velocity", 9, times=2).fingerprint


def test_json_is_all_there_is_on_standard_output(call):
    outcome = call("problem antiderivative --samples 5 --resolution 8 --out a.npz --json")
    facts = json.loads(outcome.output)
    assert facts["functions"] == 5
    assert facts["problem"] == "antiderivative"
    assert facts["file"] == "a.npz"
    assert facts["seconds"] < 30


def test_without_a_name_problems_and_published_set_ups_are_listed(call):
    facts = json.loads(call("problem --json").output)
    assert set(facts["problems"]) == set(PROBLEMS)
    assert facts["problems"]["burgers"]["parameters"]["resolution"] == 128
    assert set(facts["published"]) == set(PUBLISHED)
    assert facts["published"]["advection I"]["too easy"]
    assert "burgers" in call("problem").output


def test_a_published_set_up_brings_its_own_test_functions(call, folder):
    outcome = call('problem "advection I" --published --samples 7 4 --out published.npz --json')
    assert outcome.code == 0, outcome
    assert json.loads(outcome.output)["functions to test"] == 4
    train, test = load_split(folder / "published.npz")
    assert (len(train), len(test)) == (7, 4)
    assert train.outputs.shape[1] == 1600
    np.testing.assert_array_equal(np.unique(test.query_points[:, 0]), np.arange(40) / 39)


def test_data_are_kept_and_read_again(call, folder):
    line = "problem poisson --samples 3 --resolution 9 --set amplitude=10.5 --out b.npz --cache kept --json"
    first, again = (json.loads(call(line).output) for _ in range(2))
    assert (first["cache"], again["cache"]) == ("made", "read")
    assert first["fingerprint"] == again["fingerprint"] == poisson(3, resolution=9, amplitude=10.5).fingerprint
    assert len(list((folder / "kept").iterdir())) == 1


@pytest.mark.parametrize("picture", ["picture.svg", "picture.html"])
def test_a_picture_is_drawn(call, folder, picture):
    assert call(f"problem pendulum --samples 4 --resolution 16 --out p.npz --plot {picture}").code == 0
    text = (folder / picture).read_text()
    assert "<svg" in text
    assert text.count("<polyline") == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("problem burgers", "expected a file to write"),
        ("problem laplace --out a.npz", "expected a problem among"),
        ("problem kdv --published --out a.npz", "expected a published set-up among"),
        ("problem burgers --set viscosity --out a.npz", "expected parameters as name=value"),
        ("problem burgers --set visc=1 --out a.npz", "expected parameters among samples"),
        ("problem burgers --set viscosity=thick --out a.npz", "expected values like the defaults"),
        ("problem burgers --samples 1 --out a.npz", "expected samples >= 2"),
        ("problem burgers --samples 3 4 --out a.npz", "expected one number of samples"),
        ("problem burgers --published --samples 5 --out a.npz", "expected two numbers"),
        ("problem burgers --published --set viscosity=1 --out a.npz", "expected no parameters"),
        ("problem burgers --published --samples 2 2 --out a.mat", "expected --out FILE.npz"),
        ("problem burgers --out a.npz --plot a.png", "expected a picture"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(refused, line, message):
    assert message in refused(line)
