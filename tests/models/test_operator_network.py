"""A user's own Equinox module as a network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.forecast import Cost, GradientDescent, WidthDeviation, drawn_kernels, forecast
from foretrain.models import (
    MLP,
    DeepONet,
    GivenNetwork,
    ShallowFourierOperator,
    ShallowOperator,
    StepNetwork,
    draw_network,
    group_rates,
    weight_groups,
)
from foretrain.training import train

STEPS = 12


class Blocks(eqx.Module):
    """G(u)(y) = sum_k w_k sigma((stretch u_order) . A_k) cos(k y + shift): lists, a function, whole numbers."""

    matrices: list[list[Array]]
    trunk: dict[str, Array]
    sigma: Callable[[Array], Array]
    order: Array
    stretch: Array
    name: str = eqx.field(static=True, default="blocks")

    @classmethod
    def draw(cls, sensors: int, key: int = 0) -> "Blocks":
        rng = np.random.default_rng(key)
        single = [jnp.asarray(rng.normal(size=(sensors, 6)) / sensors**0.5, jnp.float32) for _ in range(3)]
        trunk = {"weights": jnp.asarray(rng.normal(size=(3, 6)), jnp.float32), "shift": jnp.zeros(3)}
        return cls([single[:1], single[1:]], trunk, jnp.tanh, jnp.asarray(rng.permutation(sensors)), jnp.asarray(0.7))

    def __call__(self, inputs: Array, points: Array) -> Array:
        total = jnp.zeros((len(inputs), len(points)))
        for number, matrix in enumerate(matrix for row in self.matrices for matrix in row):
            hidden = self.sigma(self.stretch * inputs[:, self.order] @ matrix) @ self.trunk["weights"][number]
            total = total + hidden[:, None] * jnp.cos(number * points[:, 0] + self.trunk["shift"][number])
        return 5.0 * total + 2.0

    def by_hand(self, inputs: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The same in NumPy, double precision."""
        matrices = np.asarray([self.matrices[0][0], *self.matrices[1]], np.float64)
        weights, shift = (np.asarray(self.trunk[name], np.float64) for name in ("weights", "shift"))
        hidden = np.tanh(0.7 * np.einsum("is,ksf->kif", inputs[:, np.asarray(self.order)], matrices))
        waves = np.cos(np.arange(3)[:, None] * points[:, 0] + shift[:, None])
        return 5.0 * np.einsum("kif,kf,kj->ij", hidden, weights, waves) + 2.0


class Given(eqx.Module):
    """Any function of one's own with one weight."""

    function: Callable[..., Any]
    weight: Array = eqx.field(default_factory=lambda: jnp.ones(()))

    def __call__(self, *arguments: Any) -> Any:
        return self.function(self.weight, *arguments)


class Silent(eqx.Module):
    """Outputs without a weight."""

    shift: float = eqx.field(static=True, default=1.0)

    def __call__(self, inputs: Array, points: Array) -> Array:
        return jnp.zeros((len(inputs), len(points))) + self.shift


@pytest.fixture(scope="module")
def data() -> OperatorDataset:
    """Outputs far from mean zero and unit size."""
    rng = np.random.default_rng(1)
    inputs, points = rng.normal(size=(9, 5)), np.linspace(0, 1, 7)[:, None]
    outputs = 40.0 + 3.0 * np.tanh(inputs @ rng.normal(size=(5, 7)))
    return OperatorDataset(inputs, outputs, np.linspace(0, 1, 5)[:, None], points)


@pytest.fixture
def module() -> Blocks:
    return Blocks.draw(5)


@pytest.fixture
def told() -> dict[str, Any]:
    """What spares a forecast its pilots and its timing."""
    flat = {"drawn weights": np.full(2, 0.5)}
    return {"deviation": WidthDeviation(np.array([0.0, STEPS]), flat, flat, 1, 4), "cost": Cost(1e-4, 10**6)}


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def test_a_modules_outputs_are_its_own_in_physical_units(data, module):
    network = draw_network(module, data, 3)
    expected = module.by_hand(data.inputs, data.query_points)
    np.testing.assert_allclose(network(data.inputs, data.query_points), expected, rtol=2e-6)
    others = np.linspace(-1, 1, 4)[:, None]
    np.testing.assert_allclose(network(data.inputs[:3], others), module.by_hand(data.inputs[:3], others), rtol=2e-6)


