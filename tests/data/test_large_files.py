"""Files larger than what is read of them: memory holds what was asked for and one block."""

import tracemalloc

import numpy as np
import pytest

from foretrain import load
from foretrain.data import FileLayout, survey

h5py = pytest.importorskip("h5py")
FUNCTIONS, POINTS, EVERY = 400_000, 512, 4_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3.3 GB of arrays, of which every 4,000th pair of functions is written: 1 MB on the disk."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    values = np.random.default_rng(0).standard_normal((FUNCTIONS // EVERY, POINTS))
    with h5py.File(path, "w") as file:
        for key, power in (("inputs", 1), ("outputs", 2)):
            array = file.create_dataset(key, (FUNCTIONS, POINTS), np.float64, chunks=(1, POINTS))
            for row, numbers in enumerate(values**power):
                array[row * EVERY] = numbers
    return path, values


def test_functions_are_picked_out_of_a_file_without_reading_the_rest(large):
    path, values = large
    tracemalloc.start()
    data = load(path, functions=slice(0, None, EVERY), points=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(data.inputs, values[:, ::4])
    np.testing.assert_array_equal(data.outputs, values[:, ::4] ** 2)
    held = 2 * FUNCTIONS * POINTS * 8
    assert path.stat().st_size < 2e6
    assert peak < 20e6 < held / 100


def test_a_file_larger_than_the_memory_is_read_in_part(large, monkeypatch):
    monkeypatch.setattr("foretrain._foundation._memory.available_bytes", lambda: 10**9)
    with pytest.raises(MemoryError, match=r"came a need of 10\.\d GB; read fewer functions"):
        load(large[0])
    assert len(load(large[0], functions=slice(0, 40_001, EVERY))) == 11


def test_blocks_join_to_the_whole_array(tmp_path, monkeypatch):
    monkeypatch.setattr("foretrain.data._side.BLOCK_BYTES", 1000)
    values = np.random.default_rng(1).standard_normal((57, 7, 9))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(5, 7, 3), compression="gzip")
        file.create_dataset("u", data=values.transpose(2, 1, 0))
    layout = FileLayout("a", "u", output_axes="y x sample")
    data = load(tmp_path / "data.h5", layout, points=(2, 3))
    np.testing.assert_array_equal(data.inputs, values[:, ::2, ::3].reshape(57, -1))
    with pytest.raises(ValueError, match="along each"):
        load(tmp_path / "data.h5", layout, points=(2,))
    rows = [50, 3, 4, 5, 1]
    swapped = load(tmp_path / "data.h5", layout, functions=rows, points=(1, 1))
    np.testing.assert_array_equal(swapped.outputs, values[rows].transpose(0, 2, 1).reshape(5, -1))


def test_a_survey_of_a_large_file_reads_the_first_functions(tmp_path, monkeypatch):
    monkeypatch.setattr("foretrain.data._survey.MOST_NUMBERS", 1000)
    monkeypatch.setattr("foretrain.data._survey.LEAST_FUNCTIONS", 10)
    values = np.random.default_rng(1).standard_normal((300, 8))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["a"], file["u"] = values, values**2
    found = survey(tmp_path / "data.h5")
    assert (found.functions, len(found.data), found.inputs) == (300, 62, "a (sample 300, x 8)")
    np.testing.assert_array_equal(found.data.outputs, values[:62] ** 2)
