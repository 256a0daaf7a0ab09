"""Shares against known mixtures, brute force and optimality conditions; left-out answers against dense algebra."""

import itertools
from typing import Any

import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, relative_errors
from foretrain.tangent import BranchTrunkSettings, FourierSettings, InfiniteWidthOperator
from foretrain.tangent._fourier_kernel import FourierKernel
from foretrain.tangent._left_out import fit_leaving_out, solve_leaving_out
from foretrain.training import BlendedOperator, Shares, TrainedFourierOperator, blend_shares
from foretrain.training._blend_shares import choose_shares, disagreement, led_shares
from foretrain.training._blended_operator import _held_out_rows

POINTS, FUNCTIONS = 8, 40


class Linear:
    """Says inputs @ matrix whatever it is fitted to, and how many functions that were."""

    def __init__(self, matrix: np.ndarray, seen: list[int] | None = None) -> None:
        self.matrix = matrix
        self.seen = seen if seen is not None else []

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"matrix": self.matrix, "seen": self.seen}

    def set_params(self, **params: Any) -> "Linear":
        vars(self).update(params)
        return self

    def fit(self, train: OperatorDataset) -> "Linear":
        self.seen.append(len(train))
        self.fitted_ = True
        return self

    def predict(self, inputs: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(inputs) @ self.matrix


def matrices(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, POINTS, POINTS))


def linear_data(matrix: np.ndarray, seed: int = 1) -> OperatorDataset:
    inputs = np.random.default_rng(seed).standard_normal((FUNCTIONS, POINTS))
    grid = np.arange(POINTS)[:, None] / POINTS
    return OperatorDataset(inputs, inputs @ matrix, grid, grid)


def objective(shares: np.ndarray, predictions: np.ndarray, outputs: np.ndarray) -> float:
    return float(np.mean(relative_errors(np.tensordot(shares, predictions, 1), outputs)))


@pytest.mark.parametrize("mixture", [(0.3, 0.7), (0.2, 0.5, 0.0, 0.3), (1.0, 0.0, 0.0)])
def test_the_shares_of_a_known_mixture_are_recovered(mixture):
    kinds = matrices(len(mixture))
    data = linear_data(np.tensordot(mixture, kinds, 1))
    blend = BlendedOperator([Linear(kind) for kind in kinds], held_out=0.25).fit(data)
    np.testing.assert_allclose(blend.shares_, mixture, atol=1e-9)
    assert blend.score(data) < 1e-9
    assert blend.held_out_error_ < 1e-9
    assert blend.helps_ == (max(mixture) < 1)


@pytest.mark.parametrize("seed", range(6))
def test_no_shares_on_a_fine_mesh_of_the_simplex_do_better(seed):
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((12, 5)) * np.exp(rng.standard_normal((12, 1)))
    predictions = outputs + np.exp(rng.standard_normal((3, 1, 1))) * rng.standard_normal((3, 12, 5))
    shares = blend_shares(predictions, outputs)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1, abs=1e-14)
    steps = 100
    mesh = [
        np.array([first, second, steps - first - second]) / steps
        for first, second in itertools.product(range(steps + 1), repeat=2)
        if first + second <= steps
    ]
    values = [objective(each, predictions, outputs) for each in mesh]
    found = objective(shares, predictions, outputs)
    assert found <= min(values) * (1 + 1e-9)
    assert np.abs(mesh[int(np.argmin(values))] - shares).max() < 3 / steps


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e3])
def test_the_shares_satisfy_the_optimality_conditions_whatever_the_size_of_the_errors(size):
    rng = np.random.default_rng(3)
    outputs = rng.standard_normal((30, 7))
    errors = size * rng.standard_normal((6, 30, 7)) * np.linspace(1, 2, 6)[:, None, None]
    # The last one errs as the first does, only more: nothing is won by it.
    errors[5] = 1.5 * errors[0]
    shares = blend_shares(outputs + errors, outputs)
    scaled = errors / size / np.linalg.norm(outputs, axis=1)[:, None]
    blended = np.tensordot(shares, scaled, 1)
    slopes = np.einsum("kip,ip->k", scaled, blended / np.linalg.norm(blended, axis=1)[:, None])
    assert shares[5] == 0
    np.testing.assert_allclose(slopes[shares > 0], slopes.min(), rtol=1e-6)


