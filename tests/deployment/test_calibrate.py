from dataclasses import replace

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, CompressedModel
from foretrain.compression._budget import Candidate
from foretrain.data import mean_relative_error
from foretrain.deployment import OnnxPackager, Runtime
from foretrain.deployment._calibrate import calibrated, set_aside, trust_in_chosen
from foretrain.deployment._formats import formats_beside, write_formats
from foretrain.problems import burgers

EXPORT = OnnxPackager(latency_repeats=3)


@pytest.fixture(scope="module")
def learn():
    return burgers(samples=300, resolution=64, viscosity=0.05, time_steps=40)


@pytest.fixture(scope="module")
def test():
    return burgers(samples=160, resolution=64, viscosity=0.05, key=12, time_steps=40)


@pytest.fixture(scope="module")
def front(fitted, learn, test):
    """The component network in two number formats, half precision to be shipped."""
    rows = []
    for number_format in ("float32", "float16"):
        made = EXPORT(fitted["component"], number_format, learn.inputs)
        error = mean_relative_error(made.predict(test.inputs), test.outputs)
        rows.append(Candidate("small", number_format, made.numbers, made.bytes, 1e-5, error, 0.0, "", package=made))
    rows[1] = replace(rows[1], chosen=True)
    return CompressedModel(Budget(), tuple(rows), ())


def within(front, **limits):
    return replace(front, budget=Budget(**limits))


def test_functions_that_calibrate_are_none_of_those_that_choose(test):
    judge, calibration = set_aside(test, key=3)
    assert len(judge) == len(calibration) == 80
    rows = {row.tobytes() for row in test.inputs}
    chosen_by, calibrated_by = ({row.tobytes() for row in part.inputs} for part in (judge, calibration))
    assert not chosen_by & calibrated_by
    assert chosen_by | calibrated_by == rows
    few = test.take(np.arange(20))
    assert set_aside(few) == (few, None)


def test_a_band_from_explicit_arrays_covers_what_the_shipped_file_gets_wrong(front, learn, test):
    made = calibrated(front.chosen.package, learn.inputs, test.inputs[:99], test.outputs[:99], coverage=0.9)
    band, score = made.runtime.band, made.runtime.out_of_range
    residuals = np.abs(made.predict(test.inputs[:99]) - test.outputs[:99])
    ranked = np.sort(residuals, axis=0)[89]
    assert np.all(band.half_width >= ranked)
    np.testing.assert_allclose(band.half_width, ranked, rtol=1e-3)
    assert score.flags(test.inputs).mean() < 0.06
    assert score.flags(3 * test.inputs).mean() > 0.9


def test_the_chosen_file_gets_trust_and_its_row_says_what_it_weighs_now(front, learn, test):
    small, line = trust_in_chosen(front, learn.inputs, test)
    chosen = small.chosen
    assert chosen.package.runtime.band.functions == 160
    assert chosen.package.runtime.out_of_range.directions.shape[1] == 8
    assert (chosen.numbers, chosen.bytes) == (chosen.package.numbers, len(chosen.package.file))
    assert small.candidates[0] is front.candidates[0]
    added = chosen.bytes - front.chosen.bytes
    assert "a 90 % band from 160 functions" in line
    assert f"{added:,} bytes, {chosen.numbers - front.chosen.numbers:,} numbers" in line


@pytest.mark.parametrize(("room", "components"), [(540, 4), (280, 1), (150, None), (100, "no band"), (0, "no band")])
def test_trust_takes_no_more_room_than_the_budget_has(front, learn, test, room, components):
    limited = within(front, numbers=front.chosen.numbers + room)
    small, line = trust_in_chosen(limited, learn.inputs, test)
    assert small.chosen.numbers <= limited.budget.numbers
    runtime = small.chosen.package.runtime
    if components in (None, "no band"):
        assert runtime.out_of_range is None
        assert "no room in the budget for" in line
    else:
        assert runtime.out_of_range.directions.shape[1] == components
        assert "no room" not in line
    assert (runtime.band is None) == (components == "no band")


def test_what_too_few_functions_cannot_give_is_said(front, learn, test):
    small, line = trust_in_chosen(front, learn.inputs, None)
    assert small.chosen.package.runtime.band is None
    assert small.chosen.package.runtime.out_of_range is not None
    assert "no band (too few test functions, at least 30)" in line
    small, line = trust_in_chosen(front, learn.inputs[:104], test)
    assert small.chosen.package.runtime.out_of_range.quantile == pytest.approx(39 / 40)
    assert "flags inputs beyond 97.5 % of those learnt" in line
    small, line = trust_in_chosen(front, learn.inputs[:40], test)
    assert small.chosen.package.runtime.band is not None
    assert small.chosen.package.runtime.out_of_range is None
    assert "no out-of-range score (a share of 0.95 needs at least 19 functions" in line
    with pytest.raises(ForetrainError, match="needs at least 9 functions"):
        calibrated(front.chosen.package, learn.inputs, test.inputs[:10], test.outputs[:10])


def test_nothing_chosen_stays_nothing(front, learn, test):
    rows = tuple(replace(row, chosen=False) for row in front.candidates)
    nothing = replace(front, candidates=rows)
    assert trust_in_chosen(nothing, learn.inputs, test) == (nothing, "trust: nothing was chosen to be shipped")


def test_formats_lie_beside_the_model_under_their_names(front, tmp_path):
    model = front.export(tmp_path / "model.onnx")
    assert formats_beside(model) == {}
    written = write_formats(front, model)
    assert {name: path.name for name, path in written.items()} == {
        "float32": "model.float32.onnx",
        "float16": "model.float16.onnx",
    }
    assert formats_beside(model) == written
    for name, path in written.items():
        assert Runtime(path).metadata["number_format"] == name
