import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError, MemoryBudgetError
from foretrain.data import choose_embedding
from foretrain.models import ShallowOperator
from foretrain.problems import antiderivative

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "sin": np.sin, "linear": lambda x: x}


# One size for nearly all tests: each new one is compiled anew.
WIDTHS = (8, 5)
DRAWS = 2000


@pytest.fixture(scope="module")
def line():
    return antiderivative(samples=12, resolution=9)


@pytest.fixture(scope="module")
def many(line):
    """A network with enough neurons for statistics."""
    return ShallowOperator(6 * DRAWS, 4).initialise(line, jax.random.key(0))


def term_by_term(network, data, sigma):
    """The equation of the docstring, one neuron after the other, in double precision."""
    trunk, branch, outer = (
        np.asarray(weights, np.float64) for weights in (network.trunk, network.branch, network.outer)
    )
    embedding = network.embedding
    inputs = np.column_stack([embedding.input_scale * data.inputs, np.full(len(data), embedding.input_bias)])
    axis = 2 * (data.query_points[:, 0] - embedding.lower[0]) / embedding.period[0] - 1
    points = np.column_stack([embedding.point_scale * axis, np.full(len(axis), embedding.point_bias)])
    width, branch_width = outer.shape
    result = np.zeros((len(inputs), len(points)))
    for r in range(width):
        coefficient = np.zeros(len(inputs))
        for k in range(branch_width):
            weights = branch[r, k] if branch.ndim == 3 else branch[k]
            coefficient += outer[r, k] * sigma(inputs @ weights) / np.sqrt(branch_width)
        result += np.outer(coefficient, sigma(points @ trunk[r])) / np.sqrt(width)
    return result * network.scale.scale + network.scale.offset


