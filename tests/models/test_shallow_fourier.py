import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import ShallowFourierOperator
from foretrain.models._shallow_fourier import half_space_modes

SHAPES = {"line": (32,), "plane": (6, 8)}
WIDTH, MODES = 9, 5


@pytest.fixture
def case(request, small_burgers, small_plane):
    """Data and the shape of its grid."""
    return {"line": small_burgers, "plane": small_plane}[request.param], SHAPES[request.param]


both_grids = pytest.mark.parametrize("case", SHAPES, indirect=True)


def drawn(data, reflection=0, **arguments):
    """A network whose readout and linear part are not zero."""
    operator = ShallowFourierOperator(WIDTH, MODES, reflection=reflection, **arguments)
    network = operator.initialise(data, jax.random.key(1))
    rng = np.random.default_rng(2)
    outer = [jnp.asarray(rng.standard_normal(size)) for size in (WIDTH, network.linear.size)]
    return eqx.tree_at(lambda net: (net.readout, net.linear), network, outer)


def filtered(functions, weights, scale, wave_numbers):
    """Functions convolved with a real filter, by fast transforms: Re sum_k s_k (f_k - i g_k) u_k e^(2 pi i k y)."""
    axes = tuple(range(1, functions.ndim))
    coefficients = np.fft.fftn(functions, axes=axes, norm="forward")
    spectrum = np.zeros_like(coefficients)
    count = len(wave_numbers)
    for index, wave_number in enumerate(wave_numbers):
        place = (slice(None), *wave_number)
        spectrum[place] = scale[index] * (weights[index] - 1j * weights[count + index]) * coefficients[place]
    return np.fft.ifftn(spectrum, axes=axes, norm="forward").real


