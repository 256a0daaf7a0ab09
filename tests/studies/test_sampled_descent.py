from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.models._step_network import smooth_step
from foretrain.studies import _sampled_descent as compiled
from foretrain.studies._two_timescale_settings import (
    SAMPLED_SETTINGS,
    SampledSetting,
    activation_shape,
    draw_network,
    draw_sample,
    run_equal_rates,
    run_sampled,
)

STEPS = SampledSetting("steps", 2, 60, 0.05, 40, neurons=4, step_width=0.1, test_samples=500)
RELU = SampledSetting("relu", 1, 60, 0.2, 40, neurons=4, activation="relu", test_samples=500)
SETTINGS = {"steps": STEPS, "relu": RELU}


def loss(weights, setting, points, labels):
    bias, heights, positions = weights
    offsets = points[:, :, None] - positions
    values = smooth_step(offsets / setting.step_width) if setting.activation == "step" else jax.nn.relu(offsets)
    return jnp.mean((bias[0] + jnp.sum(heights * values, axis=(1, 2)) - labels) ** 2)


def features(setting, points, positions):
    """Values and derivatives of all neurons by their formulas, [points, coordinates, neurons]."""
    offsets = points[:, :, None] - positions
    if setting.activation == "relu":
        return np.maximum(offsets, 0.0), (offsets > 0).astype(float)
    s = offsets / setting.step_width
    values = np.clip(4 * (s + 0.5) ** 3, 0, 0.5) + np.clip(0.5 - 4 * (0.5 - s) ** 3, 0, 0.5)
    return values, 12 / setting.step_width * np.maximum(0.5 - np.abs(s), 0.0) ** 2


def best_fit(setting, points, labels, positions):
    """The outer layer's least-squares fit, by singular values."""
    table = features(setting, points, positions)[0].reshape(len(points), -1)
    if setting.activation == "step":
        table = np.hstack([table, np.ones((len(points), 1))])
    return table @ np.linalg.lstsq(table, labels)[0]


def scattered(setting, seed=0):
    """A sample and a network whose neurons also overlap and lie outside the points."""
    network = draw_network(setting, seed)
    rng = np.random.default_rng(seed)
    network.heights[:] = rng.normal(size=network.heights.shape)
    network.positions[0] = [-0.2, 0.4, 0.41, 1.3]
    network.bias[:] = 0.3 if setting.activation == "step" else 0.0
    return draw_sample(replace(setting, label_noise=0.5, input_noise=0.02), seed), network


