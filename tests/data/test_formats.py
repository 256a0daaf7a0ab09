"""Datasets through every format: written by us and read back, and written by the format's own library."""

import warnings

import numpy as np
import pytest
import scipy.io

from foretrain import DataError, MissingExtraError, OperatorDataset, load, load_split
from foretrain.data import FileLayout, layout_of, load_parts, open_functions, save_dataset

RNG = np.random.default_rng(0)
N = 20
A, U = RNG.standard_normal((N, 16)), RNG.standard_normal((N, 16))
PLANE, PLANE_TIMES = RNG.standard_normal((N, 4, 5)), RNG.standard_normal((N, 4, 5, 3))
SUFFIXES = ("npz", "h5", "mat", "nc", "zarr", "pt", "csv")


def library(suffix):
    """The library of a format, or the test is skipped."""
    for name in {"h5": ["h5py"], "nc": ["xarray", "h5netcdf"], "zarr": ["zarr"], "pt": ["torch"]}.get(suffix, []):
        pytest.importorskip(name)


@pytest.fixture(params=SUFFIXES)
def saved(request, tmp_path):
    """A dataset at scattered points, and its file."""
    library(request.param)
    data = OperatorDataset(A[:, :6], U[:, :8], RNG.random((6, 1)), RNG.random((8, 2)), "mine", {"viscosity": 0.1})
    path = tmp_path / f"data.{request.param}"
    save_dataset(data, path)
    return data, path


def test_what_is_saved_is_read_back_exactly(saved):
    data, path = saved
    again = load(path)
    assert again.fingerprint == data.fingerprint
    if path.suffix == ".csv":
        assert again.name == "data"
    else:
        assert (again.name, dict(again.description)) == (data.name, dict(data.description))


def test_a_file_is_replaced_and_nothing_is_left_beside_it(saved):
    data, path = saved
    data.take(slice(0, 9)).save(path)
    assert load(path).fingerprint == data.take(slice(0, 9)).fingerprint
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_parts_are_the_same_numbers_as_of_the_whole(saved):
    data, path = saved
    some = load(path, functions=slice(3, 15, 3), points=2)
    np.testing.assert_array_equal(some.inputs, data.inputs[3:15:3, ::2])
    np.testing.assert_array_equal(some.outputs, data.outputs[3:15:3, ::2])
    np.testing.assert_array_equal(some.sensor_points, data.sensor_points[::2])
    np.testing.assert_array_equal(some.query_points, data.query_points[::2])
    np.testing.assert_array_equal(load(path, functions=[7, 2, 5]).inputs, data.inputs[[7, 2, 5]])
    assert load(path, functions=4).fingerprint == data.take(slice(0, 4)).fingerprint
    parts = list(load_parts(path, 6))
    assert [len(part) for part in parts] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate([part.outputs for part in parts]), data.outputs)


def test_a_file_is_divided_as_the_dataset_is(saved):
    data, path = saved
    for ours, theirs in zip(load_split(path, 5, 3), data.split(5, 3), strict=True):
        assert ours.fingerprint == theirs.fingerprint


def test_a_suffix_of_no_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected one of the suffixes .npz, .*, came '.xlsx'"):
        OperatorDataset(A, U).save(tmp_path / "data.xlsx")


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"'h5py'.*foretrain\[data\]"):
        OperatorDataset(A, U).save(tmp_path / "data.h5")