def by_transforms(network, data, shape, sigma=np.tanh):
    """The equation of the docstring with one fast transform for each filter, in double precision."""
    wave_numbers = half_space_modes(len(shape), [min(MODES, (size - 1) // 2) for size in shape])
    filters, biases, readout, linear, scale = (
        np.asarray(array, np.float64)
        for array in (network.filters, network.biases, network.readout, network.linear, network.feature_scale)
    )

    def once(functions):
        total = filtered(functions, linear, scale, wave_numbers)
        for r in range(len(readout)):
            total = total + readout[r] * sigma(filtered(functions, filters[:, r], scale, wave_numbers) + biases[r])
        return total

    functions = data.inputs.reshape(-1, *shape)
    total = once(functions)
    if network.reflection:
        total = total + network.reflection * mirrored(once(network.reflection * mirrored(functions)))
    return (total * network.scale.scale + network.scale.offset).reshape(len(data), -1)


def mirrored(functions):
    """u(-x) on the periodic grid."""
    for axis in range(1, functions.ndim):
        functions = np.roll(np.flip(functions, axis), 1, axis)
    return functions


@both_grids
@pytest.mark.parametrize("reflection", [0, 1, -1])
def test_the_network_is_a_filter_a_nonlinearity_and_a_readout(case, reflection, double):
    data, shape = case
    network = drawn(data, reflection)
    expected = by_transforms(network, data, shape)
    # Tables are kept in single precision.
    np.testing.assert_allclose(network(data.inputs), expected, atol=2e-6 * np.abs(expected).max())


@both_grids
def test_translations_commute_with_the_network(case):
    data, shape = case
    network = drawn(data)
    functions = data.inputs.reshape(-1, *shape)
    outputs = np.asarray(network(data.inputs)).reshape(-1, *shape)
    for shifts in ((3,), (7,)) if len(shape) == 1 else ((1, 0), (0, 3), (2, 5)):
        axes = tuple(range(1, len(shape) + 1))
        moved = network(np.roll(functions, shifts, axes).reshape(len(data), -1))
        expected = np.roll(outputs, shifts, axes).reshape(len(data), -1)
        np.testing.assert_allclose(moved, expected, atol=1e-5 * np.abs(outputs).max())


@both_grids
@pytest.mark.parametrize("sign", [1, -1])
def test_a_reflection_asked_for_commutes_with_the_network_and_otherwise_not(case, sign):
    data, shape = case
    functions = data.inputs.reshape(-1, *shape)
    turned = (sign * mirrored(functions)).reshape(len(data), -1)
    for reflection, commutes in ((sign, True), (0, False), (-sign, False)):
        network = drawn(data, reflection)
        outputs = np.asarray(network(data.inputs)).reshape(-1, *shape)
        expected = sign * mirrored(outputs).reshape(len(data), -1)
        close = np.allclose(network(turned), expected, atol=1e-5 * np.abs(outputs).max())
        assert close == commutes


def test_an_odd_network_has_no_offset_even_if_the_sample_has_one(small_burgers):
    data = small_burgers
    shifted = OperatorDataset(data.inputs, data.outputs + 0.3, data.sensor_points, data.query_points)
    network = drawn(shifted, reflection=-1)
    np.testing.assert_allclose(network(0 * data.inputs), 0.0, atol=1e-5)
    np.testing.assert_allclose(network(-mirrored(data.inputs)), -mirrored(np.asarray(network(data.inputs))), atol=1e-5)


@both_grids
@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_features_have_the_mean_square_asked_for(case, whitening):
    data, _ = case
    network = drawn(data, input_norm=1.7, whitening=whitening)
    features = np.asarray(network.features(data.inputs), np.float64)
    assert np.mean(np.sum(features**2, axis=-1)) == pytest.approx(1.7**2, rel=1e-4)


def test_without_whitening_every_mode_gets_the_same_power_and_with_it_its_own(small_burgers):
    coefficients = np.fft.rfft(small_burgers.inputs, axis=1, norm="forward")[:, :6]
    own = np.mean(np.abs(coefficients) ** 2, axis=0)[1:]
    for whitening, expected in ((1.0, own), (0.5, np.sqrt(own)), (0.0, np.ones(5))):
        features = np.asarray(drawn(small_burgers, whitening=whitening).features(small_burgers.inputs), np.float64)
        power = np.mean(features**2, axis=(0, 1)).reshape(2, -1).sum(axis=0)[1:]
        np.testing.assert_allclose(power / power.sum(), expected / expected.sum(), rtol=1e-4)


def test_the_drawn_network_answers_with_the_mean_until_it_is_trained(small_plane):
    network = ShallowFourierOperator(8, 3).initialise(small_plane, jax.random.key(0))
    np.testing.assert_allclose(network(small_plane.inputs), small_plane.outputs.mean(), rtol=1e-6)


def test_the_same_key_gives_the_same_filters(small_plane):
    first, again, other = (
        ShallowFourierOperator(8, 3).initialise(small_plane, jax.random.key(seed)).filters for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    assert first.dtype == jnp.float32


@pytest.mark.parametrize("largest", [[4], [2, 3], [1, 2, 1], [0, 2]])
def test_the_half_space_holds_one_of_every_pair_of_opposite_modes(largest):
    kept = {tuple(map(int, mode)) for mode in half_space_modes(len(largest), largest)}
    everything = set(np.ndindex(*[2 * limit + 1 for limit in largest]))
    everything = {tuple(index - limit for index, limit in zip(mode, largest, strict=True)) for mode in everything}
    opposite = {tuple(-k for k in mode) for mode in kept}
    assert kept | opposite == everything
    assert kept & opposite == {(0,) * len(largest)}


def test_points_that_are_no_common_grid_are_refused(small_burgers):
    data = small_burgers
    grid = data.query_points
    for sensors, queries in ((grid**2, grid**2), (grid, grid + 0.5)):
        elsewhere = OperatorDataset(data.inputs, data.outputs, sensors, queries)
        with pytest.raises(DataError, match="one regular grid"):
            ShallowFourierOperator(4).initialise(elsewhere, jax.random.key(0))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"modes": 0}, {"reflection": 2}, {"activation": "none"}])
def test_impossible_models_are_refused(arguments):
    with pytest.raises(ForetrainError, match="expected"):
        ShallowFourierOperator(**{"width": 4} | arguments)