def test_its_normalised_outputs_have_the_datas_mean_and_size_as_unit(data, module):
    network = draw_network(module, data, 0)
    expected = (module.by_hand(data.inputs, data.query_points) - data.outputs.mean()) / data.outputs.std()
    np.testing.assert_allclose(network.normalised(data.inputs, data.query_points), expected, rtol=1e-5, atol=1e-5)
    assert network.embedding.inputs(data.inputs) is data.inputs
    assert network.embedding.points(data.query_points) is data.query_points


def test_the_key_draws_nothing_and_the_module_comes_back_as_it_went_in(data, module):
    one, other = draw_network(module, data, 0).module, draw_network(module, data, 1).module
    assert one.sigma is module.sigma
    assert eqx.tree_equal(one, module)
    assert eqx.tree_equal(one, other)


def test_by_default_all_floating_point_arrays_move_and_nothing_else(data, module):
    network = draw_network(module, data, 0)
    moving, _ = eqx.partition(network, network.trained())
    found = jax.tree.leaves(moving)
    assert len(found) == 6
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in found)
    assert weight_groups(network) == ("matrices", "trunk", "stretch")


def without_stretch(module):
    marks = jax.tree.map(eqx.is_inexact_array, module)
    return GivenNetwork(module, eqx.tree_at(lambda tree: tree.stretch, marks, False))


def test_a_tree_of_booleans_says_what_moves(data, module):
    network = draw_network(without_stretch(module), data, 0)
    assert weight_groups(network) == ("matrices", "trunk")
    assert eqx.tree_equal(network.module, module)
    np.testing.assert_array_equal(
        network(data.inputs, data.query_points), draw_network(module, data, 0)(data.inputs, data.query_points)
    )


def test_the_kernel_of_a_module_is_that_of_a_dense_jacobian_group_by_group(data, module):
    network = draw_network(without_stretch(module), data, 0)
    rates = {"trunk": 0.25, "matrices": 3.0}
    kernel, _ = drawn_kernels(network, data, None, rates)

    def outputs(matrices, trunk):
        moved = eqx.tree_at(lambda tree: (tree.matrices, tree.trunk), module, (matrices, trunk))
        return moved(jnp.asarray(data.inputs, jnp.float32), jnp.asarray(data.query_points, jnp.float32)).ravel()

    rows, dense = data.outputs.size, 0.0
    jacobians = jax.jacobian(outputs, argnums=(0, 1))(module.matrices, module.trunk)
    for jacobian, rate in zip(jacobians, (3.0, 0.25), strict=True):
        for leaf in jax.tree.leaves(jacobian):
            flat = np.asarray(leaf, np.float64).reshape(rows, -1) / data.outputs.std()
            dense = dense + rate * flat @ flat.T
    residual = np.random.default_rng(0).normal(size=data.outputs.shape)
    expected = (dense @ residual.ravel()).reshape(residual.shape)
    np.testing.assert_allclose(kernel.apply(residual), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ShallowOperator(4, 2), {"trunk", "branch"}),
        (ShallowOperator(4, 2, train_outer=True), {"trunk", "branch", "outer"}),
        (DeepONet(4), {"branch", "trunk", "bias"}),
        (MLP(4), {"layers"}),
        (ShallowFourierOperator(4), {"filters", "biases", "readout", "linear"}),
    ],
    ids=["shallow", "shallow with outer", "DeepONet", "MLP", "Fourier"],
)
def test_the_groups_of_every_model_are_what_training_moves(model, expected):
    periodic = np.random.default_rng(2).normal(size=(2, 6, 8))
    network = draw_network(model, OperatorDataset(*periodic), 0)
    assert set(weight_groups(network)) == expected
    # Twice the rate of one group is twice of its weights and of no others.
    for name in expected:
        rates = group_rates(network, {name: 2.0})
        leaves = zip(jax.tree_util.tree_leaves_with_path(rates), jax.tree.leaves(network.trained()), strict=True)
        for (path, rate), moves in leaves:
            assert not moves or rate == (2.0 if getattr(path[0], "name", None) == name else 1.0)
    assert group_rates(network, None) is None
    assert group_rates(network, {}) is None


