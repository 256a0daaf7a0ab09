"""Files that are damaged, hostile or of another kind than they look: one line, no traceback, nothing executed."""

import contextlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from foretrain import DataError, MemoryBudgetError, OperatorDataset, load
from foretrain.data import FileLayout

RNG = np.random.default_rng(0)
N = 20
A, U = RNG.standard_normal((N, 5)), RNG.standard_normal((N, 5))
LIBRARIES = {"h5": "h5py", "nc": "h5netcdf", "zarr": "zarr", "pt": "torch"}


def refused(path, message, error=DataError, **arguments):
    with pytest.raises(error, match=message) as refusal:
        load(path, **arguments)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["h5", "mat", "nc", "pt", "csv"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    pytest.importorskip(LIBRARIES.get(suffix, "numpy"))
    path = tmp_path / f"data.{suffix}"
    OperatorDataset(A, U).save(path)
    content = path.read_bytes()
    rows = [place for place, byte in enumerate(content) if byte == 10]
    # A CSV file that ends between two numbers' digits is a whole one.
    for size in (0, 1, 8, 100, 600, rows[3] + 40) if suffix == "csv" else (0, 1, 8, 100, 600, len(content) - 5):
        path.write_bytes(content[:size])
        refused(path, "expected")


@pytest.mark.parametrize("suffix", ["h5", "mat", "nc", "pt", "csv", "zarr"])
def test_text_missing_files_and_folders_are_refused(tmp_path, suffix):
    pytest.importorskip(LIBRARIES.get(suffix, "numpy"))
    path = tmp_path / f"data.{suffix}"
    refused(path, "found nothing there; check the path")
    path.write_text("hello world\nthis is text\n")
    refused(path, "came something else|came a damaged one|came 'this is text'")
    path.unlink()
    path.mkdir()
    refused(path, "came a folder")


@pytest.mark.parametrize("suffix", ["h5", "mat", "nc", "pt"])
def test_flipped_bytes_never_end_in_a_traceback(tmp_path, suffix):
    pytest.importorskip(LIBRARIES.get(suffix, "numpy"))
    path = tmp_path / f"data.{suffix}"
    OperatorDataset(A, U).save(path)
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 25):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        with contextlib.suppress(DataError, MemoryBudgetError):
            load(path)


def hdf5(path, **arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values
    return path


def test_nothing_outside_an_hdf5_file_is_opened(tmp_path):
    h5py = pytest.importorskip("h5py")
    hdf5(tmp_path / "other.h5", a=A)
    refused(hdf5(tmp_path / "a.h5", a=h5py.ExternalLink("other.h5", "a"), u=U), r"link to another file \(other.h5\)")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        view = h5py.VirtualLayout(A.shape, "f8")
        view[:] = h5py.VirtualSource(tmp_path / "other.h5", "a", A.shape)
        file.create_virtual_dataset("a", view)
        file["u"] = U
    refused(tmp_path / "b.h5", "'a' in the file, came a view of other files, which is never followed")
    (tmp_path / "raw").write_bytes(A.tobytes())
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("a", A.shape, "f8", external=[(str(tmp_path / "raw"), 0, A.nbytes)])
        file["u"] = U
    refused(tmp_path / "c.h5", "came external storage")
    netcdf = (tmp_path / "a.h5").rename(tmp_path / "a.nc")
    pytest.importorskip("xarray")
    refused(netcdf, "link to another file")


def test_links_that_go_round_or_nowhere_do_no_harm(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(hdf5(tmp_path / "data.h5", a=A, u=U), "a") as file:
        group = file.create_group("group")
        group["again"], group["root"], group["nowhere"] = group, h5py.SoftLink("/"), h5py.SoftLink("/nothing")
    np.testing.assert_array_equal(load(tmp_path / "data.h5").inputs, A)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (A + 0j, "a of type complex128"),
        (np.array([[b"x"] * 5] * N), r"a of type \|S1"),
        (np.zeros((N, 5), [("r", float)]), "a of type"),
        (A[:, :0], "at least one number a function"),
        (A[:0], "20 outputs"),
        (A[:7], "came 7 inputs and 20 outputs"),
        (A[:, 0], "add the missing axis"),
        (np.where(np.arange(5) == 2, np.nan, A), "inputs: expected finite numbers"),
    ],
    ids=["complex", "text", "table", "no sensors", "no functions", "fewer functions", "one axis", "NaN"],
)
def test_arrays_that_are_no_functions_are_refused(tmp_path, values, reason):
    refused(hdf5(tmp_path / "data.h5", a=values, u=U), reason)


