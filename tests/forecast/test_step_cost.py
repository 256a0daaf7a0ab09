"""The estimate of a step's memory against the compiler's own account, and of its time against simple laws."""

from dataclasses import replace

import equinox as eqx
import jax
import pytest

from foretrain.forecast import Cost, _cost, descend, measure_cost, training_arrays
from foretrain.forecast._cost import step_bytes
from foretrain.models import ShallowOperator


def bytes_by_the_compiler(model, data):
    network = model.initialise(data, jax.random.key(0))
    arrays = training_arrays(network, data)
    weights, fixed = eqx.partition(network, eqx.is_array)

    def step(weights, *arrays):
        return eqx.filter(descend(eqx.combine(weights, fixed), *arrays, 0.1), eqx.is_array)

    analysis = jax.jit(step).lower(weights, *arrays).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not account for its memory")
    return analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes


@pytest.mark.parametrize(
    "model",
    [ShallowOperator(64, 4), ShallowOperator(256, 32), ShallowOperator(512, 128, form="shared", train_outer=True)],
    ids=lambda model: f"{model.form}, {model.width}",
)
def test_bytes_of_a_step_are_what_the_compiler_takes_within_a_factor_of_three(split, model):
    estimated, compiled = step_bytes(model, split[0]), bytes_by_the_compiler(model, split[0])
    assert 1 / 3 < estimated / compiled < 3


def test_bytes_grow_with_the_width_and_with_the_functions(split):
    model = ShallowOperator(256, 4)
    assert step_bytes(replace(model, width=512), split[0]) == pytest.approx(2 * step_bytes(model, split[0]), rel=0.02)
    assert step_bytes(model, split[0]) > step_bytes(model, split[1])


def test_the_cost_of_a_wide_model_is_extrapolated_from_two_small_ones(split, monkeypatch):
    seconds = {64: 0.002, 256: 0.005}
    monkeypatch.setattr(_cost, "_seconds_per_step", lambda model, data: seconds[model.width])
    cost = measure_cost(ShallowOperator(1024, 4), split[0], price_per_hour=7.2)
    assert cost.seconds_per_step == pytest.approx(0.005 + 768 * 0.003 / 192)
    assert cost.price(1000) == pytest.approx(1000 * cost.seconds_per_step / 3600 * 7.2)
    # A timing that falls with the width is noise, not a saving.
    seconds[64] = 0.006
    assert measure_cost(ShallowOperator(1024, 4), split[0]).seconds_per_step == 0.005


def test_a_measured_cost_is_positive(split):
    cost = measure_cost(ShallowOperator(64, 4), split[0])
    assert 0 < cost.seconds_per_step < 10
    assert cost.bytes == step_bytes(ShallowOperator(64, 4), split[0])
    assert cost.price(100) == 0.0


def test_seconds_and_price_are_proportional_to_the_steps():
    cost = Cost(0.5, 1, price_per_hour=2.0)
    assert (cost.seconds(7200), cost.price(7200)) == (3600.0, 2.0)
