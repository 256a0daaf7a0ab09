import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain.training import train
from foretrain.training._certificate import certify


@pytest.fixture(scope="module")
def held(data, planned, wide):
    return train(data, **planned(wide))


@pytest.fixture(scope="module")
def left(data, planned, narrow):
    return train(data, **planned(narrow))


@pytest.fixture(scope="module")
def unstable(data, planned, wide):
    return train(data, **planned(wide, 2.5))


def check_of(run, beginning):
    return next(check for check in run.certificate.checks if check.name.startswith(beginning))


def embedded(model, data):
    embedding = model.embedding_for(data)
    return (jnp.asarray(x, jnp.float32) for x in (embedding.inputs(data.inputs), embedding.points(data.query_points)))


def jacobian(network, model, data):
    """d outputs / d (trunk, branch), one row for each function and point."""
    inputs, points = embedded(model, data)

    def outputs(trunk, branch):
        features = jax.nn.relu(points @ trunk.T)
        neurons = jax.nn.relu(jnp.einsum("iq,rkq->irk", inputs, branch))
        width, branch_width = network.outer.shape
        return (jnp.einsum("irk,rk->ir", neurons, network.outer) @ features.T).ravel() / (width * branch_width) ** 0.5

    parts = jax.jacobian(outputs, argnums=(0, 1))(network.trunk, network.branch)
    return np.concatenate([np.asarray(part, np.float64).reshape(data.outputs.size, -1) for part in parts], axis=1)


def test_at_half_the_stable_step_size_a_wide_network_does_what_dense_linear_algebra_says(data, wide, held):
    start = wide.initialise(data, jax.random.key(0))
    features = jacobian(start, wide, data)
    kernel = features @ features.T
    values, vectors = np.linalg.eigh(kernel)
    assert held.forecast.step_size * values[-1] == pytest.approx(1, abs=5e-3)
    inputs, points = embedded(wide, data)
    target = (data.outputs - data.outputs.mean()) / data.outputs.std()
    residual = vectors.T @ (np.asarray(start.normalised(inputs, points)) - target).ravel()
    factors = (1 - held.forecast.step_size * values[None, :]) ** held.steps[:, None]
    linear = np.mean((factors * residual) ** 2, axis=1)
    np.testing.assert_allclose(held.forecast.loss[held.steps], linear, rtol=2e-3)
    assert np.all(np.abs(np.log(held.loss / linear)) < 0.2)
    assert held.certificate.verdict == "held"
    assert held.certificate.first_violation is None
    assert "inside its forecast band" in held.certificate.sentence
    assert all(check.held for check in held.certificate.checks)


def test_beyond_the_stable_step_size_training_stops_with_the_last_good_weights(data, wide, unstable):
    certificate = unstable.certificate
    assert certificate.verdict == "unstable"
    assert unstable.loss[-1] > 1.05 * unstable.loss[-2]
    assert np.all(unstable.loss[1:-1] <= 1.05 * unstable.loss[:-2])
    assert certificate.first_violation == unstable.steps[-1] < unstable.forecast.steps
    assert "lower the step size" in certificate.sentence
    assert "\n" not in certificate.sentence
    assert not check_of(unstable, "step size times largest").held
    # The weights kept are those of the measurement before the one that broke.
    inputs, points = embedded(wide, data)
    target = (data.outputs - data.outputs.mean()) / data.outputs.std()
    kept = np.mean((np.asarray(unstable.network.normalised(inputs, points)) - target) ** 2)
    assert kept == pytest.approx(unstable.loss[-2], rel=1e-4)
    assert all(np.all(np.isfinite(getattr(unstable.network, name))) for name in ("trunk", "branch", "outer"))


def test_a_narrow_network_leaves_the_linear_regime_at_its_first_step_outside_the_band(left):
    told, certificate = left.forecast, left.certificate
    assert certificate.verdict == "left the linear regime"
    outside = [k for k, loss in zip(left.steps, left.loss, strict=True) if abs(np.log(loss / told.loss[k])) > 0.25]
    inside = [k for k, loss in zip(left.steps, left.loss, strict=True) if abs(np.log(loss / told.loss[k])) < 0.15]
    assert certificate.first_violation is not None
    assert certificate.first_violation <= outside[0]
    assert certificate.first_violation not in inside
    assert f"step {certificate.first_violation}" in certificate.sentence
    assert not check_of(left, "loss against its forecast band").held
    assert check_of(left, "loss against its forecast band").value > 1


@pytest.mark.parametrize(("ratio", "by_chance"), [(1.02, True), (1.5, False)])
def test_a_loss_hardly_beyond_the_band_is_not_said_to_prove_that_features_are_learnt(held, ratio, by_chance):
    measured = held.certificate.measurements
    last = replace(measured[-1], loss=ratio * held.forecast.upper[measured[-1].step])
    certificate = certify((*measured[:-1], last), held.forecast, rows=1)
    assert certificate.verdict == "left the linear regime"
    assert certificate.first_violation == last.step
    assert ("by at most 2 %: one draw in ten does so by chance" in certificate.sentence) == by_chance
    assert "90 % forecast band" in certificate.sentence