def test_a_perfect_member_gets_the_share_of_one():
    kinds = matrices(3)
    blend = BlendedOperator([Linear(kind) for kind in kinds], held_out=0.25).fit(linear_data(kinds[1]))
    np.testing.assert_array_equal(blend.shares_, [0, 1, 0])
    assert not blend.helps_
    assert "does not help" in blend.verdict_
    np.testing.assert_allclose(blend.member_errors_[1], 0, atol=1e-15)


def test_a_member_whose_errors_are_those_of_a_better_one_gets_no_share():
    truth, wrong = matrices(2)
    members = [Linear(truth + 0.2 * wrong), Linear(truth + 0.1 * wrong)]
    blend = BlendedOperator(members, held_out=0.25).fit(linear_data(truth))
    np.testing.assert_array_equal(blend.shares_, [0, 1])
    assert blend.held_out_error_ == blend.member_errors_[1]


def test_members_of_independent_errors_blend_by_the_inverse_of_their_squares():
    rng = np.random.default_rng(5)
    outputs = np.ones((4000, 8))
    sizes = np.array([0.1, 0.2, 0.3])
    shares = blend_shares(outputs + sizes[:, None, None] * rng.standard_normal((3, 4000, 8)), outputs)
    np.testing.assert_allclose(shares, sizes**-2 / np.sum(sizes**-2), atol=0.01)


@pytest.mark.parametrize(("refit", "counts"), [("auto", [30, 40]), (True, [30, 40]), (False, [30])])
def test_members_do_not_learn_from_held_out_functions_before_the_shares_are_chosen(refit, counts):
    truth, wrong = matrices(2)
    member = Linear(truth + 0.1 * wrong)
    blend = BlendedOperator([member], held_out=0.25, refit=refit).fit(linear_data(truth))
    assert member.seen == counts
    assert not hasattr(member, "fitted_")
    np.testing.assert_array_equal(blend.shares_, [1])


def test_the_functions_held_out_are_those_that_a_split_sets_apart():
    data = linear_data(matrices(1)[0])
    np.testing.assert_array_equal(data.take(_held_out_rows(40, 0.1, 3)).inputs, data.split(4, 3)[1].inputs)


@pytest.mark.parametrize("reflection", [-1, 0])
def test_left_out_answers_equal_a_dense_solution_without_those_functions(reflection):
    rng = np.random.default_rng(2)
    grid = np.arange(POINTS)[:, None] / POINTS
    data = OperatorDataset(*rng.standard_normal((2, 9, POINTS)), grid, grid)
    settings = FourierSettings("matern52", reflection=reflection, ridge=1e-6)
    rows = np.array([2, 7, 5])
    solution, said = solve_leaving_out(data, settings, rows, (POINTS,))
    kernel = FourierKernel.for_inputs(settings, data.inputs, (POINTS,))
    gram = kernel.gram(kernel.filter(data.inputs))
    size = 9 * POINTS
    dense = np.stack([gram.apply(unit.reshape(9, POINTS)).ravel() for unit in np.eye(size)])
    target = solution.scale.normalise(data.outputs).ravel()
    out = np.isin(np.repeat(np.arange(9), POINTS), rows)
    expected = dense[np.ix_(out, ~out)] @ np.linalg.solve(dense[np.ix_(~out, ~out)], target[~out])
    # In the grid's order of functions, as the mask has it.
    found = solution.scale.normalise(said)[np.argsort(rows)]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    coefficients = gram.transform(np.linalg.solve(dense, target).reshape(9, POINTS))
    np.testing.assert_allclose(solution.coefficients, coefficients, atol=1e-6 * np.abs(coefficients).max())