def test_keys_that_do_not_tell_are_listed_with_what_to_pass(tmp_path):
    path = hdf5(tmp_path / "data.h5", first=A, **{"group/second": U})
    refused(path, r"came first \[20, 5\] float64, group/second \[20, 5\] float64; name them: .* --inputs KEY")
    refused(path, "expected the key 'third', came the keys first", layout=FileLayout("first", "third"))
    assert len(load(path, FileLayout("first", "group/second"))) == N


def test_layouts_that_do_not_fit_the_file_are_refused(tmp_path):
    path = hdf5(tmp_path / "data.h5", a=A, u=U)
    refused(path, "expected 2 axes for a", layout=FileLayout("a", "u", input_axes="sample x y"))
    refused(path, "came 5 inputs and 20 outputs", layout=FileLayout("a", "u", input_axes="x sample"))
    timed = FileLayout("a", "u", output_axes="sample time", output_times=5)
    refused(path, "times of u: expected numbers between 0 and 4, came 5", layout=timed)
    refused(path, "channels of inputs", layout=FileLayout("a", "u", input_channels=(1,)))
    refused(path, "points of the inputs: expected coordinates of 5", layout=FileLayout("a", "u", sensor_points="u"))
    refused(path, "expected between 2 and 20 functions", functions=21)
    refused(path, "a step of at least 1 along each of 1 axes", points=0)
    for axes in ("x y", "sample sample x", "sample time t"):
        with pytest.raises(DataError, match=r"expected (exactly one axis called sample|at most one axis for time)"):
            FileLayout("a", "u", input_axes=axes)


def test_shapes_larger_than_the_memory_are_refused_before_anything_is_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        for key in ("a", "u"):
            file.create_dataset(key, (10**9, 10**5), "f8", chunks=(1, 1000))
            file.create_dataset(f"wide_{key}", (10**5, 10**13), "f8", chunks=(1, 1000))
            file.create_dataset(f"packed_{key}", (10**6, 4000), "f8", chunks=(10**5, 4000))
    refused(tmp_path / "bomb.h5", "came a need of", MemoryBudgetError)
    refused(tmp_path / "bomb.h5", "the axes of", MemoryBudgetError, layout=FileLayout("wide_a", "wide_u"))
    packed = FileLayout("packed_a", "packed_u")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foretrain._foundation._memory.available_bytes", lambda: 2 * 10**9)
        refused(tmp_path / "bomb.h5", "reading 2 functions", MemoryBudgetError, layout=packed, functions=2)


def test_a_zarr_store_cannot_bring_pickled_objects(tmp_path):
    zarr = pytest.importorskip("zarr")
    store, sprung = tmp_path / "data.zarr", tmp_path / "sprung"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for key, values in (("inputs", A), ("outputs", U)):
        array = group.create_array(key, shape=A.shape, chunks=A.shape, dtype="f8", compressors=None, filters=None)
        array[:] = values
    assert len(load(store)) == N
    described = json.loads((store / "inputs/.zarray").read_text())
    (store / "inputs/0.0").write_bytes(pickle.dumps(Trap(sprung)))
    for dtype in ("<f8", "|O"):
        text = json.dumps({**described, "dtype": dtype, "filters": [{"id": "pickle", "protocol": 5}]})
        (store / "inputs/.zarray").write_text(text)
        refused(store, "pickle")
    assert not sprung.exists()


