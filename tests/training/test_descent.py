import jax
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.forecast import GradientDescent, HeavyBall
from foretrain.models import ShallowOperator
from foretrain.training import train


def relu_network(inputs, points, trunk, branch, outer):
    """Outputs of the block form and what its gradient needs; [XLH]'s formula, written out."""
    width, branch_width = outer.shape
    before_trunk = points @ trunk.T
    before_branch = np.einsum("iq,rkq->irk", inputs, branch)
    trunk_values = np.maximum(before_trunk, 0)
    branch_values = np.einsum("irk,rk->ir", np.maximum(before_branch, 0), outer) / branch_width**0.5
    return branch_values @ trunk_values.T / width**0.5, trunk_values, branch_values, before_trunk, before_branch


def descend_by_hand(inputs, points, target, network, step_size, steps):
    """Gradient descent on 1/2 sum r^2 in double precision; mean squared residuals and weights after every step."""
    trunk, branch, outer = (np.asarray(getattr(network, name), np.float64) for name in ("trunk", "branch", "outer"))
    shared = branch.ndim == 2
    losses, weights = [], []
    for _ in range(steps + 1):
        full = np.broadcast_to(branch, (len(outer), *branch.shape)) if shared else branch
        outputs, trunk_values, branch_values, before_trunk, before_branch = relu_network(
            inputs, points, trunk, full, outer
        )
        residual = outputs - target
        losses.append(np.mean(residual**2))
        weights.append((trunk, branch, outer))
        width, branch_width = outer.shape
        trunk_slope = (residual.T @ branch_values / width**0.5 * (before_trunk > 0)).T @ points
        back = residual @ trunk_values / width**0.5 / branch_width**0.5
        branch_slope = np.einsum("ir,rk,irk,iq->rkq", back, outer, before_branch > 0, inputs)
        outer_slope = np.einsum("ir,irk->rk", back, np.maximum(before_branch, 0))
        trunk = trunk - step_size * trunk_slope
        branch = branch - step_size * (branch_slope.sum(axis=0) if shared else branch_slope)
        if network.train_outer:
            outer = outer - step_size * outer_slope
    return np.array(losses), weights


def by_hand(model, data, told, key=0):
    network = model.initialise(data, jax.random.key(key))
    inputs, points = model.embedding_for(data).inputs(data.inputs), model.embedding_for(data).points(data.query_points)
    target = (data.outputs - data.outputs.mean()) / data.outputs.std()
    return descend_by_hand(inputs, points, target, network, told.step_size, told.steps)


@pytest.mark.parametrize(
    "model", [ShallowOperator(8, 4), ShallowOperator(8, 4, form="shared", train_outer=True)], ids=["block", "shared"]
)
def test_losses_and_weights_are_those_of_gradient_descent_written_out(data, planned, model):
    # With half the usual step even the trained outer weights keep clear of chaos, which would magnify rounding.
    asked = planned(model, 0.5)
    run = train(data, **asked)
    losses, weights = by_hand(model, data, asked["told"])
    np.testing.assert_allclose(run.loss, losses[run.steps], rtol=1e-5)
    for name, expected in zip(("trunk", "branch", "outer"), weights[-1], strict=True):
        np.testing.assert_allclose(getattr(run.network, name), expected, atol=2e-6)


def test_the_measured_test_error_is_that_of_the_network_it_returns(data, unseen, planned, narrow):
    run = train(data, **planned(narrow), test=unseen)
    outputs = np.asarray(run.network(unseen.inputs, unseen.query_points))
    error = np.mean(np.linalg.norm(outputs - unseen.outputs, axis=1) / np.linalg.norm(unseen.outputs, axis=1))
    assert run.certificate.measurements[-1].test_error == pytest.approx(error, rel=1e-5)
    assert run.score(unseen) == pytest.approx(error, rel=1e-6)


def test_the_same_key_gives_the_same_run_bit_for_bit_and_another_key_another(data, planned, narrow):
    first, second = (train(data, **planned(narrow)) for _ in range(2))
    other = train(data, **planned(narrow, key=1))
    np.testing.assert_array_equal(first.loss, second.loss)
    for name in ("trunk", "branch", "outer"):
        np.testing.assert_array_equal(getattr(first.network, name), getattr(second.network, name))
    assert first.loss[0] != other.loss[0]


def test_progress_planneds_the_loss_the_last_step_started_from(data, planned, narrow):
    heard = {}

    def listen(stage, done, total, figures=None):
        if stage == "training":
            heard[done] = figures

    told = planned(narrow)["told"]
    run = train(data, **planned(narrow), progress=listen)
    losses = dict(zip(run.steps, run.loss, strict=True))
    for done, figures in heard.items():
        if done - 1 in losses:
            assert figures["loss"] == pytest.approx(losses[done - 1], rel=1e-5)
        assert figures["forecast"] == told.loss[done - 1]
    assert max(heard) == told.steps


def test_only_what_was_forecast_is_run(data, planned, narrow):
    with pytest.raises(ForetrainError, match="expected a forecast made for HeavyBall") as refused:
        train(data, **planned(narrow), method=HeavyBall())
    assert "\n" not in str(refused.value)
    with pytest.raises(ForetrainError, match="expected a method that can be run") as refused:
        train(data, narrow, "Adam")
    assert "\n" not in str(refused.value)
    with pytest.raises(ForetrainError, match="forecast made for the step size 1e-06") as refused:
        train(data, **planned(narrow), method=GradientDescent(1e-6))
    assert "\n" not in str(refused.value)