def test_a_closed_form_fitted_while_leaving_out_is_the_one_fitted_to_all(blurred_tanh):
    train, test = blurred_tanh(40, 16).split(test=10, key=0)
    settings = BranchTrunkSettings("matern52")
    plain = InfiniteWidthOperator(settings=settings).fit(train)
    same, said = fit_leaving_out(plain, train, np.arange(4))
    np.testing.assert_allclose(same.predict(test.inputs), plain.predict(test.inputs), rtol=1e-9)
    assert (same.settings_, same.form_) == (settings, "branch-trunk")
    alone = InfiniteWidthOperator(settings=settings).fit(train.take(slice(4, None)))
    np.testing.assert_allclose(said, alone.predict(train.inputs[:4]), rtol=1e-9)


@pytest.mark.slow
def test_what_is_chosen_for_a_closed_form_is_kept_with_its_reasons(blurred_tanh):
    train = blurred_tanh(24, 8)
    operator = InfiniteWidthOperator("fourier", "matern52")
    fitted, _ = fit_leaving_out(operator, train, np.arange(4))
    plain = operator.fit(train)
    assert fitted.settings_ == plain.settings_ == fitted.reports_[0].settings
    np.testing.assert_allclose(fitted.predict(train.inputs), plain.predict(train.inputs), rtol=1e-6, atol=1e-9)
    assert fitted.settings is None


@pytest.mark.slow
def test_a_blend_of_a_closed_form_and_trained_operators_is_no_worse_than_any(blurred_tanh):
    train, test = blurred_tanh(160, 16).split(test=60, key=0)
    closed = InfiniteWidthOperator(settings=FourierSettings("matern52", reflection=-1))
    fixed = {"output_modes": 5, "input_norm": 1.0, "decay": 1.0, "reflection": -1, "samples": 16, "ridge": 1e-6}
    trained = [TrainedFourierOperator(6, 5, evaluations=6, key=key, **fixed) for key in (0, 1)]
    blend = BlendedOperator([closed, *trained]).fit(train)
    errors = [member.score(test) for member in blend.members_]
    assert blend.score(test) < 1.05 * min(errors)
    assert blend.held_out_error_ <= blend.member_errors_.min()
    # Key 0: the blend's held-out functions are its own. Key 1: its filters have learnt from fewer functions.
    themselves = [one.fit(train).predict(test.inputs) for one in trained]
    again = [one.predict(test.inputs) for one in blend.members_[1:]]
    np.testing.assert_array_equal(again[0], themselves[0])
    assert 0 < np.std(again[1] - themselves[1]) < 0.1 * np.std(themselves[1])


def test_shares_led_by_disagreement_are_recovered():
    rng = np.random.default_rng(4)
    middle = rng.standard_normal((60, POINTS))
    apart = np.exp(rng.standard_normal((60, 1)) - 3)
    predictions = middle + apart * rng.standard_normal((3, 60, POINTS))
    near, far = np.quantile(disagreement(predictions), (0.1, 0.9))
    truth = Shares(np.array([0.9, 0.1, 0.0]), np.array([0.2, 0.3, 0.5]), near, far)
    outputs = truth.blend(predictions)
    found = led_shares(predictions, outputs)
    np.testing.assert_allclose(found.agreed, truth.agreed, atol=1e-7)
    np.testing.assert_allclose(found.disagreed, truth.disagreed, atol=1e-7)
    chosen, errors = choose_shares(predictions, outputs)
    assert not chosen.fixed
    # The quantiles of nine tenths are others, so it is not met exactly.
    assert errors["led"] < 0.5 * errors["fixed"] < 0.5 * errors["alone"]
    np.testing.assert_allclose(truth.of(predictions).sum(axis=0), 1)


