"""Kernels of stacks of Fourier layers against finite networks drawn and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, double_precision
from foretrain.tangent import FourierKernel, FourierSettings, activation

FUNCTIONS = 2

CASES = {
    "erf, all trained": ((6,), FourierSettings("erf", 1.5, 1.0, 0.5, 0.5, True, depth=2), 40, 80),
    "relu, all trained, two dimensions": ((4, 3), FourierSettings("relu", 1.0, 2.0, 0.5, 0.4, True, depth=2), 40, 80),
    "erf, place, all trained": ((6,), FourierSettings("erf", 1.5, 1.0, 0.5, 0.5, True, depth=2, place=0.8), 40, 80),
    "relu, place, two dimensions": ((4, 3), FourierSettings("relu", 1.0, 2.0, 0.5, 0.4, place=0.8), 40, 80),
    "erf, three layers": ((5,), FourierSettings("erf", 1.5, 1.0, 0.5, 0.5, True, depth=3), 64, 80),
    "matern, readout trained, octaves": (
        (8,),
        FourierSettings("matern52", 1.0, 1.0, 0.5, 0.3, depth=2, octave_factors=(0.1, 1.0, 3.0, 2.0)),
        100,
        80,
    ),
}


class Networks:
    """Finite networks G(u)(y) = m^{-1/2} sum_r a_r sigma(h_L^r(y)) whose infinite limit the kernel claims to be."""

    def __init__(self, kernel, inputs, width):
        self.kernel, self.inputs, self.width = kernel, inputs, width
        self.sigma = activation(kernel.settings.activation)
        whole = [np.fft.fftfreq(size, 1 / size) for size in kernel.grid_shape]
        squared = sum(axis**2 for axis in np.meshgrid(*whole, indexing="ij"))
        self.prior = (1 + squared / kernel.settings.mode_scale**2) ** -kernel.settings.decay
        for octave, factor in enumerate(kernel.settings.octave_factors):
            self.prior[(squared >= (4.0 ** (octave - 1) if octave else 0)) & (squared < 4.0**octave)] *= factor

    def draw(self, key):
        """White filters, biases and readout; frozen scales and phases."""
        keys = iter(jax.random.split(key, 32))
        filters, biases, frozen = [], [], []
        fan_in = 1
        for _ in range(self.kernel.settings.depth):
            filters.append(jax.random.normal(next(keys), (self.width, fan_in, *self.kernel.grid_shape)))
            # One bias, and a cosine and a sine along each axis.
            biases.append(jax.random.normal(next(keys), (self.width, 1 + 2 * len(self.kernel.grid_shape))))
            scales = self.sigma.draw_scales(next(keys), self.width)
            frozen.append((scales, self.sigma.draw_phases(next(keys), self.width)))
            fan_in = self.width
        return (filters, biases, jax.random.normal(next(keys), (self.width,))), frozen

    def features(self, filters, biases, frozen):
        """[functions, neurons, *grid]."""
        dimension = len(self.kernel.grid_shape)
        grid, axes = (None,) * dimension, tuple(range(-dimension, 0))
        values = jnp.asarray(self.inputs).reshape(-1, 1, *self.kernel.grid_shape)
        for number, (white, bias, (scales, phases)) in enumerate(zip(filters, biases, frozen, strict=True)):
            scale = self.kernel.deeper_scales[number - 1] if number else self.kernel.factor**2
            # The transform of white noise on n points has variance n at every frequency.
            coloured = jnp.fft.fftn(white, axes=axes) * np.sqrt(scale * self.prior / self.prior.size / white.shape[1])
            spectrum = jnp.einsum("rq...,fq...->fr...", coloured, jnp.fft.fftn(values, axes=axes))
            own = jnp.tensordot(bias, self.places(), 1)
            before = jnp.fft.ifftn(spectrum, axes=axes).real + own
            values = self.sigma.function(scales[(..., *grid)] * before + phases[(..., *grid)])
        return values

    def places(self):
        """What biases are multiplied with: bias, and place / sqrt(d) times a wave along each axis."""
        settings, shape = self.kernel.settings, self.kernel.grid_shape
        angles = 2 * np.pi * np.stack(np.meshgrid(*[np.arange(size) / size for size in shape], indexing="ij"))
        moving = settings.place / np.sqrt(len(shape)) * np.concatenate([np.cos(angles), np.sin(angles)])
        return np.concatenate([settings.bias * np.ones((1, *shape)), moving])

    def kernel_of_one(self, key):
        parameters, frozen = self.draw(key)
        features = self.features(*parameters[:2], frozen)
        flat = jnp.moveaxis(features, 1, -1).reshape(-1, self.width)
        total = flat @ flat.T / self.width
        if not self.kernel.settings.train_filters:
            return total

        def outputs(filters, biases):
            return jnp.einsum("r,fr...->f...", parameters[2], self.features(filters, biases, frozen)).ravel()

        slopes = jax.jacrev(outputs, argnums=(0, 1))(*parameters[:2])
        for slope in jax.tree.leaves(slopes):
            flat = slope.reshape(len(total), -1)
            total += flat @ flat.T / self.width
        return total

    @double_precision
    def kernels(self, count):
        """kappa_ij(s) of drawn networks, averaged over the points: [networks, functions, functions, shifts]."""
        draw = jax.jit(self.kernel_of_one)
        dense = np.stack([draw(key) for key in jax.random.split(jax.random.key(0), count)])
        shape, points = self.kernel.grid_shape, self.prior.size
        blocks = dense.reshape(count, FUNCTIONS, points, FUNCTIONS, points).transpose(0, 1, 3, 2, 4)
        index, rows = np.indices(shape).reshape(len(shape), -1), []
        for shift in index.T:
            moved = np.ravel_multi_index(tuple(((index.T + shift) % shape).T), shape)
            rows.append(blocks[..., moved, np.arange(points)].mean(axis=-1))
        return np.stack(rows, axis=-1)


@pytest.mark.parametrize(("grid_shape", "settings", "width", "count"), CASES.values(), ids=CASES.keys())
def test_kernels_are_those_of_drawn_networks(grid_shape, settings, width, count):
    inputs = np.random.default_rng(0).normal(size=(FUNCTIONS, int(np.prod(grid_shape))))
    kernel = FourierKernel.for_inputs(settings, inputs, grid_shape)
    functions = kernel.filter(inputs)
    spectra = kernel.blocks(functions, functions).reshape(*grid_shape[:-1], -1, FUNCTIONS, FUNCTIONS)
    spectra = np.moveaxis(spectra, (-2, -1), (0, 1))
    claimed = np.fft.irfftn(spectra, s=grid_shape, axes=tuple(range(2, spectra.ndim))).reshape(FUNCTIONS, FUNCTIONS, -1)
    drawn = Networks(kernel, inputs, width).kernels(count)
    error = drawn.std(axis=0) / np.sqrt(count)
    assert error.max() < 0.05 * claimed.max(), "too few networks to tell"
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - claimed), 4 * error + 0.5 * claimed.max() / width)


@pytest.mark.parametrize("settings", [case[1] for case in CASES.values()], ids=CASES.keys())
def test_every_layer_keeps_the_size_of_the_signal(settings):
    inputs = np.random.default_rng(0).normal(size=(7, 12))
    functions = FourierKernel.for_inputs(settings, inputs, (12,)).filter(inputs)
    assert len(functions.deeper_variances) == settings.depth - 1
    for variances in (functions.variances, *functions.deeper_variances):
        assert np.mean(variances) - settings.bias_variance == pytest.approx(settings.input_norm**2, rel=1e-12)


def test_layers_of_white_filters_are_those_of_a_perceptron():
    # A constant function and filters of all waves alike: every layer sees one number, as a perceptron's does.
    settings = FourierSettings("erf", 1.0, 1.0, 0.0, 0.3, True, depth=3)
    inputs = np.outer([1.0, -0.5, 2.0], np.ones(8))
    kernel = FourierKernel.for_inputs(settings, inputs, (8,))
    functions = kernel.filter(inputs)
    sigma = activation("erf")
    with jax.enable_x64(True):
        c = kernel.factor**2 * np.outer(inputs[:, 0], inputs[:, 0]) + 0.09
        value, slope = sigma.duals(np.diagonal(c)[:, None], np.diagonal(c)[None], c)
        tangent = c * slope
        for scale in kernel.deeper_scales:
            c = np.asarray(scale * value + 0.09)
            value, slope = sigma.duals(np.diagonal(c)[:, None], np.diagonal(c)[None], c)
            tangent = (c + scale * tangent) * slope
    blocks = kernel.blocks(functions, functions)
    np.testing.assert_allclose(blocks[0].real, 8 * np.asarray(value + tangent), rtol=1e-12)
    np.testing.assert_allclose(blocks[1:], 0, atol=1e-12)


def test_a_function_and_itself_have_the_kernel_of_the_variances_carried_along():
    settings = FourierSettings("matern52", 1.0, 1.0, 0.5, 0.2, depth=3)
    inputs = np.random.default_rng(0).normal(size=(4, 15))
    kernel = FourierKernel.for_inputs(settings, inputs, (15,))
    functions = kernel.filter(inputs)
    np.testing.assert_allclose(kernel.pairwise(functions, functions)[:, 0], 1.0, rtol=0, atol=1e-15)


def test_factors_of_one_change_nothing_and_the_last_one_goes_on():
    inputs = np.random.default_rng(0).normal(size=(3, 32))
    plain = FourierSettings("matern52")

    def blocks(**changes):
        kernel = FourierKernel.for_inputs(FourierSettings("matern52", **changes), inputs, (32,))
        return kernel.blocks(kernel.filter(inputs), kernel.filter(inputs))

    assert FourierSettings("matern52", octave_factors=()) == plain
    np.testing.assert_array_equal(blocks(octave_factors=(1.0,)), blocks())
    np.testing.assert_array_equal(blocks(octave_factors=(1.0, 0.5)), blocks(octave_factors=(1.0, 0.5, 0.5, 0.5)))


def test_octaves_begin_at_powers_of_two():
    factors = tuple(float(octave) for octave in range(6))
    ratio = FourierSettings(octave_factors=factors).prior((32,)) / FourierSettings().prior((32,))
    expected = [0, 1, 2, 2, 3, 3, 3, 3, *[4] * 8, 5]
    np.testing.assert_allclose(ratio, expected, rtol=1e-14)
    plane = FourierSettings(octave_factors=factors).prior((4, 4)) / FourierSettings().prior((4, 4))
    np.testing.assert_allclose(plane, [[0, 1, 2], [1, 1, 2], [2, 2, 2], [1, 1, 2]], rtol=1e-14)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"octave_factors": (1.0, -2.0)}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ForetrainError, match=next(iter(wrong))):
        FourierSettings(**wrong)
