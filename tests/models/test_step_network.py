import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from foretrain.models import StepNetwork
from foretrain.models._step_network import smooth_step

INSIDE = np.linspace(-0.5, 0.5, 41)


def cubic(s):
    """The two cubic pieces, written out."""
    if s <= -0.5:
        return 0.0
    if s <= 0:
        return 4 * (s + 0.5) ** 3
    return 1 - 4 * (0.5 - s) ** 3 if s < 0.5 else 1.0


def test_the_step_goes_from_zero_to_one_and_is_exactly_that_outside(double):
    outside = np.array([-1e6, -3.0, -0.5, 0.5, 3.0, 1e6])
    np.testing.assert_array_equal(smooth_step(outside), [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(smooth_step(INSIDE), [cubic(s) for s in INSIDE], atol=1e-15)
    assert float(smooth_step(jnp.zeros(()))) == 0.5


def test_the_step_is_odd_about_its_middle_and_rises_all_the_way(double):
    values = np.asarray(smooth_step(INSIDE))
    np.testing.assert_allclose(values + values[::-1], 1.0, atol=1e-15)
    assert np.all(np.diff(values) > 0)


def test_the_slope_is_a_continuous_bump_of_area_one(double):
    slope = jax.vmap(jax.grad(smooth_step))
    expected = [12 * (0.5 - abs(s)) ** 2 if abs(s) < 0.5 else 0.0 for s in INSIDE]
    np.testing.assert_allclose(slope(jnp.asarray(INSIDE)), expected, atol=1e-13)
    np.testing.assert_array_equal(slope(jnp.array([-0.7, 0.7])), 0.0)
    scalar = jax.jit(jax.grad(smooth_step))
    assert quad(lambda s: float(scalar(s)), -0.5, 0.5, points=[0.0])[0] == pytest.approx(1.0, abs=1e-12)


def test_the_network_is_a_bias_and_a_sum_of_steps(double):
    rng = np.random.default_rng(0)
    positions, heights = rng.uniform(size=6), rng.standard_normal(6)
    network = StepNetwork(jnp.asarray(0.7), jnp.asarray(heights), jnp.asarray(positions), step_width=0.2)
    x = np.linspace(0, 1, 30)
    expected = [0.7 + sum(h * cubic((at - p) / 0.2) for h, p in zip(heights, positions, strict=True)) for at in x]
    np.testing.assert_allclose(network(x), expected, atol=1e-14)
    assert network.features(x).shape == (30, 6)


def test_narrow_steps_are_a_piecewise_constant_function(double):
    network = StepNetwork(jnp.asarray(1.0), jnp.array([4.0, -4.0]), jnp.array([0.2, 0.35]), step_width=1e-6)
    np.testing.assert_array_equal(network(np.array([0.1, 0.3, 0.4])), [1.0, 5.0, 1.0])


def test_drawn_positions_are_uniform_and_the_function_starts_at_zero():
    network = StepNetwork.draw(4000, jax.random.key(0))
    np.testing.assert_array_equal(network(np.linspace(0, 1, 9)), 0.0)
    counts = np.histogram(network.positions, bins=10, range=(0, 1))[0]
    assert np.sum((counts - 400) ** 2 / 400) < 27.9, "chi-square with 9 degrees of freedom, one in a thousand"
    np.testing.assert_array_equal(
        StepNetwork.draw(5, jax.random.key(1)).positions, StepNetwork.draw(5, jax.random.key(1)).positions
    )