class Cubic(Linear):
    """Says a cubic function of the inputs at any point of the line, the same for all points but for a factor."""

    def predict(self, inputs: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
        points = np.arange(POINTS)[:, None] / POINTS if points is None else points
        inputs = np.asarray(inputs) / 3
        powers = np.sum(inputs, axis=1, keepdims=True) + np.sum(self.matrix[0] * inputs**3, axis=1, keepdims=True)
        return powers * np.cos(self.matrix[0, 0] * points.T)


def test_led_shares_do_not_depend_on_the_points_asked_for():
    kinds = matrices(2, seed=8)
    grid = np.arange(POINTS)[:, None] / POINTS
    inputs = np.random.default_rng(1).standard_normal((100, POINTS))
    said = np.stack([Cubic(kind).predict(inputs) for kind in kinds])
    near, far = np.quantile(disagreement(said), (0.1, 0.9))
    truth = Shares(np.array([0.9, 0.1]), np.array([0.1, 0.9]), near, far)
    data = OperatorDataset(inputs, truth.blend(said), grid, grid)
    blend = BlendedOperator([Cubic(kind) for kind in kinds], held_out=0.5).fit(data)
    assert not blend.led_shares_.fixed
    np.testing.assert_allclose(blend.predict(inputs, grid[3:4]), blend.predict(inputs)[:, 3:4], rtol=1e-12)
    assert blend.score(data) < 0.3 * blend.member_errors_.min()


def test_no_led_shares_on_a_fine_mesh_do_better():
    rng = np.random.default_rng(6)
    outputs = rng.standard_normal((40, 5))
    hard = np.exp(rng.standard_normal((40, 1)))
    predictions = outputs + np.stack([0.1 * hard**2, 0.15 * hard]) * rng.standard_normal((2, 40, 5))
    found = led_shares(predictions, outputs)
    levels = np.linspace(0, 1, 41)

    def error(agreed: np.ndarray, disagreed: np.ndarray) -> float:
        shares = Shares(agreed, disagreed, found.near, found.far)
        return float(np.mean(relative_errors(shares.blend(predictions), outputs)))

    best = min(error(np.array([a, 1 - a]), np.array([d, 1 - d])) for a, d in itertools.product(levels, levels))
    assert error(found.agreed, found.disagreed) <= best * (1 + 1e-9)
    assert found.agreed[0] > found.disagreed[0]


def test_what_cannot_be_blended_is_refused_in_one_line():
    kinds = matrices(2)
    data = linear_data(kinds[0])
    member = Linear(kinds[0])
    refused = [
        (BlendedOperator([]), data, "at least one operator"),
        (BlendedOperator([member, 3]), data, "came int"),
        (BlendedOperator([TrainedFourierOperator]), data, "TrainedFourierOperator itself"),
        (BlendedOperator([member], held_out=1.0), data, "share between 0 and 1, came 1"),
        (BlendedOperator([member], refit="never"), data, "came 'never'"),
        (BlendedOperator([member]), data.take(slice(0, 9)), "at least 20 training functions, came 9"),
        (BlendedOperator([Linear(np.full((POINTS, POINTS), np.nan))]), data, "member 1, Linear: expected finite"),
        (
            BlendedOperator(),
            OperatorDataset(data.inputs, data.outputs, data.sensor_points**2, data.query_points),
            "give",
        ),
    ]
    for blend, functions, words in refused:
        with pytest.raises((DataError, ForetrainError), match=words) as caught:
            blend.fit(functions)
        assert "\n" not in str(caught.value)
    with pytest.raises(ForetrainError, match="call fit"):
        BlendedOperator([member]).predict(data.inputs)
    with pytest.raises(ForetrainError, match="came 'width'"):
        BlendedOperator().set_params(width=3)
    with pytest.raises(DataError, match="came shape"):
        blend_shares(data.outputs, data.outputs)
    changed = BlendedOperator().set_params(held_out=0.2, members=[member])
    assert changed.get_params()["held_out"] == 0.2