@pytest.mark.parametrize("form", ["block", "shared"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_network_is_the_double_sum_of_its_equation(line, form, activation, double):
    network = ShallowOperator(*WIDTHS, activation, form).initialise(line, jax.random.key(0))
    expected = term_by_term(network, line, ACTIVATIONS[activation])
    np.testing.assert_allclose(network(line.inputs, line.query_points), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", ["block", "shared"])
def test_single_precision_is_the_same_up_to_rounding(line, form):
    network = ShallowOperator(*WIDTHS, "relu", form).initialise(line, jax.random.key(0))
    outputs = network(line.inputs, line.query_points)
    assert outputs.dtype == jnp.float32
    expected = term_by_term(network, line, ACTIVATIONS["relu"])
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * np.abs(expected).max())


def test_normalised_outputs_lack_only_the_scale(line):
    network = ShallowOperator(*WIDTHS).initialise(line, jax.random.key(0))
    embedding = network.embedding
    normalised = network.normalised(embedding.inputs(line.inputs), embedding.points(line.query_points))
    restored = network.scale.restore(np.asarray(normalised))
    np.testing.assert_allclose(network(line.inputs, line.query_points), restored, rtol=1e-5, atol=1e-7)


def test_antisymmetric_drawing_starts_at_zero_up_to_rounding(line):
    network = ShallowOperator(*WIDTHS, form="block", antisymmetric=True).initialise(line, jax.random.key(1))
    half = WIDTHS[0] // 2
    np.testing.assert_array_equal(network.trunk[:half], network.trunk[half:])
    np.testing.assert_array_equal(network.outer[:half], -network.outer[half:])
    np.testing.assert_array_equal(network.branch[:half], network.branch[half:])
    embedding = network.embedding
    start = network.normalised(embedding.inputs(line.inputs), embedding.points(line.query_points))
    np.testing.assert_allclose(start, 0.0, atol=20 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(term_by_term(network, line, ACTIVATIONS["relu"]), network.scale.offset, rtol=1e-12)


@pytest.mark.parametrize("form", ["block", "shared"])
def test_the_same_key_gives_the_same_weights_and_another_key_others(line, form):
    model = ShallowOperator(*WIDTHS, form=form)
    first, again = (model.initialise(line, jax.random.key(3)) for _ in range(2))
    other = model.initialise(line, jax.random.key(4))
    for ours, same, different in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(ours, same)
        assert np.mean(np.asarray(ours) == np.asarray(different)) < 0.9


def test_weights_are_standard_normal_and_outer_weights_are_signs(many):
    for weights in (many.trunk, many.branch):
        values = np.asarray(weights, np.float64)
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        assert abs(np.mean(values**2) - 1) < 4 * np.sqrt(2 / values.size)
        assert abs(np.mean(values**4) - 3) < 4 * np.sqrt(96 / values.size)
    assert set(np.unique(many.outer)) == {-1.0, 1.0}
    assert abs(np.mean(many.outer)) < 4 / np.sqrt(many.outer.size)


def test_the_mean_square_of_the_initial_output_is_that_of_infinite_width(many, line):
    """E G(u)(y)^2 = K(u, u) K(y, y) with K(x, x) = |x|^2 / 2 for ReLU, whatever the widths."""
    inputs, points = many.embedding.inputs(line.inputs[:3]), many.embedding.points(line.query_points[:3])
    weights = [np.asarray(array) for array in (many.trunk, many.branch, many.outer)]
    # Neurons are drawn independently, so one network of 12,000 is 2,000 networks of 6.
    networks = [array.reshape(DRAWS, 6, *array.shape[1:]) for array in weights]

    def start(trunk, branch, outer):
        small = eqx.tree_at(
            lambda network: (network.trunk, network.branch, network.outer), many, (trunk, branch, outer)
        )
        return small.normalised(inputs, points)

    outputs = np.asarray(jax.jit(jax.vmap(start))(*networks), np.float64)
    expected = np.outer(np.sum(inputs**2, axis=1), np.sum(points**2, axis=1)) / 4
    spread = np.std(outputs**2, axis=0) / np.sqrt(DRAWS)
    assert np.all(np.abs(np.mean(outputs**2, axis=0) - expected) < 4 * spread)


@pytest.mark.parametrize(("form", "antisymmetric"), [("block", False), ("block", True), ("shared", False)])
def test_the_parameter_count_is_the_number_of_numbers_drawn(line, form, antisymmetric):
    model = ShallowOperator(*WIDTHS, form=form, antisymmetric=antisymmetric)
    network = model.initialise(line, jax.random.key(0))
    drawn = sum(np.size(leaf) for leaf in jax.tree.leaves(network))
    by_hand = 8 * (1 + 1) + {"block": 8, "shared": 1}[form] * 5 * (9 + 1) + 8 * 5
    assert model.parameter_count(line) == drawn == by_hand


def test_a_periodic_axis_counts_twice(small_burgers):
    assert ShallowOperator(*WIDTHS).parameter_count(small_burgers) == 8 * (2 + 1) + 8 * 5 * (32 + 1) + 8 * 5


def test_a_network_larger_than_the_memory_is_counted_but_not_drawn(line):
    model = ShallowOperator(10**9, 10**6)
    assert model.parameter_count(line) == 10**9 * 2 + 10**15 * 10 + 10**15
    with pytest.raises(MemoryBudgetError, match=r"a network of 11,000,002,000,000,000 numbers: .* smaller widths"):
        model.initialise(line, jax.random.key(0))


@pytest.mark.parametrize("train_outer", [False, True])
def test_outer_weights_are_trained_only_if_asked(line, train_outer):
    network = ShallowOperator(*WIDTHS, train_outer=train_outer).initialise(line, jax.random.key(0))
    moving, fixed = eqx.partition(network, network.trained())
    assert moving.trunk is not None
    assert moving.branch is not None
    assert (moving.outer is not None) == train_outer
    assert (fixed.outer is None) == train_outer


def test_an_embedding_given_is_the_one_used(line):
    embedding = choose_embedding(line, input_norm=5.0, point_scale=0.1)
    network = ShallowOperator(*WIDTHS, embedding=embedding).initialise(line, jax.random.key(0))
    assert network.embedding == embedding
    assert ShallowOperator(*WIDTHS).embedding_for(line) == choose_embedding(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "widths of at least 1, came 0 and 3"),
        ({"branch_width": -1}, "widths of at least 1"),
        ({"form": "blocks"}, "form 'block' or 'shared', came 'blocks'"),
        ({"width": 5, "antisymmetric": True}, "even width .* came 5"),
        ({"form": "shared", "antisymmetric": True}, "expected the block form with antisymmetric drawing"),
        ({"activation": "rely"}, "unknown activation 'rely': expected one of relu"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ForetrainError, match=message):
        ShallowOperator(**{"width": 4, "branch_width": 3} | arguments)
