"""Layers against explicit loops, dense least squares, exact symmetries and a solver of the equation."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import foretrain as ft
from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.models import LayeredNetwork, LayeredOperator
from foretrain.models._layered_operator import boundary_nodes
from foretrain.training import LayerwiseOperator
from foretrain.training._layer_fit import Progressing, fit_layers

KNOTS = 4


def grid_data(size: int, functions: int, seed: int = 0) -> OperatorDataset:
    """Noise as inputs and as outputs, on a square of nodes."""
    rng = np.random.default_rng(seed)
    axis = np.arange(size) / size
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(*rng.standard_normal((2, functions, size * size)), points, points)


def with_filters(network: LayeredNetwork, seed: int = 1) -> LayeredNetwork:
    filters = 0.1 * np.random.default_rng(seed).standard_normal(network.filters.shape)
    return replace(network, filters=jax.numpy.asarray(filters, network.filters.dtype))


def darcy(functions: int, seed: int, size: int = 12, contrast: float = 8.0) -> OperatorDataset:
    """-div(a grad u) = 1 with two materials on size^2 nodes inside a boundary of zeros, solved as a dense system."""
    rng = np.random.default_rng(seed)
    waves = np.arange(6)
    table = np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, waves))
    spectra = rng.standard_normal((functions, 6, 6)) / (1 + np.add.outer(waves**2, waves**2))
    spectra[:, 0, 0] = 0
    materials = (table @ spectra @ table.T > 0).astype(float)
    outputs = np.empty((functions, size * size))
    numbers = np.arange(size * size).reshape(size, size)
    for row, medium in enumerate(np.where(materials > 0, contrast, 1.0)):
        padded = np.pad(medium, 1, mode="edge")
        matrix = np.zeros((size**2, size**2))
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            beyond = np.roll(padded, (-step[0], -step[1]), (0, 1))[1:-1, 1:-1]
            conductance = 2 * medium * beyond / (medium + beyond)
            matrix[numbers, numbers] += conductance
            there = np.pad(numbers, 1, constant_values=-1)
            neighbour = np.roll(there, (-step[0], -step[1]), (0, 1))[1:-1, 1:-1]
            inner = neighbour >= 0
            matrix[numbers[inner], neighbour[inner]] -= conductance[inner]
        outputs[row] = np.linalg.solve(matrix, np.ones(size**2))
    axis = (np.arange(size) + 1) / (size + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(materials.reshape(functions, -1), outputs, points, points)


@pytest.mark.parametrize("answers_gate", [False, True])
def test_the_operator_equals_its_equation_written_in_loops(answers_gate: bool) -> None:
    data = grid_data(5, 3)
    operator = LayeredOperator(2, 2, ends="zero", reach=1, answer_reach=1, knots=KNOTS, answers_gate=answers_gate)
    network = with_filters(operator.initialise(data, jax.random.key(0)))
    medium = np.pad(
        (data.inputs.reshape(-1, 5, 5) - data.inputs.mean()) / data.inputs.std(), ((0, 0), (1, 1), (1, 1)), "edge"
    )
    scale = np.sqrt(np.mean(data.outputs**2))
    answer = np.broadcast_to(data.outputs.mean(axis=0).reshape(5, 5) / scale, (3, 5, 5)).copy()
    nodes = np.arange(1, 6)
    sines = np.sin(np.pi * np.outer(nodes, nodes) / 6) / np.sqrt(3)
    position = np.log1p(np.hypot(nodes[:, None], nodes))
    places = np.linspace(position.min(), position.max(), KNOTS)
    turns = [lambda w, n=n, t=t: np.rot90(w.T if t else w, n) for n in range(4) for t in (0, 1)]
    for layer in range(2):
        correction = np.zeros_like(answer)
        for neuron in range(2):
            gate = np.asarray(network.gates[layer, neuron], float).reshape(3, 3)
            window = np.asarray(network.windows[layer, neuron], float).reshape(3, 3)
            back = np.asarray(network.answer_gates[layer, neuron], float).reshape(3, 3)
            assert np.any(back) == answers_gate
            threshold, offset = float(network.thresholds[layer, neuron]), float(network.offsets[layer, neuron])
            field, beyond = np.zeros_like(answer), np.pad(answer, ((0, 0), (1, 1), (1, 1)))
            for turn in turns:
                for x in range(5):
                    for y in range(5):
                        seen, felt = medium[:, x : x + 3, y : y + 3], beyond[:, x : x + 3, y : y + 3]
                        opening = np.sum(turn(gate) * seen, axis=(1, 2)) + np.sum(turn(back) * felt, axis=(1, 2))
                        opening = np.tanh(opening + threshold)
                        field[:, x, y] += opening * (np.sum(turn(window) * felt, axis=(1, 2)) + offset)
            multiplier = np.interp(position, places, np.asarray(network.filters[layer, :, neuron], float))
            correction += sines @ (multiplier * (sines @ field @ sines)) @ sines
        answer = answer + correction
    np.testing.assert_allclose(np.asarray(network(data.inputs)), scale * answer.reshape(3, -1), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("ends", ["zero", "free"])
def test_a_symmetric_operator_commutes_with_all_symmetries_of_the_square(ends: str) -> None:
    data = grid_data(7, 4)
    # A mean that is symmetric itself, as it is learnt from the data.
    data = replace(data, outputs=np.concatenate([data.outputs[:2], -data.outputs[:2]]))
    network = with_filters(LayeredOperator(3, 3, ends=ends).initialise(data, jax.random.key(0)))
    assert network.symmetries == 8
    fields = data.inputs.reshape(-1, 7, 7)
    answers = np.asarray(network(data.inputs)).reshape(-1, 7, 7)
    for image in (lambda f: np.rot90(f, 1, (1, 2)), lambda f: np.swapaxes(f, 1, 2), lambda f: f[:, ::-1]):
        turned = np.asarray(network(image(fields).reshape(4, -1))).reshape(-1, 7, 7)
        np.testing.assert_allclose(turned, image(answers), atol=2e-5 * np.abs(answers).max())


def test_axes_of_unequal_lengths_or_counts_are_not_exchanged() -> None:
    data = grid_data(6, 4)
    stretched = data.query_points * [1.0, 2.0]
    operator = LayeredOperator(2, 1, ends="free")
    longer = operator.initialise(replace(data, sensor_points=stretched, query_points=stretched), jax.random.key(0))
    assert longer.symmetries == 4
    line = np.arange(36)[:, None] / 36
    on_a_line = replace(data, sensor_points=line, query_points=line)
    assert operator.initialise(on_a_line, jax.random.key(0)).symmetries == 2


def test_a_periodic_operator_without_symmetries_commutes_with_shifts_on_a_line() -> None:
    points = np.arange(16)[:, None] / 16
    values = np.random.default_rng(0).standard_normal((2, 4, 16))
    outputs = np.concatenate([values[1, :2], -values[1, :2]])
    data = OperatorDataset(values[0], outputs, points, points)
    operator = LayeredOperator(4, 3, ends="periodic", symmetric=False, answer_reach=2)
    network = with_filters(operator.initialise(data, jax.random.key(0)))
    answers = np.asarray(network(data.inputs))
    shifted = np.asarray(network(np.roll(data.inputs, 5, axis=1)))
    np.testing.assert_allclose(shifted, np.roll(answers, 5, axis=1), atol=2e-5 * np.abs(answers).max())
    mirrored = np.asarray(network(data.inputs[:, ::-1].copy()))[:, ::-1]
    assert np.abs(mirrored - answers).max() > 1e-2 * np.abs(answers).max()


def test_a_layers_filters_solve_the_dense_least_squares_problem() -> None:
    data = grid_data(6, 40)
    network = LayeredOperator(3, 1, knots=KNOTS, ends="free").initialise(data, jax.random.key(0))
    fitted, _ = fit_layers(network, data, None, [1e-9])
    start = network.first_answers(len(data))
    neurons = np.asarray(network.neurons(0, network.medium(data.inputs), start), float)
    weights = 1 / np.linalg.norm(data.outputs, axis=1) * network.scale.scale
    design = np.einsum("n,nkr,hk->nkhr", weights, neurons, np.asarray(network.hats, float)).reshape(40 * 36, -1)
    left = np.asarray(network.spectrum(network.inner(data.outputs) - start), float) * weights[:, None]
    expected = np.linalg.lstsq(design, left.ravel(), rcond=None)[0]
    np.testing.assert_allclose(np.ravel(fitted.filters), expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


def test_the_loss_of_the_normal_equations_is_the_residual_of_the_answers() -> None:
    data = grid_data(6, 23)
    network = with_filters(LayeredOperator(3, 1, ends="free").initialise(data, jax.random.key(0)))
    start = Progressing.of(network, data)
    equations, spectra = start.equations(network, 0)
    after = start.through(network, 0, spectra)
    residual = np.asarray(after.answers - after.targets)[:23].reshape(23, -1)
    residual = residual / np.linalg.norm(data.outputs / network.scale.scale, axis=1)[:, None]
    assert equations.loss(np.ravel(network.filters)) == pytest.approx(np.sum(residual**2), rel=1e-4)
    # Spectra computed anew, for lack of room, say the same.
    np.testing.assert_array_equal(start.through(network, 0, []).answers, after.answers)


def test_an_operator_of_one_layer_is_found_again_from_its_values() -> None:
    data = grid_data(8, 30)
    data = replace(data, outputs=np.concatenate([data.outputs[:15], -data.outputs[:15]]))
    teacher = with_filters(LayeredOperator(4, 1, ends="free").initialise(data, jax.random.key(3)))
    taught = replace(data, outputs=np.asarray(teacher(data.inputs), float))
    learner = replace(teacher, filters=0 * teacher.filters)
    fitted, _ = fit_layers(learner, taught, None, [1e-9])
    fresh = grid_data(8, 10, seed=9).inputs
    assert mean_relative_error(np.asarray(fitted(fresh), float), np.asarray(teacher(fresh), float)) < 1e-3


@pytest.mark.slow
def test_layers_learn_darcy_flow_where_the_closed_form_without_windows_does_not() -> None:
    train, test = darcy(150, 0), darcy(50, 1)
    fitted = LayerwiseOperator(width=16, layers=5).fit(train)
    assert fitted.operator_.ends == "zero"
    assert fitted.operator_.symmetric
    linear = np.linalg.lstsq(np.c_[train.inputs, np.ones(150)], train.outputs, rcond=None)[0]
    peer = mean_relative_error(np.c_[test.inputs, np.ones(50)] @ linear, test.outputs)
    assert fitted.score(test) < 0.06
    assert fitted.score(test) < peer / 4
    # The record foretells the test error, and every layer kept has helped.
    assert fitted.records_[fitted.operator_.layers].held_out_error == pytest.approx(fitted.score(test), rel=0.35)
    errors = [record.held_out_error for record in fitted.records_[: fitted.operator_.layers + 1]]
    assert np.all(np.diff(errors) < 0)


def test_the_same_key_gives_the_same_operator_and_parameters_come_back() -> None:
    train = darcy(40, 0, size=8)
    one, other = (
        LayerwiseOperator(width=4, layers=2, symmetric=True, answers_gate=False, key=5).fit(train) for _ in range(2)
    )
    np.testing.assert_array_equal(one.predict(train.inputs), other.predict(train.inputs))
    assert LayerwiseOperator(**one.get_params()).get_params() == one.get_params()
    assert one.set_params(width=7).width == 7


def test_outermost_nodes_of_nearly_zero_outputs_are_the_boundary_and_keep_their_mean() -> None:
    data = darcy(30, 0, size=8)
    framed = np.pad(data.outputs.reshape(-1, 8, 8), ((0, 0), (1, 0), (1, 0)), constant_values=1e-4)
    assert boundary_nodes(framed) == [(True, False), (True, False)]
    axis = np.arange(9) / 9
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    inputs = np.pad(data.inputs.reshape(-1, 8, 8), ((0, 0), (1, 0), (1, 0)), "edge").reshape(30, -1)
    framed_data = OperatorDataset(inputs, framed.reshape(30, -1), points, points)
    plainly = {"width": 8, "layers": 3, "symmetric": True, "answers_gate": False}
    fitted = LayerwiseOperator(**plainly).fit(framed_data)
    np.testing.assert_allclose(fitted.predict(inputs).reshape(-1, 9, 9)[:, 0], 1e-4, rtol=1e-5)
    # The boundary on the grid is the one that the plain grid leaves out.
    plain = LayerwiseOperator(**plainly, ends="zero").fit(data)
    inner = fitted.predict(inputs).reshape(-1, 9, 9)[:, 1:, 1:].reshape(30, -1)
    errors = [mean_relative_error(values, data.outputs) for values in (inner, plain.predict(data.inputs))]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_what_does_not_fit_is_said_in_one_line() -> None:
    train = darcy(20, 0, size=8)
    with pytest.raises(ForetrainError, match="not; call fit"):
        LayerwiseOperator().predict(train.inputs)
    with pytest.raises(DataError, match="at least 10 training functions, came 5"):
        LayerwiseOperator().fit(replace(train, inputs=train.inputs[:5], outputs=train.outputs[:5]))
    with pytest.raises(ForetrainError, match="share held_out"):
        LayerwiseOperator(held_out=1.0).fit(train)
    with pytest.raises(ForetrainError, match="ends: expected"):
        LayeredOperator(ends="closed")  # type: ignore[arg-type]
    with pytest.raises(ForetrainError, match="width and layers"):
        LayeredOperator(0)
    scattered = np.random.default_rng(0).random((64, 2))
    with pytest.raises(DataError, match="regular grid"):
        LayerwiseOperator().fit(replace(train, sensor_points=scattered, query_points=scattered))
    fitted = LayerwiseOperator(width=2, layers=1, symmetric=True, answers_gate=False).fit(train)
    with pytest.raises(DataError, match="64 sensors"):
        fitted.predict(train.inputs[:, :5])
    with pytest.raises(ForetrainError, match="expected one of width"):
        fitted.set_params(depth=3)


@pytest.mark.slow
def test_smooth_fields_on_a_line_with_free_ends_are_learnt() -> None:
    """(I - 0.01 d^2)^-1 of a pointwise square, continued evenly: one layer's form with many neurons."""
    rng, size = np.random.default_rng(0), 32
    table = np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, np.arange(size)))
    table /= np.linalg.norm(table, axis=0)
    inputs = 0.5 + rng.standard_normal((120, 6)) / (1 + np.arange(6)) @ table[:, :6].T
    multiplier = 1 / (1 + 0.01 * (np.pi * np.arange(size)) ** 2)
    outputs = (inputs**2 @ table * multiplier) @ table.T
    points = (np.arange(size)[:, None] + 0.5) / size
    data = ft.OperatorDataset(inputs, outputs, points, points)
    train, test = (replace(data, inputs=inputs[rows], outputs=outputs[rows]) for rows in (slice(80), slice(80, None)))
    fitted = LayerwiseOperator(width=24, layers=2).fit(train)
    assert fitted.operator_.ends == "free"
    assert fitted.score(test) < 0.01


@pytest.mark.slow
def test_gates_that_see_the_answer_learn_a_reaction_and_a_trial_finds_that_out() -> None:
    size, rng = 24, np.random.default_rng(3)
    place = np.arange(1, size + 1) / (size + 1)
    sources = 60 * rng.standard_normal((200, 4)) @ np.sin(np.pi * np.outer(np.arange(1, 5), place))
    laplace = (size + 1) ** 2 * (2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1))
    answers = np.zeros_like(sources)
    for row, source in enumerate(sources):
        for _ in range(30):  # Newton's method for -s'' + s^3 = f
            left = laplace @ answers[row] + answers[row] ** 3 - source
            answers[row] -= np.linalg.solve(laplace + np.diag(3 * answers[row] ** 2), left)
    train, test = OperatorDataset(sources, answers, place, place).split(40, key=0)
    chosen = LayerwiseOperator(width=16, layers=8).fit(train)
    assert chosen.operator_.answers_gate
    blind = LayerwiseOperator(width=16, layers=8, answers_gate=False).fit(train)
    assert chosen.score(test) < 0.6 * blind.score(test)
