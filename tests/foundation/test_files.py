import json

import numpy as np
import pytest

from foretrain._foundation import write_atomically, write_json


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_a_file_is_written_whole_and_nothing_else_stays(tmp_path):
    path = write_atomically(tmp_path / "deep" / "er" / "file", lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["file"]


def test_a_failure_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_file_is_absent_until_it_is_whole(tmp_path):
    path = tmp_path / "file"
    seen = []

    def watch(file):
        file.write(b"half")
        file.flush()
        seen.append(path.exists())
        file.write(b" and half")

    write_atomically(path, watch)
    assert seen == [False]
    assert path.read_bytes() == b"half and half"


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", lambda file: file.write(b"x"))
    assert names(tmp_path) == ["folder"]


def test_json_holds_plain_values_that_every_parser_reads(tmp_path):
    value = {
        "array": np.array([[1.0, np.nan], [np.inf, -0.5]]),
        "number": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "pair": (1, -np.inf),
        "nothing": None,
        3: "number as key",
        "text": 'quotes " and ümlaut',
    }
    path = write_json(tmp_path / "value.json", value)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "array": [[1.0, None], [None, -0.5]],
        "number": 0.5,
        "count": 3,
        "flag": True,
        "pair": [1, None],
        "nothing": None,
        "3": "number as key",
        "text": 'quotes " and ümlaut',
    }
    assert path.read_bytes().endswith(b"}\n")


def test_what_json_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"function": print})
    assert names(tmp_path) == []