def test_a_damaged_zarr_store_is_refused(tmp_path):
    pytest.importorskip("zarr")
    store = tmp_path / "data.zarr"
    OperatorDataset(A, U).save(store)
    chunk = next(item for item in (store / "outputs/c").rglob("*") if item.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    refused(store, "damaged")
    described = store / "inputs/zarr.json"
    described.write_text(described.read_text()[:60])
    refused(store, "damaged")


def test_torch_files_hold_tensors_or_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    sprung, path = tmp_path / "sprung", tmp_path / "data.pt"
    for content in (Trap(sprung), {"x": Trap(sprung), "y": torch.ones(3)}, torch.nn.Linear(2, 2)):
        torch.save(content, path)
        refused(path, "expected tensors only, came other objects .* never loaded")
    path.write_bytes(pickle.dumps(Trap(sprung)))
    refused(path, "expected tensors only")
    assert not sprung.exists()
    for content in (torch.ones(3, 4), [torch.ones(3, 4)], {}):
        torch.save(content, path)
        refused(path, "expected a dict of tensors, came (Tensor|list|dict)")
    torch.save({"x": torch.ones(1).expand(10**6, 10**7), "y": torch.ones(1).expand(10**6, 10**7)}, path)
    refused(path, "came a need of", MemoryBudgetError)
    torch.save({"x": torch.ones(9), "y": torch.ones(9)}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in archive.infolist():
            packed.writestr(member.filename, archive.read(member))
    refused(tmp_path / "b.pt", "an archive that torch did not write")


@pytest.mark.parametrize(
    "values",
    [np.array([1, "x"], dtype=object), {"field": 1}, A * 1j, scipy.sparse.eye(N)],
    ids=["cells", "structure", "complex", "sparse"],
)
def test_what_matlab_holds_beside_numbers_is_refused(tmp_path, values):
    scipy.io.savemat(tmp_path / "data.mat", {"a": values, "u": U})
    refused(tmp_path / "data.mat", "expected real numbers, came a of type")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("inputs_1,outputs_1\n1,two\n", "came 'two' in row 2, column 2 .outputs_1.; replace"),
        ("inputs_1,outputs_1\n1,2\n3\n", "expected 2 numbers in each row, came 1 in row 3"),
        ("1,2\n3,4\n", "a first row of names .* came '1' in column 1"),
        ("inputs_1;outputs_1\n1;2\n", "a first row of names"),
        ("inputs(0),inputs(1 2),outputs(0)\n1,2,3\n4,5,6\n", "points of one dimension"),
        ("inputs(a),outputs(0)\n1,2\n", "numbers in brackets, came 'inputs.a.'"),
        ("\n\n", "came an empty file"),
        ("inputs_1,outputs_1\n1,nan\n2,3\n", "expected finite"),
        ("inputs_1,outputs_1\n1,\0\n", "expected numbers"),
    ],
)
def test_csv_files_that_are_no_table_of_numbers_are_refused(tmp_path, text, reason):
    (tmp_path / "data.csv").write_text(text)
    refused(tmp_path / "data.csv", reason)


def test_a_large_dataset_is_not_written_as_csv(tmp_path):
    wide = np.random.default_rng(0).standard_normal((2, 2_100_000))
    with pytest.raises(DataError, match=r"expected a small dataset for CSV, .* save it as .npz or .h5"):
        OperatorDataset(wide, wide).save(tmp_path / "data.csv")


def test_dimensions_without_one_for_the_functions_are_named(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    variables = {"a": (("case", "x"), A), "u": (("case", "x"), U)}
    xarray.Dataset(variables).to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    refused(tmp_path / "data.nc", "exactly one axis called sample, .* came 'case x'")
    named = FileLayout("a", "u", input_axes="sample x", output_axes="sample x")
    np.testing.assert_array_equal(load(tmp_path / "data.nc", named).outputs, U)
