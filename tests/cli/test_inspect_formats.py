"""foretrain inspect on every format, with its flags for layouts, its picture and its words."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from foretrain import OperatorDataset, load
from foretrain.cli._hardness import baselines
from foretrain.data import power_spectrum

POINTS = np.arange(32) / 32
RNG = np.random.default_rng(0)


@pytest.fixture
def waves():
    """Forty periodic functions with power ~ k^-4, and their squares."""
    numbers = np.arange(17)
    coefficients = RNG.standard_normal((40, 17)) + 1j * RNG.standard_normal((40, 17))
    inputs = np.fft.irfft(coefficients * (numbers > 0) / np.maximum(numbers, 1) ** 2, n=32, axis=1)
    return OperatorDataset(inputs, inputs**2, POINTS, POINTS, name="waves")


def facts_of(call, line):
    outcome = call(f"inspect --json {line}")
    assert outcome.code == 0, outcome
    return json.loads(outcome.output)


@pytest.mark.parametrize("suffix", ["npz", "h5", "mat", "nc", "zarr", "pt", "csv"])
def test_every_format_tells_the_same_facts(call, folder, waves, suffix):
    for name in {"h5": ["h5py"], "nc": ["xarray", "h5netcdf"], "zarr": ["zarr"], "pt": ["torch"]}.get(suffix, []):
        pytest.importorskip(name)
    waves.save(f"data.{suffix}")
    facts = facts_of(call, f"data.{suffix}")
    assert facts["fingerprint"] == waves.fingerprint
    assert (facts["functions"], facts["functions read"], facts["periodic"]) == (40, 40, True)
    assert "[40, 32]" in " ".join(facts["arrays"].values())
    assert facts["sensor places"] == [[0.0, 31 / 32]]


def test_keys_axes_times_and_points_are_chosen_by_flags(call, folder):
    inputs, states = RNG.standard_normal((30, 16)), RNG.standard_normal((5, 30, 16, 2))
    np.savez("data.npz", forcing=inputs, state=states)
    facts = facts_of(
        call,
        "data.npz --inputs forcing --outputs state --output-axes 'time sample x channel' --output-times 1:5:2 "
        "--output-channels 1 --functions 5:25 --points 4",
    )
    assert (facts["functions"], facts["functions read"], facts["sensors"], facts["query grid"]) == (30, 20, 4, [4, 2])
    chosen = states[[1, 3], 5:25, ::4, 1]
    assert facts["output range"] == [chosen.min(), chosen.max()]
    assert facts["read as outputs"] == "state (time 5, sample 30, x 16, channel 2), 2 of 5 times from 1"
    assert facts["query places"] == [[0.0, 0.75], [0.2, 0.6]]


def test_a_flag_changes_only_what_it_names_of_a_known_layout(call, folder):
    plane = RNG.standard_normal((20, 4, 5, 3))
    scipy.io.savemat("fno.mat", {"a": plane[..., 0], "u": plane})
    assert facts_of(call, "fno.mat")["query grid"] == [4, 5, 3]
    facts = facts_of(call, "fno.mat --output-times -1")
    assert facts["query grid"] == [4, 5]
    assert facts["output range"] == [plane[..., -1].min(), plane[..., -1].max()]


def test_keys_that_do_not_tell_are_answered_with_what_to_pass(folder, refused, said):
    np.savez("data.npz", forcing=np.eye(4), state=np.eye(4))
    said(refused("inspect data.npz"), "the keys forcing, state; rename .* --inputs KEY --outputs KEY")
    said(refused("inspect data.npz --inputs forcing"), "came forcing .* --outputs KEY|--inputs KEY --outputs KEY")
    said(
        refused("inspect data.npz --inputs forcing --outputs force"), "expected the key 'force', came the keys forcing"
    )
    for flag, reason in (
        ("--output-times soon", "a range like 0:50:5 .* came 'soon'"),
        ("--input-channels 1:2", "expected channel numbers, came '1:2'"),
        ("--functions 1,2", "write 1000 or 100:200"),
        ("--points 2:3", "write 4 or 4,2"),
    ):
        said(refused(f"inspect data.npz --inputs forcing --outputs state {flag}"), reason)


def test_the_spectrum_falls_as_the_functions_were_drawn(call, folder, waves):
    waves.save("data.npz")
    spectrum = facts_of(call, "data.npz")["input spectrum"]
    assert spectrum["decay"] == pytest.approx(4, abs=0.6)
    assert spectrum["power"][0] == 1.0
    # A straight line is no periodic function; cosines know it as smooth all the same: (2 m + 1)^-4 for odd modes.
    lines = RNG.standard_normal((10, 1)) * POINTS
    assert power_spectrum(lines, (32,), periodic=False).decay > 3
    assert power_spectrum(lines, (32,), periodic=True).decay < 2.5
    noise = RNG.standard_normal((400, 16, 16))
    assert power_spectrum(noise.reshape(400, -1), (16, 16), periodic=True).decay == pytest.approx(0, abs=0.1)


def test_hardness_is_what_a_kernel_reaches_on_functions_held_out():
    inputs = RNG.uniform(-1, 1, (120, 2))
    easy = baselines(OperatorDataset(inputs, np.sin(inputs)))
    assert easy.kernel < 0.01 < easy.linear
    assert easy.hardness.startswith("easy")
    hard = baselines(OperatorDataset(inputs, RNG.standard_normal((120, 2))))
    assert hard.kernel > 0.5
    assert hard.hardness.startswith("very hard")
    assert baselines(OperatorDataset(inputs[:6], inputs[:6] ** 2)).hardness == "too few functions to tell"


def test_the_picture_draws_the_functions(call, folder, waves, small_plane):
    waves.save("line.npz")
    assert call("inspect line.npz --plot line.svg").code == 0
    drawing = ElementTree.parse("line.svg")
    curves = drawing.findall(".//{http://www.w3.org/2000/svg}polyline")
    heights = np.array([float(pair.split(",")[1]) for pair in curves[0].attrib["points"].split()])
    low, high = waves.inputs.min(), waves.inputs.max()
    np.testing.assert_allclose(heights, 180 * (high - waves.inputs[0]) / (high - low), atol=0.06)
    assert len(curves) == 6
    small_plane.save("plane.npz")
    assert call("inspect plane.npz --plot plane.html").code == 0
    assert Path("plane.html").read_text().count("data:image/png;base64,") == 6


def test_a_picture_of_another_kind_is_refused(call, folder, waves):
    waves.save("data.npz")
    outcome = call("inspect data.npz --plot data.png")
    assert outcome.code == 2
    assert "expected the suffix .svg or .html, came '.png'" in outcome.errors
    assert not Path("data.png").exists()


def test_the_terminal_shows_the_first_functions(call, folder, small_plane):
    small_plane.save("plane.npz")
    output = call("inspect plane.npz").output
    assert "first input" in output
    assert any(shade in output for shade in "░▒▓█")
    assert load("plane.npz").name in output
