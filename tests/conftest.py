"""Small data that many rooms test with."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Two test processes share two cores: more threads than that each would only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Small problems are compiled for longer than they run: a third of that time goes without optimisation.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0")

import jax
import numpy as np
import pytest

from foretrain.data import OperatorDataset
from foretrain.problems import burgers

FIRST = (
    "test_readme",
    "test_pipeline",
    "test_training_plan",
    "test_every_activation",
    "test_fno",
    "test_activations",
    "test_any_network",
    "test_likelihood",
    "test_infinite_width_operator",
    "test_compress",
    "test_outer_layer",
    "test_two_timescales",
    "test_fourier_training",
    "test_reproduce",
    "test_trained_fourier",
    "test_filtered_fourier",
)
"""The files that take longest: begun last, one of them would keep one process busy while the other waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the longest before the others; the order is otherwise as collected."""
    order = {stem: place for place, stem in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs() -> Iterator[None]:
    """Forgets compiled programs between files before they use up what Linux allows a process (65,530 mappings)."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def small_burgers() -> OperatorDataset:
    """Sixty functions on a periodic grid of 32 points."""
    return burgers(samples=60, resolution=32, viscosity=0.05, time_steps=50)


@pytest.fixture(scope="session")
def small_plane() -> OperatorDataset:
    """Thirty functions on a periodic grid of 6 x 8 points: noise, and its squares shifted along the second axis."""
    axes = np.meshgrid(np.arange(6) / 6, np.arange(8) / 8, indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, 2)
    inputs = np.random.default_rng(0).standard_normal((30, 6, 8))
    outputs = np.roll(inputs, 1, axis=2) ** 2
    return OperatorDataset(inputs, outputs, points, points, name="plane")


@pytest.fixture(scope="session")
def blurred_tanh() -> Callable[..., OperatorDataset]:
    """Draws functions of a translation-equivariant operator that needs no simulation, at `points` of the unit circle.

    u -> G * tanh(2 u), G a Gaussian blur; u a random field with decaying coefficients. It commutes with translations
    and with the odd reflection u(x) -> -u(-x), as Burgers' equation does.
    """

    def draw(samples: int, points: int, key: int = 0) -> OperatorDataset:
        waves = np.arange(points // 2)
        rng = np.random.default_rng(key)
        coefficients = rng.normal(size=(samples, waves.size)) + 1j * rng.normal(size=(samples, waves.size))
        coefficients[:, 0] = 0
        fine = 8 * points
        inputs = np.fft.irfft(coefficients / (1 + waves**2 / 4) ** 2, n=fine, axis=1) * fine / 2
        spectrum = np.fft.rfft(np.tanh(2 * inputs), axis=1)
        outputs = np.fft.irfft(spectrum * np.exp(-(np.arange(fine // 2 + 1) ** 2) / 18), n=fine, axis=1)
        return OperatorDataset(inputs[:, ::8], outputs[:, ::8])

    return draw


@pytest.fixture
def double() -> Iterator[None]:
    """The test computes in double precision."""
    with jax.enable_x64(True):
        yield
