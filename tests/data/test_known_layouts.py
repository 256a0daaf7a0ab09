"""PDEBench and The Well: files in their documented layouts, written by h5py."""

import numpy as np
import pytest

from foretrain import load
from foretrain.data import FileLayout

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)
N, TIMES = 12, 3


def written(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key.replace("_coordinate", "-coordinate")] = values
    return path


def test_a_pdebench_tensor_goes_from_the_first_to_the_last_time(tmp_path):
    tensor, x = RNG.standard_normal((N, 5, 8)).astype(np.float32), np.linspace(0, 1, 8) ** 2
    path = written(tmp_path / "1D.hdf5", tensor=tensor, x_coordinate=x, t_coordinate=np.arange(6) / 5)
    data = load(path)
    np.testing.assert_array_equal(data.inputs, tensor[:, 0])
    np.testing.assert_array_equal(data.outputs, tensor[:, -1])
    np.testing.assert_array_equal(data.query_points[:, 0], x)
    trajectory = load(path, FileLayout("tensor", "tensor", output_times=slice(1, None, 2)), points=2)
    np.testing.assert_array_equal(trajectory.outputs, tensor[:, 1::2, ::2].transpose(0, 2, 1).reshape(N, -1))
    np.testing.assert_allclose(trajectory.query_points[1], [0.0, 3 / 5])


def test_pdebench_darcy_goes_from_the_coefficient_to_the_solution(tmp_path):
    nu, tensor = RNG.random((N, 4, 5)), RNG.random((N, 1, 4, 5))
    grid = {"x_coordinate": np.arange(4) / 4 + 1 / 8, "y_coordinate": np.arange(5) / 5 + 0.1, "t_coordinate": [0.0]}
    data = load(written(tmp_path / "darcy.hdf5", nu=nu, tensor=tensor, **grid))
    np.testing.assert_array_equal(data.inputs, nu.reshape(N, -1))
    np.testing.assert_array_equal(data.outputs, tensor.reshape(N, -1))
    np.testing.assert_allclose(data.query_points[6], [3 / 8, 0.3])


def test_fields_of_pdebench_fluids_are_channels_in_its_order(tmp_path):
    fields = {key: RNG.standard_normal((N, TIMES, 4, 5)) for key in ("Vx", "Vy", "density", "pressure")}
    grid = {"x_coordinate": np.arange(4.0), "y_coordinate": np.arange(5.0), "t_coordinate": np.arange(4.0)}
    path = written(tmp_path / "2D_CFD.hdf5", **fields, **grid)
    data = load(path)
    for channel, key in enumerate(("density", "pressure", "Vx", "Vy")):
        np.testing.assert_array_equal(data.inputs[:, channel::4], fields[key][:, 0].reshape(N, -1))
        np.testing.assert_array_equal(data.outputs[:, channel::4], fields[key][:, -1].reshape(N, -1))
    np.testing.assert_array_equal(data.query_points[4 * (5 * 2 + 3) + 1], [2.0, 3.0, 1 / 4])
    one = load(path, FileLayout(("Vx", "Vy"), "pressure", input_times=0, output_times=1))
    np.testing.assert_array_equal(one.inputs[:, 1::2], fields["Vy"][:, 0].reshape(N, -1))
    np.testing.assert_array_equal(one.outputs, fields["pressure"][:, 1].reshape(N, -1))


def test_numbered_groups_of_pdebench_are_one_array(tmp_path):
    values = RNG.standard_normal((N, TIMES, 4, 5, 2))
    with h5py.File(tmp_path / "2D_rdb.h5", "w") as file:
        for number in range(N):
            group = file.create_group(f"{number:04d}")
            group["data"] = values[number]
            for axis, size in (("x", 4), ("y", 5), ("t", TIMES)):
                group[f"grid/{axis}"] = np.arange(size) + 0.5
    data = load(tmp_path / "2D_rdb.h5", functions=slice(1, None, 3))
    np.testing.assert_array_equal(data.inputs, values[1::3, 0].reshape(4, -1))
    np.testing.assert_array_equal(data.outputs, values[1::3, -1].reshape(4, -1))
    np.testing.assert_array_equal(data.query_points[-1], [3.5, 4.5, 0.5])


@pytest.fixture
def well(tmp_path):
    """A file in The Well's layout: scalar, vector and tensor fields, and some that do not vary in all they could."""
    fields = {
        "t0_fields/pressure": (RNG.standard_normal((N, TIMES, 4, 5)), True, True, [True, True]),
        "t0_fields/medium": (RNG.standard_normal((N, 4, 5)), True, False, [True, True]),
        "t0_fields/wall": (RNG.standard_normal((4, 5)), False, False, [True, True]),
        "t0_fields/height": (RNG.standard_normal((N, TIMES, 4)), True, True, [True, False]),
        "t1_fields/velocity": (RNG.standard_normal((N, TIMES, 4, 5, 2)), True, True, [True, True]),
        "t2_fields/stress": (RNG.standard_normal((N, TIMES, 4, 5, 2, 2)), True, True, [True, True]),
    }
    with h5py.File(tmp_path / "well.hdf5", "w") as file:
        file.attrs.update(dataset_name="example", grid_type="cartesian", n_spatial_dims=2, n_trajectories=N)
        file.create_group("dimensions").attrs["spatial_dims"] = ["x", "y"]
        for axis, values in (("x", np.arange(4) / 4), ("y", np.arange(5) / 5), ("time", 10.0 + np.arange(TIMES))):
            file[f"dimensions/{axis}"] = values
        file["scalars/viscosity"] = 0.1
        file["boundary_conditions/x_periodic/mask"] = np.ones(4, bool)
        for key, (values, by_sample, by_time, by_axis) in fields.items():
            file[key] = values
            file[key].attrs.update(sample_varying=by_sample, time_varying=by_time, dim_varying=by_axis)
    return tmp_path / "well.hdf5", {key: values for key, (values, *_) in fields.items()}


def test_the_well_goes_from_the_first_to_the_last_time_of_what_varies(well):
    path, fields = well
    data = load(path)
    moving = [fields[f"{key}"][:, [0, -1]] for key in ("t0_fields/pressure", "t1_fields/velocity", "t2_fields/stress")]
    moving = np.concatenate([values.reshape(N, 2, 4, 5, -1) for values in moving], axis=-1)
    np.testing.assert_array_equal(data.outputs, moving[:, 1].reshape(N, -1))
    inputs = np.concatenate([fields["t0_fields/medium"][..., None], moving[:, 0]], axis=-1)
    np.testing.assert_array_equal(data.inputs, inputs.reshape(N, -1))
    np.testing.assert_allclose(data.query_points[-1], [3 / 4, 4 / 5, 6 / 7])


def test_fields_of_the_well_are_chosen_by_name(well):
    path, fields = well
    layout = FileLayout(
        "t1_fields/velocity", "t0_fields/height", input_times=0, output_times=(1, 2), input_channels=(1,)
    )
    data = load(path, layout)
    np.testing.assert_array_equal(data.inputs, fields["t1_fields/velocity"][:, 0, ..., 1].reshape(N, -1))
    np.testing.assert_array_equal(data.outputs, fields["t0_fields/height"][:, 1:].transpose(0, 2, 1).reshape(N, -1))
    np.testing.assert_allclose(data.query_points[:2], [[0, 11], [0, 12]])
