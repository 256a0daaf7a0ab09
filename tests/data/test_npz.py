import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from foretrain._foundation import DataError, MemoryBudgetError
from foretrain.data import OperatorDataset, load, load_split, read_npz, save_dataset

INPUTS = np.random.default_rng(0).standard_normal((40, 6))
OUTPUTS = np.cumsum(INPUTS, axis=1)
DIVIDED = {
    "train_inputs": INPUTS[:30],
    "train_outputs": OUTPUTS[:30],
    "test_inputs": INPUTS[30:],
    "test_outputs": OUTPUTS[30:],
}


def written(folder, **arrays):
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def archive(folder, **members):
    """An npz file whose members are the given bytes."""
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def header_of(shape):
    """The beginning of an npy file that promises an array of that shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def refused(path, message, error=DataError):
    with pytest.raises(error, match=message) as refusal:
        load(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_plain_file_is_read_as_it_is(tmp_path):
    points = np.linspace(2.0, 3.0, 6)
    data = load(written(tmp_path, inputs=INPUTS, outputs=OUTPUTS, query_points=points, note=np.array("kept apart")))
    np.testing.assert_array_equal(data.inputs, INPUTS)
    np.testing.assert_array_equal(data.outputs, OUTPUTS)
    np.testing.assert_array_equal(data.query_points, points[:, None])
    np.testing.assert_array_equal(data.sensor_points, np.arange(6)[:, None] / 6)
    assert data.name == "data"


def test_single_precision_and_whole_numbers_are_read_exactly(tmp_path):
    data = load(written(tmp_path, inputs=INPUTS.astype(np.float32), outputs=np.arange(240).reshape(40, 6)))
    np.testing.assert_array_equal(data.inputs, INPUTS.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(data.outputs[3], [18, 19, 20, 21, 22, 23])


def test_a_grid_in_two_dimensions_is_flattened_row_by_row(tmp_path):
    inputs = np.random.default_rng(1).standard_normal((5, 3, 4))
    data = load(written(tmp_path, inputs=inputs, outputs=inputs.transpose(0, 2, 1)))
    np.testing.assert_array_equal(data.inputs[:, 4 * 2 + 1], inputs[:, 2, 1])
    np.testing.assert_array_equal(data.outputs[:, 3 * 2 + 1], inputs[:, 1, 2])
    np.testing.assert_array_equal(data.query_points[3 * 2 + 1], [2 / 4, 1 / 3])


def test_a_file_that_divides_itself_is_divided_that_way(tmp_path):
    path = written(tmp_path, **DIVIDED, query_points=np.arange(6.0))
    for key in (0, 1):
        train, test = load_split(path, key=key)
        np.testing.assert_array_equal(train.inputs, INPUTS[:30])
        np.testing.assert_array_equal(test.outputs, OUTPUTS[30:])
        np.testing.assert_array_equal(test.query_points, np.arange(6.0)[:, None])
    whole = load(path)
    np.testing.assert_array_equal(whole.inputs, INPUTS)
    np.testing.assert_array_equal(whole.outputs, OUTPUTS)
    np.testing.assert_array_equal(whole.query_points, np.arange(6.0)[:, None])


def test_a_file_that_divides_itself_takes_no_other_number_of_test_functions(tmp_path):
    path = written(tmp_path, **DIVIDED)
    assert [len(part) for part in load_split(path, test=10)] == [30, 10]
    assert [len(part) for part in load_split(path, test=0.25)] == [30, 10]
    with pytest.raises(DataError, match="brings 10 of its own, came 12"):
        load_split(path, test=12)


def test_test_functions_that_are_learnt_from_are_refused(tmp_path):
    changed = DIVIDED | {"test_inputs": np.vstack([INPUTS[30:38], INPUTS[4:6]])}
    refused(written(tmp_path, **changed), "came 2 test_inputs that are also train_inputs, the first in row 8")


def test_parts_measured_at_other_points_are_refused(tmp_path):
    changed = DIVIDED | {"test_inputs": INPUTS[30:, :5]}
    refused(written(tmp_path, **changed), "same sensor_points in both parts, came 6 for training and 5 for testing")
    changed = DIVIDED | {"train_query_points": np.arange(6), "test_query_points": np.arange(6) + 1}
    refused(written(tmp_path, **changed), "same query_points in both parts")


def test_an_undivided_file_is_divided_by_number_and_key(tmp_path):
    path = written(tmp_path, inputs=INPUTS, outputs=OUTPUTS)
    assert [len(part) for part in load_split(path)] == [34, 6]
    for ours, theirs in zip(load_split(path, 7, 3), OperatorDataset(INPUTS, OUTPUTS).split(7, 3), strict=True):
        assert ours.fingerprint == theirs.fingerprint


def test_saved_files_are_plain_arrays(tmp_path):
    path = save_dataset(OperatorDataset(INPUTS, OUTPUTS), tmp_path / "deep" / "data.npz")
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"inputs", "outputs", "sensor_points", "query_points", "label"}
    assert [item.name for item in path.parent.iterdir()] == ["data.npz"]


def test_a_label_that_is_not_ours_is_ignored(tmp_path):
    for label in ("[1, 2]", "{", '{"name": 3, "description": 5}', '{"description": {}}'):
        assert load(written(tmp_path, inputs=INPUTS, outputs=OUTPUTS, label=np.array(label))).name == "data"


def test_a_missing_key_is_answered_with_the_keys_that_are_there(tmp_path):
    refused(written(tmp_path, u=INPUTS, s=OUTPUTS), "expected the key 'inputs', came the keys s, u; rename")
    refused(written(tmp_path, inputs=INPUTS, targets=OUTPUTS), "the key 'outputs', came the keys inputs, targets")
    refused(written(tmp_path, train_inputs=INPUTS, train_outputs=OUTPUTS), "expected the key 'test_inputs'")
    refused(written(tmp_path), "expected the key 'inputs', came the keys none")


def test_a_bad_array_is_named_with_its_file_and_part(tmp_path):
    bad = OUTPUTS[30:].copy()
    bad[1, 2] = np.nan
    refused(written(tmp_path, **DIVIDED | {"test_outputs": bad}), "test_outputs: expected finite .* row 1, column 2")


def test_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path):
    refused(tmp_path / "nothing.npz", "found nothing there")
    refused(tmp_path, "came a folder")
    empty = tmp_path / "empty.npz"
    empty.touch()
    refused(empty, "came an empty file")
    refused(tmp_path / ("x" * 300), "cannot")


def test_a_file_without_permission_to_read_says_so(tmp_path, monkeypatch):
    path = written(tmp_path, inputs=INPUTS, outputs=OUTPUTS)

    def forbid(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    refused(path, "cannot .Permission denied.; check the path and its permissions")


def test_what_is_not_an_npz_file_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    path.write_text("inputs, outputs\n1, 2\n")
    refused(path, "something else; write it with numpy.savez")
    np.save(tmp_path / "data.npy", INPUTS)
    refused(tmp_path / "data.npy", "something else")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    refused(path, "expected the key 'inputs', came the keys readme.txt")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, inputs=INPUTS, outputs=OUTPUTS)
    content = path.read_bytes()
    for size in (1, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:size])
        refused(path, "expected (an npz|a readable npz) file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_never_become_other_numbers_or_a_traceback(tmp_path, save):
    path = tmp_path / "data.npz"
    save(path, inputs=INPUTS, outputs=OUTPUTS)
    content, whole = path.read_bytes(), load(path)
    damaged = 0
    for place in np.random.default_rng(0).integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            # A flipped time stamp in the archive's directory harms nothing.
            assert load(path).fingerprint == whole.fingerprint
        except DataError:
            damaged += 1
    assert damaged > 100


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"\x93NUMPY\x01\x00", "damaged"),
        (b"\x93NUMPY\x09\x00\x10\x00{}", "damaged"),
        (b"\x93NUMPY\x01\x00\x0b\x00{'a': ((((\n", "damaged"),
        (header_of((3, 4)) + b"too short", "damaged"),
        (header_of((-3,)), "damaged"),
        (header_of((10**30,)), "damaged"),
        (header_of((10**7, 10**7)), "fit into memory"),
    ],
)
def test_a_damaged_array_inside_a_whole_archive_is_refused(tmp_path, content, reason):
    refused(archive(tmp_path, inputs=content, outputs=content), reason)


def test_encrypted_and_unknown_compression_are_refused(tmp_path):
    path = written(tmp_path, inputs=INPUTS, outputs=OUTPUTS)
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    for place, value in ((8, 1), (10, 99)):
        changed = bytearray(content)
        changed[entry + place] = value
        path.write_bytes(changed)
        refused(path, "damaged")


def test_arrays_larger_than_the_memory_are_refused_before_they_are_unpacked(tmp_path):
    path = written(tmp_path, inputs=INPUTS, outputs=OUTPUTS)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foretrain._foundation._memory.available_bytes", lambda: 10**9)
        refused(path, r"expected at most 1 GB of memory .* came a need of 8.59 GB", MemoryBudgetError)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_objects_are_never_loaded(tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    refused(written(tmp_path, inputs=trap, outputs=OUTPUTS), "pickled objects in inputs, which could run code")
    refused(written(tmp_path, inputs=INPUTS, outputs=OUTPUTS, note=trap), "pickled objects in note")
    disguised = archive(tmp_path, inputs=pickle.dumps(Trap(sprung)), outputs=b"")
    with pytest.raises(DataError):
        load(disguised)
    assert not sprung.exists()
    with np.load(written(tmp_path, inputs=trap), allow_pickle=True) as file:
        assert file["inputs"].shape == (1,)
    assert sprung.exists(), "the trap itself does not work"


def test_all_arrays_are_read_by_name(tmp_path):
    arrays = read_npz(written(tmp_path, first=INPUTS, second=np.array("text")))
    assert set(arrays) == {"first", "second"}
    np.testing.assert_array_equal(arrays["first"], INPUTS)