@pytest.mark.parametrize("run", ["held", "left"])
def test_distances_are_the_largest_over_neurons(data, request, run):
    run = request.getfixturevalue(run)
    model_width, branch_width = run.network.outer.shape
    start = type(request.getfixturevalue("narrow"))(model_width, branch_width).initialise(data, jax.random.key(0))
    trunk = np.asarray(run.network.trunk, np.float64) - np.asarray(start.trunk)
    branch = np.asarray(run.network.branch, np.float64) - np.asarray(start.branch)
    last = run.certificate.measurements[-1]
    assert last.distances["trunk"] == pytest.approx(max(np.linalg.norm(row) for row in trunk), rel=1e-4)
    neurons = branch.reshape(-1, branch.shape[-1])
    assert last.distances["branch"] == pytest.approx(max(np.linalg.norm(row) for row in neurons), rel=1e-4)
    first = run.certificate.measurements[0]
    assert first.distances == {"trunk": 0, "branch": 0}
    assert first.kernel_drift == 0


def test_kernel_drift_and_growth_are_those_of_the_dense_kernels(data, narrow, left):
    before, after = (
        jacobian(network, narrow, data) for network in (narrow.initialise(data, jax.random.key(0)), left.network)
    )
    kernel, moved = before @ before.T, after @ after.T
    probes = np.random.default_rng(0).standard_normal((2, *data.outputs.shape)).reshape(2, -1)
    changes = [np.linalg.norm((moved - kernel) @ v) / np.linalg.norm(kernel @ v) for v in probes]
    last = left.certificate.measurements[-1]
    assert last.kernel_drift == pytest.approx(np.sqrt(np.mean(np.square(changes))), rel=1e-3)
    # The probes are few, so the dense drift, over all directions, is what they estimate.
    drift = np.linalg.norm(moved - kernel) / np.linalg.norm(kernel)
    assert 0.5 * drift < last.kernel_drift < 2 * drift
    values, vectors = np.linalg.eigh(kernel)
    growth = np.linalg.norm(moved @ vectors[:, -1]) / values[-1]
    assert last.eigenvalue_max == pytest.approx(growth, rel=5e-3)
    sharpness = (
        left.forecast.step_size
        * values[-1]
        * max(m.eigenvalue_max for m in left.certificate.measurements if m.eigenvalue_max)
    )
    assert check_of(left, "step size times largest").value == pytest.approx(sharpness, rel=5e-3)


def relu_kernels(rows):
    """K and D of the ReLU in closed form, from angles."""
    size = np.linalg.norm(rows, axis=1)
    angle = np.arccos(np.clip(rows @ rows.T / np.outer(size, size), -1, 1))
    value = np.outer(size, size) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return value, rows @ rows.T * (np.pi - angle) / (2 * np.pi)


def test_the_worst_case_curve_and_the_radius_are_the_theorems(data, wide, held):
    embedding = wide.embedding_for(data)
    (value_u, slope_u), (value_y, slope_y) = (
        relu_kernels(rows) for rows in (embedding.inputs(data.inputs), embedding.points(data.query_points))
    )
    least = sum(np.linalg.eigvalsh(np.kron(*pair))[0] for pair in ((value_u, slope_y), (slope_u, value_y)))
    assert least > 0
    curve = held.loss[0] * (1 - held.forecast.step_size * least / 2) ** held.steps
    np.testing.assert_allclose(held.forecast.worst_case_loss[held.steps], curve, rtol=1e-5)
    against = check_of(held, "loss against the worst-case rate")
    assert against.value == pytest.approx(np.max(held.loss / curve), rel=1e-5)
    residual = np.sqrt(held.loss[0] * data.outputs.size)
    radius = np.sqrt(data.outputs.size) * residual / (np.sqrt(wide.width) * least)
    trunk, branch = check_of(held, "trunk weights"), check_of(held, "branch weights")
    assert trunk.limit == pytest.approx(radius, rel=1e-3)
    assert branch.limit == pytest.approx(radius / np.sqrt(wide.branch_width), rel=1e-3)
    assert [check.status for check in (against, trunk, branch)] == ["guarantee", "estimate", "estimate"]
    last = held.certificate.measurements[-1]
    assert (trunk.value, branch.value) == (last.distances["trunk"], last.distances["branch"])


def test_a_certificate_is_plain_values(held, unstable):
    for run in (held, unstable):
        record = json.loads(json.dumps(run.certificate.as_dict()))
        assert record["verdict"] == run.certificate.verdict
        assert [row["step"] for row in record["measurements"]] == list(run.steps)