def test_step_sizes_for_a_group_it_has_not_are_refused_by_name(data, module):
    with pytest.raises(ForetrainError, match="expected some of matrices, trunk, stretch") as refused:
        group_rates(draw_network(module, data, 0), {"trunk": 2.0, "readout": 1.0})
    assert str(refused.value).endswith("came readout")
    with pytest.raises(ForetrainError, match="came stretch"):
        group_rates(draw_network(without_stretch(module), data, 0), {"stretch": 2.0})


@pytest.mark.parametrize(
    "given", [None, "deeponet", 3, MLP, {"width": 4}], ids=["none", "text", "number", "class", "dict"]
)
def test_what_is_no_model_is_refused(data, given):
    with pytest.raises(ForetrainError, match="a model: expected one of foretrain's or a module") as refused:
        draw_network(given, data, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Silent(), "expected weights to train, came Silent without any"),
        (StepNetwork.draw(4, jax.random.key(0)), r"expected outputs \(2, 7\) from inputs \(2, 5\).*it failed"),
        (Given(lambda weight, inputs: weight * inputs), r"expected outputs \(2, 7\).*it failed"),
        (Given(lambda weight, inputs, points: weight * inputs @ points), "it failed"),
        (Given(lambda weight, inputs, points: (weight * inputs, points)), "it failed"),
        (Given(lambda weight, inputs, points: weight * inputs), r"= \(2, 7\) for 2 functions, came \(2, 5\)"),
        (Given(lambda weight, inputs, points: weight * jnp.sum(inputs)), r"came \(\)"),
        (Given(lambda weight, inputs, points: weight * jnp.ones((7, 2))), r"came \(7, 2\)"),
        (eqx.nn.MLP(5, 7, 4, 1, key=jax.random.key(0)), "it failed"),
    ],
    ids=["no weights", "one argument", "arity", "shapes", "two outputs", "points", "scalar", "turned", "one function"],
)
def test_a_module_that_does_not_fit_is_refused_in_one_line(data, module, said):
    with pytest.raises(ForetrainError, match=said) as refused:
        draw_network(module, data, 0)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_module_for_one_function_fits_inside_another_that_maps_it(data):
    single = eqx.nn.MLP(5, 7, 4, 1, key=jax.random.key(0))
    network = draw_network(Given(lambda inner, inputs, points: jax.vmap(inner)(inputs), single), data, 0)
    for function, output in zip(data.inputs, network(data.inputs, data.query_points), strict=True):
        np.testing.assert_allclose(output, single(jnp.asarray(function, jnp.float32)), rtol=1e-5, atol=1e-6)


def test_forecast_and_training_leave_the_given_module_alone(data, module, told):
    before = arrays(module)
    foretold = forecast(data, module, GradientDescent(), STEPS, data.take(slice(0, 3)), **told)
    run = train(data, module, steps=STEPS, told=foretold)
    for one, other in zip(before, arrays(module), strict=True):
        np.testing.assert_array_equal(one, other)
    trained = run.network.module
    assert not np.array_equal(trained.trunk["weights"], module.trunk["weights"])
    assert not np.array_equal(trained.matrices[1][1], module.matrices[1][1])
    np.testing.assert_array_equal(trained.order, module.order)
    assert trained.sigma is module.sigma
    # The first loss is that of the module as it was given.
    residual = (module.by_hand(data.inputs, data.query_points) - data.outputs) / data.outputs.std()
    assert run.loss[0] == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert run.loss[-1] < run.loss[0]


def test_what_does_not_move_is_the_same_after_training(data, module, told):
    given = without_stretch(module)
    run = train(data, given, steps=STEPS, told=forecast(data, given, None, STEPS, **told))
    assert float(run.network.module.stretch) == float(module.stretch)
    assert not np.array_equal(run.network.module.trunk["shift"], module.trunk["shift"])


def test_a_trained_module_is_a_module_again(data, module, told):
    told = forecast(data, module, None, STEPS, **told)
    half = train(data, module, steps=STEPS // 2, told=told).network.module
    whole = train(data, module, steps=STEPS, told=told)
    rest = train(data, half, steps=STEPS // 2, told=replace(told))
    # Without momentum two halves are the whole: same step size, same weights half way.
    for one, other in zip(arrays(rest.network), arrays(whole.network), strict=True):
        np.testing.assert_array_equal(one, other)
