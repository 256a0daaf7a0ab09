from dataclasses import replace

import numpy as np
import onnx
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.deployment import ConformalBand, OnnxPackager, OutOfRange, Runtime, stored_numbers
from foretrain.deployment._card import model_card_markdown
from foretrain.deployment._package import with_trust
from foretrain.problems import burgers

EXPORT = OnnxPackager(latency_repeats=3)


@pytest.fixture(scope="module")
def more():
    """Fresh functions of the same problem, to calibrate and to judge by."""
    return burgers(samples=600, resolution=64, viscosity=0.05, key=11, time_steps=40)


@pytest.fixture(scope="module")
def plain(line, fitted):
    return EXPORT(fitted["component"], "float32", line.inputs)


@pytest.fixture(scope="module")
def trusted(plain, more):
    band = ConformalBand.fit(plain.predict(more.inputs[:99]) - more.outputs[:99], 0.9)
    return with_trust(plain, band, OutOfRange.fit(more.inputs[:300]))


def test_the_score_read_back_is_the_same_to_the_last_bit(trusted, more):
    fitted = OutOfRange.fit(more.inputs[:300])
    restored = Runtime(trusted.file).out_of_range
    assert {**vars(restored)}.keys() == {**vars(fitted)}.keys()
    for name, value in vars(fitted).items():
        np.testing.assert_array_equal(getattr(restored, name), value)
    np.testing.assert_array_equal(restored.score(more.inputs), fitted.score(more.inputs))


def test_the_band_read_back_is_as_wide_and_at_most_a_thousandth_wider(trusted, plain, more):
    fitted = ConformalBand.fit(plain.predict(more.inputs[:99]) - more.outputs[:99], 0.9)
    restored = Runtime(trusted.file).band
    assert (restored.coverage, restored.functions) == (0.9, 99)
    for name in ("half_width", "simultaneous_half_width"):
        ratio = getattr(restored, name) / getattr(fitted, name)
        assert 1 <= ratio.min() <= ratio.max() < 1.001


def test_widths_of_nothing_and_widths_far_apart_are_never_rounded_down(plain):
    for widths in (np.zeros(64), np.logspace(-12, 3, 64), np.logspace(200, 203, 64)):
        restored = with_trust(plain, ConformalBand(0.9, 50, widths, widths)).runtime.band
        assert np.all(restored.half_width >= widths)
        assert np.all(restored.half_width <= 1.001 * widths + 1e-11 * widths.max())


def test_trust_is_counted_in_bytes_and_numbers(trusted, plain):
    score = trusted.runtime.out_of_range
    arrays = sum(array.size for array in vars(score).values() if isinstance(array, np.ndarray))
    assert trusted.numbers == plain.numbers + (2 * 64 + 2) + (arrays + 3)
    assert trusted.numbers == stored_numbers(trusted.file)
    assert trusted.bytes == len(trusted.file)
    # Two bytes for each width and direction, four for each other value, a third more as text, and names.
    stored = 2 * (2 * 64 + score.directions.size) + 4 * (arrays - score.directions.size)
    assert trusted.bytes - plain.bytes < 4 / 3 * stored + 1200


def test_answers_and_card_are_as_before(trusted, plain, more):
    np.testing.assert_array_equal(trusted.predict(more.inputs), plain.predict(more.inputs))
    before, after = plain.runtime.metadata, trusted.runtime.metadata
    assert {key: after[key] for key in before if key != "fingerprint"} == {
        key: value for key, value in before.items() if key != "fingerprint"
    }
    page = model_card_markdown(after)
    assert "covers 90 % of new functions, from 99 calibrating ones" in page
    assert "beyond the 99 % of training inputs" in page
    assert len(page) < 3000
    raw = {entry.key: entry.value for entry in onnx.load_model_from_string(trusted.file).metadata_props}
    assert model_card_markdown(raw) == page
    onnx.checker.check_model(onnx.load_model_from_string(trusted.file), full_check=True)


def test_a_file_without_trust_has_none(plain):
    assert plain.runtime.band is None
    assert plain.runtime.out_of_range is None


def test_new_trust_replaces_the_old(trusted, plain):
    band = ConformalBand(0.8, 30, np.ones(64), np.ones(64))
    again = with_trust(trusted, band)
    assert again.runtime.band.coverage == 0.8
    assert again.runtime.out_of_range is None
    assert with_trust(again).file == plain.file


def test_trust_of_another_model_is_refused(plain):
    with pytest.raises(DataError, match="expected half widths at 64 query points, came 5"):
        with_trust(plain, ConformalBand(0.9, 50, np.ones(5), np.ones(5)))
    score = OutOfRange.fit(np.random.default_rng(0).standard_normal((300, 7)))
    with pytest.raises(DataError, match="out-of-range score: expected 64 sensors, came 7"):
        with_trust(plain, out_of_range=score)


def test_exported_bands_cover_fresh_functions_within_two_points_over_twenty_splits(plain, more):
    covered = {False: [], True: []}
    for split in range(20):
        order = np.random.default_rng(split).permutation(600)
        calibration, fresh = order[:199], order[199:]
        answers = plain.predict(more.inputs)
        band = with_trust(plain, ConformalBand.fit((answers - more.outputs)[calibration], 0.9)).runtime.band
        for simultaneous, shares in covered.items():
            lower, upper = band.around(answers[fresh], simultaneous)
            inside = (lower <= more.outputs[fresh]) & (more.outputs[fresh] <= upper)
            shares.append(np.mean(inside.all(axis=1) if simultaneous else inside))
    for shares in covered.values():
        assert abs(np.mean(shares) - 0.9) < 0.02


def test_files_of_two_differences_are_read_and_other_counts_of_energies_are_refused(plain, more):
    fitted = OutOfRange.fit(more.inputs[:300])
    older = replace(fitted, centre=fitted.centre[:4], spread=fitted.spread[:4])
    restored = with_trust(plain, out_of_range=older).runtime.out_of_range
    np.testing.assert_array_equal(restored.score(more.inputs), older.score(more.inputs))
    for centre, spread in ((1, 1), (4, 5), (66, 66)):
        broken = replace(fitted, centre=np.ones(centre), spread=np.ones(spread))
        with pytest.raises(ForetrainError, match="expected a record of trust under 'out_of_range'"):
            _ = with_trust(plain, out_of_range=broken).runtime.out_of_range
