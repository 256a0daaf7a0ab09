"""How the noise of batches goes on: its energies by a linear recurrence, its spread, its image on test functions."""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import RegularGridInterpolator

from foretrain.forecast._batch_noise import SKETCH, NoiseNodes, NoiseSampler, centred_squares
from foretrain.forecast._mean_dynamics import TINY, MeanDynamics, combined

Array = np.ndarray
BLOCKS = 32
"""Blocks of steps for each doubling of the step, so that the mean residual changes little within one."""


def block_grid(steps: int) -> Float[Array, " grid"]:
    """Every step at first, then BLOCKS for each doubling, to `steps` or a little beyond."""
    pieces, start, size = [np.arange(2 * BLOCKS + 1)], 2 * BLOCKS, 2
    while pieces[-1][-1] < steps:
        pieces.append(np.arange(start + size, 2 * start + 1, size))
        start, size = 2 * start, 2 * size
    grid = np.concatenate(pieces)
    return grid[: int(np.searchsorted(grid, steps)) + 1].astype(float)


def mark_steps(mean: MeanDynamics, steps: int, marks: int) -> Float[Array, " marks"]:
    """The start, and steps from the fastest mode's time to the last, as long as there is a residual."""
    fastest = min(max(mean.fastest_mode_steps, 1.0), max(steps / 2, 1.0))
    times = np.unique(np.append(0, np.geomspace(fastest, steps, marks - 1).round()))
    left = mean.bounds(times)[0]
    return times[(times == 0) | (np.isfinite(left) & (left > 1e-200 * left[0]))]


def mean_sources(mean: MeanDynamics, grid: Float[Array, " grid"], marks: Array) -> Float[Array, "grid marks"]:
    """The mean loss after each step, divided among the marks that stand for it.

    A mark's share falls off linearly in the logarithm of the step.
    """
    unit = mean.fastest_mode_steps
    shares = [np.interp(np.log1p(grid / unit), np.log1p(marks / unit), row) for row in np.eye(len(marks))]
    return mean.loss(grid)[:, None] * np.stack(shares, axis=1)


def noise_energies(
    nodes: NoiseNodes, step_size: float, grid: Float[Array, " grid"], sources: Float[Array, "grid marks"]
) -> Float[Array, "grid nodes"]:
    """Energies at the nodes, e(k+1) = A e(k) + injected(k), by doubling A and sum_{t < size} A^t with the blocks."""
    marks = range(nodes.groups, nodes.groups + sources.shape[1])
    injected = sources @ np.stack([nodes.injected(step_size, mark) for mark in marks])
    power = np.diag((1 - step_size * nodes.eigenvalues) ** 2)
    for group in range(nodes.groups):
        power += np.outer(nodes.injected(step_size, group), nodes.shares[:, group])
    total, size = np.eye(len(power)), 1.0
    energies = np.zeros_like(injected)
    for index, length in enumerate(np.diff(grid)):
        while size < length:
            total, power, size = total + power @ total, power @ power, 2 * size
        within = injected[index] if size == 1 else (injected[index] + injected[index + 1]) / 2
        energies[index + 1] = power @ energies[index] + total @ within
    return energies


def noise_floor(nodes: NoiseNodes, step_size: float, sources: Float[Array, " marks"]) -> float:
    """What the energies add up to in the end, were the sources to stay: (1 - gain)^-1 of what they keep up alone."""
    marks = range(nodes.groups, nodes.groups + len(sources))
    kept = np.stack([nodes.kept_in_all(step_size, mark) for mark in marks], axis=1)
    lasting = nodes.shares.T @ kept @ sources
    return float(np.sum(np.linalg.solve(np.eye(nodes.groups) - nodes.gain(step_size), lasting)))


def loss_variance(
    nodes: NoiseNodes,
    sampler: NoiseSampler,
    mean: MeanDynamics,
    grid: Float[Array, " grid"],
    energies: Float[Array, "grid nodes"],
) -> Float[Array, " grid"]:
    """4 m^T S m + 2 tr S^2 of the mean squared residual, m its mean and S its covariance."""
    sketches = sampler.sketch(combined(mean.eigenpairs[1].T, mean.basis))
    means = mean.coefficients(grid) @ sketches / np.sqrt(mean.rows)
    along_mean = sampler.strength * mean.step_size**2 * _along_mean(mean, grid) / mean.rows**2
    # Noise of noise has lost the mean residual's form: its directions have independent signs.
    later = np.where(nodes.source < nodes.groups, energies, 0.0)
    along_mean += np.sum(later * (means @ nodes.sketches.T) ** 2, axis=1)
    return 4 * along_mean + 2 * _trace_of_square(nodes, energies)


def _along_mean(mean: MeanDynamics, grid: Array) -> Array:
    """sum_{j<k} sum_f (centred) (m_{j,f} . [Theta (1 - h Theta)^{k-1-j} m_k]_f)^2, interpolated in two log steps."""
    last = 2 * grid[-1]
    places = np.unique(np.append(np.arange(4), np.geomspace(4, last + 1, int(6 * np.log10(last)) + 2).round()))
    earlier = mean.residual(places)
    squares = np.empty((len(places), len(places)))
    for index, place in enumerate(places):
        later = mean.residual(np.array([place]), power=1)[0]
        squares[:, index] = centred_squares(np.einsum("afp,fp->af", earlier, later))
    logarithms = np.log1p(places)
    table = RegularGridInterpolator((logarithms, logarithms), np.log(np.clip(squares, TINY, 1e300)))
    sums = np.zeros(len(grid))
    for index in range(1, len(grid)):
        lengths = np.diff(grid[: index + 1])
        middles = grid[:index] + (lengths - 1) / 2
        found = table(np.log1p(np.stack([middles, 2 * grid[index] - 1 - middles], axis=1)))
        sums[index] = np.sum(lengths * np.exp(found))
    return sums


def _trace_of_square(nodes: NoiseNodes, energies: Array) -> Array:
    """tr S^2 as the mean squared inner product of two independent draws of the noise."""
    draws = nodes.draws
    owner = nodes.source * draws + nodes.draw
    number = int(owner.max()) + 1
    same = np.equal.outer(np.arange(number) // draws, np.arange(number) // draws)
    pairs = np.where(same, 1 / (draws * (draws - 1)), 1 / draws**2) * (1 - np.eye(number))
    inner_products = nodes.sketches @ nodes.sketches.T
    belongs = np.equal.outer(np.arange(number), owner)
    traces = np.empty(len(energies))
    for index, energy in enumerate(energies):
        amplitudes = belongs * np.sqrt(np.maximum(draws * energy, 0))
        inner = amplitudes @ inner_products @ amplitudes.T
        # A sketch adds |s|^2 |s'|^2 / SKETCH to the square of an inner product.
        bias = np.outer(np.diag(inner), np.diag(inner)) / SKETCH
        traces[index] = max(float(np.sum(pairs * (inner**2 - bias))), 0.0)
    return traces


def noise_on_test(nodes: NoiseNodes, energies: Float[Array, "grid nodes"]) -> Float[Array, "grid test_functions"]:
    """Squared noise on each test function, the mean over the draws of every source."""
    owner = nodes.source * nodes.draws + nodes.draw
    starts = np.flatnonzero(np.append(True, np.diff(owner) != 0))
    total: Array = np.zeros((len(energies), nodes.images[0].shape[-1]))
    for start, images in zip(starts, nodes.images, strict=True):
        amplitudes = np.sqrt(np.maximum(energies[:, start : start + len(images)], 0))
        total = total + np.einsum("ki,kj,ijf->kf", amplitudes, amplitudes, images, optimize=True)
    return total
