"""Which modes are learnt, against dense eigendecompositions and against kernels whose eigenfunctions are known."""

import json
import re

import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.forecast import GradientDescent, HeavyBall, spectral_curves
from foretrain.forecast._mode_shapes import roughness, sign_changes
from foretrain.forecast._modes import explain_modes, remaining_residual
from foretrain.report._mode_chart import mode_charts, plot_modes

FUNCTIONS, POINTS = 5, 12


def dense_problem(decades, seed=0):
    """A kernel with a spectrum over some decades on functions x points, and a residual."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(FUNCTIONS * POINTS, FUNCTIONS * POINTS)))
    values = np.logspace(-decades, 0, FUNCTIONS * POINTS)
    return values, vectors, rng.normal(size=(FUNCTIONS, POINTS))


def krylov(kernel, residual, method, steps, max_krylov=500, tolerance=-1.0):
    """No tolerance is ever met: the space grows to its limit or until nothing is left over."""
    return spectral_curves(
        lambda r: (kernel @ r.ravel()).reshape(r.shape), residual, method, steps, tolerance=tolerance,
        max_krylov=max_krylov,
    )  # fmt: skip


def on_the_circle(sizes, method, steps, points=48, functions=16):
    """A kernel that learns wave w of the circle at the rate 1 / (1 + w)^4, and travelling waves of some sizes."""
    angle = 2 * np.pi * np.arange(points) / points
    waves = np.minimum(np.arange(points), points - np.arange(points))
    column = np.real(np.fft.ifft(1 / (1.0 + waves) ** 4))
    kernel = column[(np.arange(points)[:, None] - np.arange(points)) % points]
    phase = 2 * np.pi * np.arange(functions)[:, None] / functions
    residual = sum(size * np.sin(wave * (angle + phase)) for wave, size in sizes.items())
    curves = spectral_curves(lambda r: r @ kernel, residual, method, steps, tolerance=0.0)
    return explain_modes(curves, method, steps, query_points=angle / (2 * np.pi))


@pytest.mark.parametrize("method", [GradientDescent(1.0), HeavyBall(0.8, 1.0)], ids=["descent", "heavy ball"])
@pytest.mark.parametrize("steps", [3, 40, 1000])
def test_at_full_rank_shares_and_remaining_residual_are_those_of_the_eigendecomposition(method, steps):
    values, vectors, residual = dense_problem(3)
    curves = krylov((vectors * values) @ vectors.T, residual, method, steps)
    report = explain_modes(curves, method, steps)
    coefficients = vectors.T @ residual.ravel()
    factor = method.residual_factor(values, np.array([steps]))[0]
    energy, kept = coefficients**2 / np.sum(coefficients**2), factor**2
    expected = {
        "learnt": kept < 0.05,
        "half-learnt": (kept >= 0.05) & (kept <= 0.5),
        "unresolved": np.zeros(len(kept), bool),
        "not learnt": kept > 0.5,
    }
    for group in report.groups:
        inside = expected[group.name]
        assert group.modes == np.sum(inside)
        assert group.share == pytest.approx(energy @ inside, abs=1e-8)
        assert group.kept == pytest.approx((energy * kept) @ inside, abs=1e-8)
    left = (vectors @ (factor * coefficients)).reshape(residual.shape)
    np.testing.assert_allclose(remaining_residual(curves, method, steps), left, atol=1e-8)
    np.testing.assert_allclose(report.learnt_share, 1 - energy @ kept, atol=1e-8)
    assert report.remaining.energy == pytest.approx(energy @ kept, abs=1e-8)
    assert report.learnt.energy == pytest.approx(energy @ (1 - factor) ** 2, abs=1e-8)
    np.testing.assert_allclose([shape.share for shape in report.remaining.shapes],
                               (np.linalg.svd(left)[1] ** 2 / np.sum(left**2))[:4], atol=1e-8)  # fmt: skip


def test_each_shape_is_ninety_per_cent_learnt_at_its_step_and_not_before():
    values, vectors, residual = dense_problem(2)
    method, steps = GradientDescent(1.0), 30
    report = explain_modes(krylov((vectors * values) @ vectors.T, residual, method, steps), method, steps)
    coefficients = vectors.T @ residual.ravel()

    def along(shape, step):
        left = (vectors @ ((1 - values) ** step * coefficients)).reshape(residual.shape)
        return np.sum((left @ shape.values) ** 2)

    for part, since in ((report.initial, 0), (report.learnt, 0), (report.remaining, steps)):
        assert len(part.shapes) == 4
        for shape in part.shapes:
            assert along(shape, shape.steps) <= 0.1 * along(shape, since) * (1 + 1e-9)
            assert along(shape, shape.steps - 1) > 0.1 * along(shape, since) * (1 - 1e-9)


def test_the_steps_needed_are_those_until_a_tenth_of_what_remains_is_left():
    values, vectors, residual = dense_problem(2)
    method = GradientDescent(1.0)
    report = explain_modes(krylov((vectors * values) @ vectors.T, residual, method, 50), method, 50)
    energy = (vectors.T @ residual.ravel()) ** 2

    def left(step):
        return np.sum((1 - values) ** (2 * step) * energy)

    assert report.steps_needed[0] == report.steps_needed[1]
    assert left(report.steps_needed[0]) <= 0.1 * left(50) < left(report.steps_needed[0] - 1)


def test_on_the_circle_the_slow_waves_are_what_remains():
    sizes, points = {1: 3.0, 3: 2.0, 7: 1.0}, 48
    report = on_the_circle(sizes, GradientDescent(1.0), 300)
    groups = {group.name: group for group in report.groups}
    assert groups["learnt"].share == pytest.approx(9 / 14, abs=1e-8)
    assert groups["half-learnt"].share == pytest.approx(4 / 14, abs=1e-8)
    assert groups["not learnt"].share == pytest.approx(1 / 14, abs=1e-8)
    assert groups["unresolved"].share < 1e-12
    rates = {wave: np.log1p(-1 / (1.0 + wave) ** 4) for wave in sizes}
    left = {wave: sizes[wave] ** 2 * np.exp(600 * rates[wave]) for wave in sizes}
    # Two shapes for each wave, of equal share, that span its sine and cosine.
    angle = 2 * np.pi * np.arange(points) / points
    for wave, pair in ((7, report.remaining.shapes[:2]), (3, report.remaining.shapes[2:])):
        both = np.stack([shape.values for shape in pair]) / points**0.5
        for function in (np.sin, np.cos):
            assert np.sum((both @ function(wave * angle)) ** 2) == pytest.approx(points / 2, rel=1e-8)
        for shape in pair:
            assert shape.share == pytest.approx(left[wave] / sum(left.values()) / 2, rel=1e-8)
            assert shape.steps == 300 + np.ceil(np.log(0.1) / (2 * rates[wave]))
            assert 2 * wave - 1 <= shape.sign_changes[0] <= 2 * wave
    assert report.initial.sign_changes[0] < report.remaining.sign_changes[0]


def test_the_summary_says_how_much_is_learnt_what_remains_and_how_long_it_takes():
    report = on_the_circle({1: 1.0, 7: 0.5}, GradientDescent(1.0), 300)
    learnt = 1 - 0.2 * (1 - 8.0**-4) ** 600
    needed = 300 + round(np.log(0.1) / (2 * np.log(1 - 8.0**-4)))
    assert report.steps_needed[0] == pytest.approx(needed, abs=1)
    assert report.summary == (
        f"By step 300, {100 * learnt:.0f} % of the target is learnt; what remains changes sign about 14 times along y "
        f"and needs about {round(needed, -2):,} steps."
    )
    assert json.loads(json.dumps(report.as_dict()))["summary"] == report.summary


def test_shares_over_time_sum_to_one_and_agree_with_the_report():
    values, vectors, residual = dense_problem(3)
    method = GradientDescent(1.0)
    curves = krylov((vectors * values) @ vectors.T, residual, method, 100)
    report = explain_modes(curves, method, 100)
    np.testing.assert_allclose(report.group_shares.sum(axis=0), 1, rtol=1e-12)
    assert report.marks[0] == 1
    assert report.marks[-1] >= 1000
    at_last = explain_modes(curves, method, int(report.marks[-1]))
    np.testing.assert_allclose([group.share for group in at_last.groups], report.group_shares[:, -1], atol=1e-14)
    assert at_last.remaining.energy == pytest.approx(report.kept[-1], rel=1e-9)


@pytest.mark.parametrize("size", [6, 12, 25])
@pytest.mark.parametrize("steps", [30, 1000, 30_000])
def test_a_small_krylov_space_says_what_it_does_not_know(size, steps):
    # Wide energies on a dense spectrum: the shares it claims may be off by what it calls unresolved, hardly by more.
    rng = np.random.default_rng(1)
    values, vectors, _ = dense_problem(6)
    residual = (vectors @ (rng.normal(size=len(values)) * values**0.1)).reshape(FUNCTIONS, POINTS)
    method = GradientDescent(1.0)
    report = explain_modes(krylov((vectors * values) @ vectors.T, residual, method, steps, size), method, steps)
    energy = (vectors.T @ residual.ravel()) ** 2 / np.sum(residual**2)
    kept = (1 - values) ** (2 * steps)
    truth = {"learnt": energy @ (kept < 0.05), "not learnt": energy @ (kept > 0.5)}
    for group in report.groups:
        if group.name in truth:
            assert group.share - 0.01 <= truth[group.name] <= group.share + report.unresolved + 0.01
    low, high = report.learnt_share
    assert low - 1e-9 <= 1 - energy @ kept <= high + 1e-9


def test_unresolved_energy_is_in_the_summary():
    values, vectors, residual = dense_problem(6)
    method = GradientDescent(1.0)
    report = explain_modes(krylov((vectors * values) @ vectors.T, residual, method, 1000, 8), method, 1000)
    assert report.unresolved > 0.01
    assert "cannot tell apart" in report.summary
    assert "at least" in report.summary


def test_on_a_plane_signs_are_counted_along_each_axis():
    first, second = np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 31), indexing="ij")
    points = np.stack([first, second], axis=-1).reshape(-1, 2)
    wave = np.cos(2 * np.pi * first) * np.cos(5 * np.pi * second)
    shuffled = np.random.default_rng(0).permutation(len(points))
    changes = sign_changes(wave.reshape(1, -1)[:, shuffled], points[shuffled])
    np.testing.assert_allclose(changes, [2, 5])
    assert roughness(changes) == "changes sign about twice along y1 and about 5 times along y2"
    assert sign_changes(np.ones((1, 5)), np.random.default_rng(0).random((5, 2))) is None
    assert roughness(sign_changes(np.ones((1, 9)), np.arange(9.0)[:, None])) == "keeps its sign"


def test_noise_around_zero_is_no_change_of_sign():
    points = np.linspace(0, 1, 200)
    bump = np.exp(-((points - 0.5) ** 2) / 0.002) + 0.01 * (-1.0) ** np.arange(200)
    assert sign_changes(bump[None], points[:, None]) == (0.0,)


def test_what_cannot_be_explained_is_refused_in_one_line():
    values, vectors, residual = dense_problem(2)
    kernel = (vectors * values) @ vectors.T
    method = GradientDescent(1.0)
    curves = krylov(kernel, residual, method, 10)
    with pytest.raises(DataError, match="12 query points"):
        explain_modes(curves, method, 10, query_points=np.arange(5.0))
    with pytest.raises(ForetrainError, match="at least one shape"):
        explain_modes(curves, method, 10, count=0)
    with pytest.raises(ForetrainError, match="lower the step size"):
        explain_modes(curves, HeavyBall(0.5, 50.0), 10_000)
    scattered = krylov(kernel, residual.ravel(), method, 10)
    with pytest.raises(ForetrainError, match="functions x points"):
        explain_modes(scattered, method, 10)


def test_the_charts_show_what_the_report_says():
    report = on_the_circle({1: 3.0, 3: 2.0, 7: 1.0}, GradientDescent(1.0), 300)
    shares, shapes = mode_charts(report.as_dict())
    areas = [trace for trace in shares.data if trace.get("stackgroup")]
    np.testing.assert_allclose(np.sum([trace["y"] for trace in areas], axis=0), 1, atol=1e-4)
    assert shares.description == report.summary
    for trace, shape in zip(shapes.data, report.remaining.shapes, strict=True):
        np.testing.assert_allclose(trace["y"], shape.values, rtol=1e-4, atol=1e-12)
    assert re.match(r"35\s% of what remains; .* by step 5\s016", shapes.layout["annotations"][0]["text"])
    figures = plot_modes(report)
    assert len(figures) == 2
    assert "@" not in figures[0].to_json()


def test_on_a_plane_the_slow_shapes_are_maps():
    first, second = np.meshgrid(np.arange(6) / 6, np.arange(8) / 8, indexing="ij")
    points = np.stack([first, second], axis=-1).reshape(-1, 2)
    fast, slow = np.ones(48) / 48**0.5, np.cos(2 * np.pi * (first + 0.07)).ravel()
    slow = slow / np.linalg.norm(slow)
    kernel = np.outer(fast, fast) + 0.01 * np.outer(slow, slow)
    method = GradientDescent(1.0)
    residual = np.array([[1.0], [2.0]]) * fast + np.array([[2.0], [-1.0]]) * slow
    curves = spectral_curves(lambda r: r @ kernel, residual, method, 20, tolerance=0.0)
    report = explain_modes(curves, method, 20, query_points=points)
    assert "changes sign about twice along y1 and not along y2" in report.summary
    _, chart = mode_charts(report.as_dict())
    np.testing.assert_allclose(np.ravel(np.transpose(chart.data[0]["z"])), report.remaining.shapes[0].values, rtol=1e-4)
    np.testing.assert_allclose(np.abs(report.remaining.shapes[0].values), np.abs(slow) * 48**0.5, atol=1e-6)
