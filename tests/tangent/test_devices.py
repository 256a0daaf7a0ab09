"""Eight simulated devices against one: the same numbers, each device holding its share."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import device_count
from foretrain.data import OperatorDataset
from foretrain.tangent import (
    BranchTrunkSettings,
    EmpiricalKernel,
    FourierKernel,
    FourierSettings,
    GridKernel,
    InfiniteWidthOperator,
    Symmetry,
    Term,
    _empirical,
)

pytestmark = pytest.mark.slow

DEVICES = 8
DOUBLE = 1e-10
SINGLE = 1e-5 if jax.default_backend() == "cpu" else 1e-4
FUNCTIONS, POINTS = 13, 12
MIRROR = Symmetry("mirror", tuple(range(POINTS))[::-1], tuple(range(POINTS))[::-1])
FORMS = {
    "branch-trunk": BranchTrunkSettings("erf", "erf", 2.0, ridge=1e-4),
    "symmetric": BranchTrunkSettings("erf", "erf", 2.0, ridge=1e-4, symmetries=(MIRROR,)),
    "fourier": FourierSettings("matern52", ridge=1e-6, reflection=-1),
}
GRIDS = {"reflected line": ((POINTS,), -1), "plane": ((3, 4), 0)}


def share(array):
    """On how many devices an array lies, and how many of its rows on each."""
    return [len(array.sharding.device_set), len(array.addressable_shards[0].data)]


def of_algebra(name, kernel, residual):
    solution = kernel.solve_with_report(residual)
    assert solution.relative_residual < 1e-10
    yield f"{name}: apply", kernel.apply(residual)
    yield f"{name}: solve", solution.value
    yield f"{name}: log-determinant and jitter", [kernel.logdet(), *kernel.jitter]


def of_a_grid_kernel():
    rng = np.random.default_rng(0)
    roots = [(rng.normal(size=(16, 32)), rng.normal(size=(6, 12))) for _ in range(2)]
    kernel = GridKernel(tuple(Term(a @ a.T, b @ b.T) for a, b in roots))
    yield from of_algebra("grid", kernel, rng.normal(size=kernel.shape))
    yield "grid: least eigenvalue", kernel.eigenvalue_min()
    new = tuple(Term(rng.normal(size=(5, 16)), rng.normal(size=(3, 6))) for _ in range(2))
    yield "grid: explained variance", kernel.explained_variance(new)
    yield "share of A1", share(kernel._arrays[0])


def data(functions, key=0):
    rng = np.random.default_rng(key)
    grid = (np.arange(POINTS) + 0.5) / POINTS
    inputs = rng.normal(size=(functions, 3)) @ np.cos(2 * np.pi * np.outer(range(3), grid) + [[0], [1], [2]])
    return OperatorDataset(inputs, np.tanh(inputs), grid, grid)


def of_operators():
    train, new = data(FUNCTIONS), data(FUNCTIONS, key=1).inputs
    for form, settings in FORMS.items():
        operator = InfiniteWidthOperator(settings=settings).fit(train)
        yield f"{form}: prediction", operator.predict(new)
        if form == "fourier":
            continue
        gram = operator.solution_.gram
        yield from of_algebra(form, gram, train.outputs)
        part = gram if form == "branch-trunk" else gram.parts[0]
        yield f"share of A1, {form}", share(part._arrays[0])
        yield f"share of V, {form}", share(part._basis.functions)


def of_circulant_kernels():
    for name, (shape, reflection) in GRIDS.items():
        inputs = data(FUNCTIONS).inputs
        kernel = FourierKernel.for_inputs(replace(FORMS["fourier"], reflection=reflection), inputs, shape)
        gram = kernel.gram(kernel.filter(inputs))
        yield from of_algebra(name, gram, np.tanh(inputs))
        yield f"{name}: least eigenvalue", gram.eigenvalue_min()
        yield f"share of frequencies, {name}", share(next(gram._systems())[1])


def network(weights, inputs, points):
    inner, outer = weights
    return jnp.tanh(inputs @ inner) @ (outer * jnp.cos(jnp.arange(20)[:, None] * points))


def of_a_network():
    rng = np.random.default_rng(2)
    weights = tuple(jnp.asarray(rng.normal(size=(rows, columns)), jnp.float32) for rows, columns in ((5, 20), (20, 1)))
    inputs = jnp.asarray(rng.normal(size=(FUNCTIONS, 5)), jnp.float32)
    # One function at once on one device, eight on eight.
    kernel = EmpiricalKernel(network, weights, inputs, jnp.linspace(0, 1, POINTS), chunk=1)
    rows, pull = [], _empirical._pull
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_empirical, "_pull", lambda *arguments: rows.append(share(arguments[2])) or pull(*arguments))
        yield "single: network", kernel.apply(rng.normal(size=kernel.shape))
    yield "single: network's outputs", kernel.outputs()
    yield "share of a network's inputs", rows[-1]


def everything():
    with jax.default_matmul_precision("highest"):
        parts = (of_a_grid_kernel, of_operators, of_circulant_kernels, of_a_network)
        return {name: np.asarray(value) for part in parts for name, value in part()}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """By however many devices there are, and by eight simulated ones."""
    path = tmp_path_factory.mktemp("devices") / "numbers.npz"
    simulated = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen([sys.executable, "-W", "error", __file__, path], env=os.environ | simulated) as process:
        here = everything()
    assert process.returncode == 0
    with np.load(path) as file:
        return here, dict(file)


def test_eight_devices_give_the_numbers_of_one(numbers):
    here, on_eight = numbers
    assert on_eight.keys() == here.keys()
    wrong = {}
    for name, value in here.items():
        if "share" not in name:
            deviation = np.linalg.norm(on_eight[name] - value) / (np.linalg.norm(value) or 1.0)
            # Solving magnifies rounding by the kernel's condition.
            allowed = 100 * DOUBLE if "solve" in name else DOUBLE
            if not deviation <= (SINGLE if "single" in name else allowed):
                wrong[name] = deviation
    assert not wrong


def test_every_device_holds_an_equal_share(numbers):
    _, on_eight = numbers
    assert {name: tuple(value) for name, value in on_eight.items() if "share" in name} == {
        "share of A1": (DEVICES, 2),
        # Thirteen functions are filled up to sixteen.
        "share of A1, branch-trunk": (DEVICES, 2),
        "share of V, branch-trunk": (DEVICES, 2),
        "share of A1, symmetric": (DEVICES, 2),
        "share of V, symmetric": (DEVICES, 2),
        # The two frequencies that equal their own negative come first; the plane has nine.
        "share of frequencies, reflected line": (DEVICES, 1),
        "share of frequencies, plane": (DEVICES, 2),
        "share of a network's inputs": (DEVICES, 1),
    }


if __name__ == "__main__":
    assert device_count() == DEVICES
    np.savez(sys.argv[1], **everything())
