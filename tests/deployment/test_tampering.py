"""Damaged copies of model files: every one is refused, in one line, and nothing is printed or answered."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain._foundation import ForetrainError
from foretrain.deployment import ConformalBand, OnnxPackager, OutOfRange, Runtime
from foretrain.deployment._fingerprint import require_untouched, sealed
from foretrain.deployment._package import with_trust

EXPORT = OnnxPackager(latency_repeats=3)


@pytest.fixture(scope="module")
def file(line, fitted):
    package = EXPORT(fitted["component"], "float16", line.inputs)
    score = OutOfRange.fit(np.random.default_rng(0).standard_normal((300, 64)))
    return with_trust(package, ConformalBand(0.9, 50, np.ones(64), np.ones(64)), score).file


def refused(content):
    with pytest.raises(ForetrainError, match=r"^these bytes: expected an ONNX model") as caught:
        Runtime(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@settings(max_examples=100, deadline=None, derandomize=True)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_noticed(file, position, bit):
    changed = bytearray(file)
    changed[int(position * len(file))] ^= 1 << bit
    refused(bytes(changed))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(file, share):
    refused(file[: int(share * len(file))])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(start=st.floats(0, 1, exclude_max=True), length=st.integers(1, 500))
def test_bytes_missing_from_the_middle_are_noticed(file, start, length):
    first = int(start * len(file))
    refused(file[:first] + file[first + length :])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(more=st.binary(min_size=1, max_size=200))
def test_bytes_added_at_the_end_are_refused(file, more):
    refused(file + more)


def test_every_bit_of_the_fingerprint_itself_counts(file):
    for position in range(len(file) - 90, len(file)):
        for bit in range(8):
            changed = bytearray(file)
            changed[position] ^= 1 << bit
            refused(bytes(changed))


def test_every_cut_within_the_metadata_is_noticed(file):
    # Where the cut falls between two entries, what is left is a whole ONNX model: only the fingerprint tells.
    whole = onnx.load_model_from_string(file[: file.rindex(b"\n\x0bfingerprint") - 2])
    assert len(whole.metadata_props) > 5
    for cut in range(1, 2000):
        refused(file[:-cut])


def test_a_changed_weight_is_noticed_after_a_clean_rewrite(file):
    model = onnx.load_model_from_string(file)
    assert model.SerializeToString() == file
    tensor = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    refused(model.SerializeToString())
    # Sealing is no signature: who means to change a file can seal it again.
    assert Runtime(sealed(model.SerializeToString())).sensors == 64


def test_files_of_other_exporters_have_no_fingerprint_and_are_taken(file):
    model = onnx.load_model_from_string(file)
    model.producer_name = "another"
    del model.metadata_props[:]
    runtime = Runtime(model.SerializeToString())
    assert runtime.band is None
    require_untouched(b"", "nothing")


def test_a_record_of_trust_that_is_none_is_refused(file):
    model = onnx.load_model_from_string(file)
    for broken in ("{", "[1]", '{"half_width": {"values": "AA"}}', '{"coverage": 0.9}'):
        for key in ("conformal_band", "out_of_range"):
            onnx.helper.set_model_props(model, {key: broken})
            runtime = Runtime(sealed(model.SerializeToString()))
            with pytest.raises(ForetrainError, match="metadata: expected a record of trust"):
                _ = runtime.band if key == "conformal_band" else runtime.out_of_range