def plain_descent(setting, sample, network, ratio, batches):
    """Stochastic descent one batch at a time, all neurons of all samples."""
    bias, heights, positions = (weights.copy() for weights in network)
    for batch in batches:
        values, rises = features(setting, sample.points[batch], positions)
        residual = bias + np.sum(heights * values, axis=(1, 2)) - sample.labels[batch]
        slope_positions = -2 * heights * np.einsum("b,bcn->cn", residual, rises) / len(batch)
        heights = heights - setting.step_size * 2 * np.einsum("b,bcn->cn", residual, values) / len(batch)
        positions = positions - ratio * setting.step_size * slope_positions
        if setting.activation == "step":
            bias = bias - setting.step_size * 2 * np.mean(residual)
    return bias, heights, positions


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.usefixtures("double")
def test_compiled_gradients_are_those_of_automatic_differentiation(name):
    setting = SETTINGS[name]
    sample, network = scattered(setting)
    residual = np.empty(setting.samples)
    heights, positions = np.empty_like(network.heights), np.empty_like(network.heights)
    bias = compiled.gradients(sample, network, activation_shape(setting), residual, heights, positions)
    value, truth = jax.jit(jax.value_and_grad(loss), static_argnums=1)(
        tuple(network), setting, sample.points, sample.labels
    )
    np.testing.assert_allclose(heights, truth[1], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(positions, truth[2], rtol=1e-11, atol=1e-13)
    values = compiled.outputs(sample.points, network, activation_shape(setting))
    np.testing.assert_allclose(residual, values - sample.labels, atol=1e-13)
    np.testing.assert_allclose(bias, 2 * residual.mean(), rtol=1e-12)
    np.testing.assert_allclose(np.mean(residual**2), value, rtol=1e-12)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_full_batch_and_minibatch_descent_follow_a_plain_loop(name):
    setting = SETTINGS[name]
    sample, network = scattered(setting)
    shape, with_bias = activation_shape(setting), setting.activation == "step"
    everything = np.tile(np.arange(setting.samples), (15, 1))
    some = np.random.default_rng(1).integers(setting.samples, size=(15, 3))
    for batches in (everything, some):
        moved = compiled.Network(*(weights.copy() for weights in network))
        if batches is everything:
            compiled.descend(sample, moved, shape, setting.step_size, 0.3 * setting.step_size, 15, with_bias)
        else:
            compiled.descend_batches(sample, some, moved, shape, setting.step_size, 0.3 * setting.step_size, with_bias)
        for weights, truth in zip(moved, plain_descent(setting, sample, network, 0.3, batches), strict=True):
            np.testing.assert_allclose(weights, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_outer_layer_of_the_limit_is_the_least_squares_optimum_after_many_moves(name):
    setting = SETTINGS[name]
    sample, network = scattered(setting)
    network.positions[0, 3] = network.positions[0, 2]  # the same feature twice
    shape = activation_shape(setting)
    optimum = compiled.OuterOptimum(sample, setting.neurons, shape, setting.activation == "step")
    compiled.descend_limit(sample, optimum, network, shape, 1e-3, 50)
    best = best_fit(setting, sample.points, sample.labels, network.positions)
    np.testing.assert_allclose(compiled.outputs(sample.points, network, shape), best, atol=1e-6)


def test_limit_descends_the_reduced_loss():
    sample, network = scattered(STEPS)
    shape = activation_shape(STEPS)
    before = network.positions.copy()
    compiled.descend_limit(sample, compiled.OuterOptimum(sample, 4, shape, True), network, shape, 1e-6, 1)

    def reduced(positions):
        return np.mean((best_fit(STEPS, sample.points, sample.labels, positions) - sample.labels) ** 2)

    shift = np.zeros_like(before)
    shift[1, 2] = 1e-5
    slope = (reduced(before + shift) - reduced(before - shift)) / 2e-5
    assert (before - network.positions)[1, 2] == pytest.approx(1e-6 * slope, rel=1e-3)


def test_two_timescales_approach_the_limit():
    setting = SampledSetting("steps", 1, 200, 0.2, 500, step_width=0.05, neurons=5, locations=(0.5,), weights=(1.0,))
    setting = replace(setting, ratio=0.02, limit_step=1e-3)
    limit = run_sampled(setting, 0.0, [3]).positions
    gaps = []
    for slower in (1, 4, 16):
        slow = replace(setting, ratio=setting.ratio / slower, steps=setting.steps * slower)
        gaps.append(np.abs(run_sampled(slow, None, [3]).positions - limit).max())
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] < 0.02


def test_noise_free_tiny_problem_is_solved_in_every_way():
    setting = SampledSetting("tiny", 1, 300, 0.1, 20_000, locations=(0.5,), weights=(2.0,), step_width=0.02)
    # Noise of minibatches leaves only with a small step size, so their run takes five times as many steps.
    in_batches = replace(setting, batch=4, step_size=0.02, steps=100_000)
    for chosen, ratio in ((setting, None), (setting, 0.0), (in_batches, None)):
        result = run_sampled(chosen, ratio, range(3))
        assert result.training_error.max() < 0.12
        # No sample says where between two of them the jump of 2 is: a few gaps of 1 / 300 beside it cost this much.
        assert result.test_error.max() < 0.25
        assert (result.covered == result.jumps).all()
        # With the outer layer at zero the start's error is the labels' size; errors are recorded up to the end.
        start = [np.sqrt(np.mean(draw_sample(setting, seed).labels ** 2)) for seed in range(3)]
        if ratio is None:
            np.testing.assert_allclose(result.training_curves[:, 0], start)
        np.testing.assert_array_equal(result.training_curves[:, -1], result.training_error)


def test_published_setting_reaches_its_bar():
    setting = SAMPLED_SETTINGS["steps-2d"]
    result = run_sampled(setting, None, range(5), records=1)
    assert setting.published is not None
    assert np.median(result.training_error) < setting.published[1]
    assert np.median(result.test_error) < setting.published[1]


def test_runs_repeat_bit_for_bit_whatever_the_records():
    for setting in (STEPS, RELU, replace(STEPS, batch=2)):
        first, second = (run_sampled(setting, None, [5, 2], records=records) for records in (3, 7))
        np.testing.assert_array_equal(first.positions, second.positions)
        np.testing.assert_array_equal(first.test_error, second.test_error)
        np.testing.assert_array_equal(first.test_error[1], run_sampled(setting, None, [2]).test_error[0])


def test_disturbances_do_what_they_say():
    many = replace(STEPS, samples=40_000)
    clean = draw_sample(many, 0)
    labels = draw_sample(replace(many, label_noise=0.5), 0)
    assert np.std(labels.labels - clean.labels) == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(labels.points, clean.points)
    inputs = draw_sample(replace(many, input_noise=0.1), 0)
    assert np.std(inputs.points - clean.points) == pytest.approx(0.1, rel=0.02)
    np.testing.assert_array_equal(inputs.labels, clean.labels)
    shifted = draw_sample(replace(many, density=(1.0, 3.0)), 0)
    assert shifted.points.mean() == pytest.approx(1 / 4, rel=0.02)
    np.testing.assert_array_equal(shifted.labels, many.teacher(shifted.points))


def test_divergence_is_an_infinite_error_and_never_chosen():
    result = run_sampled(replace(STEPS, step_size=50.0, steps=400), 1.0, [0])
    assert np.isinf(result.training_error[0])
    chosen = run_equal_rates(replace(STEPS, step_size=50.0, steps=400), [0], multiples=(1.0, 1e-3))
    assert chosen.setting.step_size == 0.05


@pytest.mark.parametrize("change", [{"samples": 0}, {"step_size": -1.0}, {"label_noise": -1.0}, {"activation": "sine"}])
def test_impossible_settings_are_refused_in_one_line(change):
    with pytest.raises(ForetrainError) as failure:
        replace(STEPS, **change)
    assert "\n" not in str(failure.value)


def test_impossible_requests_are_refused():
    with pytest.raises(ForetrainError, match="ratio"):
        run_sampled(STEPS, -1.0)
