"""Networks as StableHLO: read back they answer like the network, at any batch size; damaged files are refused."""

import re

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain._foundation import DataError, ForetrainError
from foretrain.compression import Budget, CompressedModel
from foretrain.compression._budget import Candidate
from foretrain.deployment import read_stablehlo, write_stablehlo
from foretrain.deployment._stablehlo import _sealed
from foretrain.models import FilteredFourierOperator

KINDS = ("filtered Fourier", "filtered Fourier, odd", "Fourier", "component")


@pytest.fixture(scope="module")
def networks(line, fitted):
    """One of every kind of student, outer layers random or fitted."""

    def filtered(reflection):
        operator = FilteredFourierOperator(24, modes=10, output_modes=7, reflection=reflection)
        network = operator.initialise(line, jax.random.key(0))
        readout = jax.random.normal(jax.random.key(1), network.readout.shape)
        return eqx.tree_at(lambda net: net.readout, network, readout)

    students = (filtered(0), filtered(-1), fitted["fourier"], fitted["component"])
    return dict(zip(KINDS, students, strict=True))


@pytest.fixture(scope="module")
def file(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "model.stablehlo"
    return write_stablehlo(networks["component"], path).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_it_answers_like_the_network_at_every_batch_size(kind, networks, line, tmp_path):
    network = networks[kind]
    path = write_stablehlo(network, tmp_path / "model.stablehlo")
    model = read_stablehlo(path)
    assert (model.sensors, model.points) == (64, 64)
    for batch in (1, 7, 60):
        own = np.asarray(network(line.inputs[:batch]), np.float64)
        answers = np.asarray(model(line.inputs[:batch]))
        assert answers.dtype == np.float32
        assert np.linalg.norm(answers - own) <= 1e-6 * np.linalg.norm(own)


def test_a_student_on_a_plane_with_other_activations(plane, component, tmp_path):
    for activation in ("gelu", "erf", "softplus"):
        network = component(plane, activation)
        model = read_stablehlo(write_stablehlo(network, tmp_path / "model.stablehlo"))
        own = np.asarray(network(plane.inputs), np.float64)
        assert np.linalg.norm(np.asarray(model(plane.inputs)) - own) <= 1e-6 * np.linalg.norm(own)


def test_jax_alone_reads_the_file_and_it_may_stand_inside_jit(file, networks, line):
    exported = jax.export.deserialize(bytearray(file))
    inputs = np.asarray(line.inputs[:3], np.float32)
    own = np.asarray(networks["component"](inputs))
    np.testing.assert_allclose(exported.call(inputs), own, rtol=0, atol=1e-6 * np.abs(own).max())
    sums = jax.jit(lambda values: read_stablehlo(file)(values).sum(axis=1))(inputs)
    np.testing.assert_allclose(sums, own.sum(axis=1), rtol=1e-4, atol=1e-4)


def test_the_program_is_for_processors_and_gpus_with_whole_digits_and_a_free_batch(file):
    exported = read_stablehlo(file).exported
    assert exported.platforms == ("cpu", "cuda")
    assert str(exported.in_avals[0].shape[0]) == str(exported.out_avals[0].shape[0]) == "batch"
    program = exported.mlir_module()
    products = re.findall(r"stablehlo\.dot_general .*", program)
    assert len(products) >= 4
    # Anything less lets a GPU round the factors to 10 bits.
    assert all("precision = [HIGHEST, HIGHEST]" in product for product in products)
    assert set(re.findall(r"custom_call @(\w+)", program)) <= {"shape_assertion"}


def test_no_path_of_this_machine_is_in_the_file(file):
    assert b".py" not in file
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_the_same_network_gives_the_same_bytes(file, networks, tmp_path):
    assert write_stablehlo(networks["component"], tmp_path / "again").read_bytes() == file


def test_a_compressed_model_writes_the_network_it_chose(networks, file, tmp_path):
    chosen = Candidate("a", "int8", 1, 1, 1e-6, 0.01, 0.0, "", chosen=True, network=networks["component"])
    other = Candidate("b", "float32", 1, 1, 1e-6, 0.02, 0.0, "", network=networks["Fourier"])
    small = CompressedModel(Budget(), (other, chosen), ())
    assert write_stablehlo(small, tmp_path / "model").read_bytes() == file
    with pytest.raises(ForetrainError, match="nothing keeps the budget"):
        write_stablehlo(CompressedModel(Budget(), (other,), ()), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_network_needs_the_length_of_its_inputs(tmp_path):
    perceptron = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))

    class Rows(eqx.Module):
        inner: eqx.nn.MLP

        def __call__(self, inputs):
            return jax.vmap(self.inner)(inputs)

    with pytest.raises(ForetrainError, match="expected a network that tells how many sensors it has, came Rows"):
        write_stablehlo(Rows(perceptron), tmp_path / "model")
    inputs = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    model = read_stablehlo(write_stablehlo(Rows(perceptron), tmp_path / "model", sensors=3))
    np.testing.assert_allclose(model(inputs), Rows(perceptron)(inputs), rtol=1e-5, atol=1e-6)


def test_inputs_of_another_length_are_refused(file):
    model = read_stablehlo(file)
    for wrong in (np.zeros((2, 63)), np.zeros(64), np.zeros((0, 64))):
        with pytest.raises(DataError, match=r"inputs: expected values at 64 sensors, .* came an array of shape"):
            model(wrong)


def refused(content, message="fingerprint"):
    with pytest.raises(ForetrainError, match=r"^these bytes: expected StableHLO") as caught:
        read_stablehlo(content)
    line = str(caught.value)
    assert message in line
    assert "\n" not in line
    assert len(line) < 200


@settings(max_examples=100, deadline=None, derandomize=True)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_noticed(file, position, bit):
    changed = bytearray(file)
    changed[int(position * len(file))] ^= 1 << bit
    refused(bytes(changed))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(share=st.floats(0, 1, exclude_max=True), more=st.binary(min_size=1, max_size=100))
def test_a_file_cut_or_lengthened_anywhere_is_refused(file, share, more):
    refused(file[: int(share * len(file))])
    refused(file + more)


def test_a_sealed_file_that_is_no_stablehlo_is_refused(file):
    for content in (b"", b"some text", bytes(1000), file[: len(file) // 2], bytes(range(256)) * 8):
        refused(_sealed(content), f"that JAX {jax.__version__} can read")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ForetrainError, match=r"gone: expected a StableHLO file, came none .*No such file"):
        read_stablehlo(tmp_path / "gone")