def matlab_73(path, **arrays):
    """What MATLAB writes: a header in a user block, axes the other way round, classes as attributes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values.transpose()).attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def matlab_5(path, **arrays):
    scipy.io.savemat(path, arrays)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_the_fno_files_are_read_by_their_keys(tmp_path, version):
    write, path = {"5": matlab_5, "7.3": matlab_73}[version], tmp_path / "fno.mat"
    write(path, a=A, u=U, a_smooth=A)
    burgers = load(path, functions=8, points=4)
    np.testing.assert_array_equal(burgers.inputs, A[:8, ::4])
    np.testing.assert_array_equal(burgers.outputs, U[:8, ::4])
    np.testing.assert_array_equal(burgers.query_points, np.arange(0, 16, 4)[:, None] / 16)
    write(path, coeff=PLANE, sol=PLANE**2, Kcoeff=PLANE)
    darcy = load(path)
    np.testing.assert_array_equal(darcy.outputs[:, 5 * 2 + 1], PLANE[:, 2, 1] ** 2)
    np.testing.assert_array_equal(darcy.query_points[5 * 2 + 1], [2 / 4, 1 / 5])
    write(path, a=PLANE, u=PLANE_TIMES, t=np.array([[1.0, 2.0, 4.0]]))
    flow = load(path)
    np.testing.assert_array_equal(flow.outputs[:, (5 * 2 + 1) * 3 + 2], PLANE_TIMES[:, 2, 1, 2])
    np.testing.assert_array_equal(flow.query_points[(5 * 2 + 1) * 3 + 2], [2 / 4, 1 / 5, 4.0])


@pytest.mark.parametrize("kind", ["nc4", "nc3", "zarr2", "zarr3", "zarr.zip"])
def test_named_dimensions_are_followed_in_whatever_order_they_come(tmp_path, kind):
    xarray, zarr = pytest.importorskip("xarray"), pytest.importorskip("zarr")
    pytest.importorskip("h5netcdf")
    inputs, outputs = RNG.standard_normal((3, N, 6)), RNG.standard_normal((6, N))
    variables = {"a": (("time", "sample", "lon"), inputs), "u": (("lon", "sample"), outputs)}
    data = xarray.Dataset(variables, coords={"lon": np.linspace(0, 300, 6), "time": [0.0, 1.0, 5.0]})
    path = tmp_path / f"data.{kind.rstrip('234')}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.startswith("nc"):
            data.to_netcdf(path, engine={"nc4": "h5netcdf", "nc3": "scipy"}[kind])
        elif kind == "zarr.zip":
            with zarr.storage.ZipStore(path, mode="w") as store:
                data.to_zarr(store, zarr_format=3)
        else:
            data.to_zarr(path, zarr_format=int(kind[-1]))
    read = load(path)
    np.testing.assert_array_equal(read.outputs, outputs.T)
    np.testing.assert_array_equal(read.inputs, inputs.transpose(1, 2, 0).reshape(N, -1))
    np.testing.assert_array_equal(read.sensor_points[3 * 2 + 1], [120.0, 1.0])
    np.testing.assert_array_equal(read.query_points[:, 0], np.linspace(0, 300, 6))


@pytest.mark.parametrize("zipped", [True, False])
def test_neuraloperator_tensors_are_read_as_x_and_y(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "darcy.pt"
    coefficient = torch.from_numpy(PLANE > 0)
    content = {"x": coefficient, "y": torch.from_numpy(PLANE).to(torch.bfloat16), "note": "ignored"}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    data = load(path, functions=10)
    np.testing.assert_array_equal(data.inputs, (PLANE[:10] > 0).reshape(10, -1))
    np.testing.assert_allclose(data.outputs, PLANE[:10].reshape(10, -1), rtol=2**-8)


def test_columns_of_a_csv_file_are_found_by_name(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("u1,u2,s(0.5 1)\n1,2,3\n4,5,-6e-1\n")
    data = load(path, FileLayout("u", "s", query_points="s_points"))
    np.testing.assert_array_equal(data.inputs, [[1, 2], [4, 5]])
    np.testing.assert_array_equal(data.outputs, [[3], [-0.6]])
    np.testing.assert_array_equal(data.query_points, [[0.5, 1]])


def test_a_file_that_divides_itself_is_divided_that_way_in_other_formats_too(tmp_path):
    path = tmp_path / "data.mat"
    parts = {"train_inputs": A[:15], "train_outputs": U[:15], "test_inputs": A[15:], "test_outputs": U[15:]}
    scipy.io.savemat(path, parts)
    train, test = load_split(path)
    np.testing.assert_array_equal(train.inputs, A[:15])
    np.testing.assert_array_equal(test.outputs, U[15:])
    np.testing.assert_array_equal(load(path).inputs, A)
    assert [len(part) for part in load_split(path, functions=9)] == [9, 5]


def test_times_and_channels_become_coordinates_after_those_in_space(tmp_path):
    values = RNG.standard_normal((5, 2, N, 3))  # time, channel, function, x
    path = tmp_path / "data.npz"
    np.savez(path, forcing=A, state=values, x=[0.0, 0.1, 0.4], time=[0.0, 1.0, 2.0, 3.0, 9.0])
    layout = FileLayout("forcing", "state", output_axes="time channel sample x", output_times=(1, 4))
    data = load(path, layout)
    np.testing.assert_array_equal(data.outputs.reshape(N, 3, 2, 2), values[[1, 4]].transpose(2, 3, 0, 1))
    np.testing.assert_array_equal(data.query_points[-1], [0.4, 9.0, 0.5])
    np.testing.assert_array_equal(data.query_points[1], [0.0, 1.0, 0.5])
    one = load(
        path, FileLayout("forcing", "state", output_axes=layout.output_axes, output_times=-1, output_channels=(1,))
    )
    np.testing.assert_array_equal(one.outputs, values[-1, 1])
    np.testing.assert_array_equal(one.query_points[:, 0], [0.0, 0.1, 0.4])


def test_several_keys_are_channels_and_points_may_be_scattered(tmp_path):
    path, places = tmp_path / "data.npz", RNG.random((16, 2))
    np.savez(path, p=A, q=U, r=A + U, places=places)
    data = load(path, FileLayout(("p", "q"), "r", query_points="places"), points=3)
    np.testing.assert_array_equal(data.inputs[:, 0::2], A[:, ::3])
    np.testing.assert_array_equal(data.inputs[:, 1::2], U[:, ::3])
    np.testing.assert_array_equal(data.query_points, places[::3])


def test_arrays_in_the_order_of_columns_are_read_in_parts(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, inputs=np.asfortranarray(A), outputs=U.astype(">f4"))
    data = load(path, functions=slice(1, None, 7))
    np.testing.assert_array_equal(data.inputs, A[1::7])
    np.testing.assert_array_equal(data.outputs, U[1::7].astype(np.float32))


def test_the_layout_a_file_tells_can_be_changed(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, a=PLANE, u=PLANE_TIMES)
    assert layout_of(path) == FileLayout("a", "u", output_axes="sample x y time")
    np.savez(path, first=A, second=U)
    assert layout_of(path) is None
    with open_functions(path, FileLayout("first", "second"), points=2) as opened:
        assert (len(opened), opened.numbers()) == (N, 16)
        np.testing.assert_array_equal(opened.take([4, 3]).outputs, U[[4, 3], ::2])
