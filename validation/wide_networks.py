"""What the convergence theorems say of wide operators, measured for gradient descent and flow at widths 2^6 to 2^14.

Run: .venv/bin/python validation/wide_networks.py [--json FILE] [--plot FILE] [--exponents 6 14] [--steps 2000]
Trains ReLU networks in block form from residuals of two kinds: that of real data, and one along the slowest mode of the
infinite-width kernel, for which the worst-case curve is nearly sharp. Prints a table over widths, a verdict on every
statement of Xu, Li, Huang (arXiv 2412.05545), and how distances and drift scale with width. All widths are far below
what the theorem asks for: this shows from which width on its statements hold here, and proves or refutes nothing.
"""

import argparse
import datetime
import functools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from foretrain._foundation import double_precision
from foretrain.data import OperatorDataset, choose_embedding
from foretrain.forecast import descend, log_spaced_steps, training_arrays
from foretrain.models import ShallowOperator, ShallowOperatorNetwork
from foretrain.problems import antiderivative
from foretrain.tangent import convergence_quantities, tangent_kernel
from foretrain.training import integrate_flow

FUNCTIONS, POINTS, BRANCH_WIDTH = 16, 16, 4
SCALE = 2.0
ROUNDING = 1e-9
Network = ShallowOperatorNetwork


@dataclass(frozen=True)
class Measured:
    """One network, one target and one method.

    `loss_over_bound` is the largest ratio of the loss to the worst-case curve, `radius` that of the trunk; eigenvalues
    are the least of the empirical kernel, at the start and the smallest later (for the flow: at the end).
    """

    width: int
    target: str
    method: str
    loss: float
    loss_over_bound: float
    final_loss_over_bound: float
    trunk_distance: float
    branch_distance: float
    radius: float
    branch_radius: float
    eigenvalue_start: float
    eigenvalue_least: float
    kernel_drift: float
    gradients: int
    seconds: float


def dense_kernel(network: Network, inputs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """J J^T of a ReLU network in block form [functions * points, same], both trained terms written out."""
    width, branch_width = network.outer.shape
    trunk, branch, outer = (np.asarray(array, np.float64) for array in (network.trunk, network.branch, network.outer))
    before_trunk = points @ trunk.T
    before = np.tensordot(inputs, branch, axes=(1, 2))
    sums = np.sum(np.maximum(before, 0) * outer, axis=-1)
    trunk_features = (sums[:, None, :] * (before_trunk > 0)[None]).reshape(-1, width) / np.sqrt(width * branch_width)
    of_points, of_inputs = points @ points.T, inputs @ inputs.T
    kernel = trunk_features @ trunk_features.T * np.tile(of_points, (len(inputs), len(inputs)))
    values = np.maximum(before_trunk, 0)
    switched = np.einsum("irk,jrk->ijr", before > 0, before > 0, dtype=np.float64, optimize=True)
    pairs = np.einsum("ar,br->abr", values, values).reshape(-1, width)
    both = (switched.reshape(-1, width) @ pairs.T).reshape(len(inputs), len(inputs), len(points), len(points))
    both *= of_inputs[:, :, None, None] / (width * branch_width)
    return kernel + both.transpose(0, 2, 1, 3).reshape(kernel.shape)


def problem() -> tuple[OperatorDataset, ShallowOperator]:
    """Rough inputs and long embedded vectors, so that the kernel's least eigenvalue is well above rounding."""
    data = antiderivative(FUNCTIONS, POINTS, modes=2 * POINTS, decay=0.0)
    embedding = choose_embedding(data, input_norm=SCALE, point_scale=SCALE)
    return data, ShallowOperator(1, BRANCH_WIDTH, embedding=embedding)


def along_slowest_mode(network: Network, model: ShallowOperator, data: OperatorDataset) -> OperatorDataset:
    """Outputs for which the network's first residual is the kernel's slowest mode, as long as the data's residual."""
    inputs, points, target = training_arrays(network, data)
    outputs = np.asarray(network.normalised(inputs, points))
    mode = tangent_kernel(model, data).eigenpair_min(1e-8).vector.reshape(outputs.shape)
    residual = np.linalg.norm(outputs - np.asarray(target)) * mode / np.linalg.norm(mode)
    return OperatorDataset(
        data.inputs, network.scale.restore(outputs - residual), data.sensor_points, data.query_points, name="slowest"
    )


@jax.jit
def advance(network: Network, inputs: Any, points: Any, target: Any, step_size: Any, steps: Any) -> Network:
    return jax.lax.fori_loop(0, steps, lambda _, moving: descend(moving, inputs, points, target, step_size)[0], network)


@jax.jit
def measure(network: Network, start: Network, inputs: Any, points: Any, target: Any) -> tuple[Any, Any, Any]:
    loss = jnp.mean((network.normalised(inputs, points) - target) ** 2)
    trunk = jnp.max(jnp.linalg.norm(network.trunk - start.trunk, axis=-1))
    return loss, trunk, jnp.max(jnp.linalg.norm(network.branch - start.branch, axis=-1))


def follow_descent(
    start: Network, data: OperatorDataset, step_size: float, marks: np.ndarray, kernel: Callable
) -> tuple:
    """Losses and distances at the marks, kernels at every fourth mark and the last."""
    arrays = training_arrays(start, data)
    network, done, figures, kernels = start, 0, [], []
    for number, mark in enumerate(marks):
        network = advance(network, *arrays, step_size, jnp.asarray(mark - done))
        done = mark
        figures.append([float(value) for value in measure(network, start, *arrays)])
        if number % 4 == 0 or mark == marks[-1]:
            kernels.append(kernel(network))
    return *np.array(figures).T, kernels, int(marks[-1])


def follow_flow(start: Network, data: OperatorDataset, step_size: float, marks: np.ndarray, kernel: Callable) -> tuple:
    """The same by gradient flow at times step_size * marks, kernels at the start and the end only."""
    result = integrate_flow(start, data, step_size * marks)
    distances = result.distances["trunk"], result.distances["branch"]
    return result.loss, *distances, [kernel(start), kernel(result.network)], result.gradients


def study(width: int, steps: int) -> list[Measured]:
    data, narrow = problem()
    model = ShallowOperator(width, BRANCH_WIDTH, embedding=narrow.embedding)
    start = model.initialise(data, jax.random.key(width))
    targets = {"data": data, "slowest mode": along_slowest_mode(start, model, data)}
    inputs, points = (np.asarray(array) for array in training_arrays(start, data)[:2])
    kernel = functools.partial(dense_kernel, inputs=inputs, points=points)
    marks = log_spaced_steps(steps, per_decade=8)
    rows = []
    for target, wanted in targets.items():
        first = np.sqrt(float(measure(start, start, *training_arrays(start, wanted))[0]) * wanted.outputs.size)
        known = convergence_quantities(model, data, initial_residual=first)
        curves = {
            "descent": (follow_descent, (1 - known.rate_per_step) ** marks),
            "flow": (follow_flow, np.exp(-known.rate_per_time * known.step_size * marks)),
        }
        for method, (follow, bound) in curves.items():
            begin = time.perf_counter()
            loss, trunk, branch, kernels, gradients = follow(start, wanted, known.step_size, marks, kernel)
            least = [float(np.linalg.eigvalsh(each)[0]) for each in kernels]
            drift = max(np.linalg.norm(each - kernels[0]) for each in kernels) / np.linalg.norm(kernels[0])
            ratio = loss / (bound * loss[0])
            rows.append(
                Measured(
                    width=width,
                    target=target,
                    method=method,
                    loss=float(loss[-1] / loss[0]),
                    loss_over_bound=float(np.max(ratio)),
                    final_loss_over_bound=float(ratio[-1]),
                    trunk_distance=float(np.max(trunk)),
                    branch_distance=float(np.max(branch)),
                    radius=float(known.trunk_radius or np.inf),
                    branch_radius=float(known.branch_radius or np.inf),
                    eigenvalue_start=least[0],
                    eigenvalue_least=min(least),
                    kernel_drift=float(drift),
                    gradients=gradients,
                    seconds=time.perf_counter() - begin,
                )
            )
            print_row(rows[-1])
    return rows


def print_row(row: Measured) -> None:
    print(
        f"{row.width:6d} {row.target:13}{row.method:8} {row.loss:9.2e} {row.loss_over_bound:8.4f} "
        f"{row.final_loss_over_bound:8.4f} {row.trunk_distance:9.2e} {row.radius:9.1e} {row.branch_distance:9.2e} "
        f"{row.branch_radius:9.1e} {row.eigenvalue_start:9.2e} {row.eigenvalue_least / row.eigenvalue_start:6.3f} "
        f"{row.kernel_drift:9.2e} {row.gradients:6d} {row.seconds:7.1f}",
        flush=True,
    )


STATEMENTS: dict[str, Callable[[Measured], bool]] = {
    "loss at or below the worst-case curve": lambda row: row.loss_over_bound <= 1 + ROUNDING,
    "trunk weights within the radius": lambda row: row.trunk_distance <= row.radius,
    "branch weights within the radius": lambda row: row.branch_distance <= row.branch_radius,
    "least eigenvalue keeps half of its start": lambda row: row.eigenvalue_least >= row.eigenvalue_start / 2,
}
SCALINGS = ("trunk_distance", "branch_distance", "kernel_drift")


def verdicts(rows: list[Measured]) -> list[dict[str, Any]]:
    """For each target, method and statement: the widths at which it held and failed."""
    found = []
    for target, method in dict.fromkeys((row.target, row.method) for row in rows):
        some = [row for row in rows if (row.target, row.method) == (target, method)]
        for statement, holds in STATEMENTS.items():
            failed = [row.width for row in some if not holds(row)]
            found.append({"target": target, "method": method, "statement": statement, "failed": failed})
    return found


def exponents(rows: list[Measured], widest: int = 5) -> list[dict[str, Any]]:
    """Least-squares slopes of log quantity in log width, over all widths and over the widest."""
    found = []
    for target, method in dict.fromkeys((row.target, row.method) for row in rows):
        some = [row for row in rows if (row.target, row.method) == (target, method)]
        widths = np.log([row.width for row in some])
        for quantity in SCALINGS:
            values = np.log([getattr(row, quantity) for row in some])
            slopes = [
                float(np.polyfit(widths[part], values[part], 1)[0]) for part in (slice(None), slice(-widest, None))
            ]
            found.append(
                {"target": target, "method": method, "quantity": quantity, "all": slopes[0], "widest": slopes[1]}
            )
    return found


def draw(rows: list[Measured], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharex=True)
    for axis, method in zip(axes, ("descent", "flow"), strict=True):
        some = [row for row in rows if row.method == method and row.target == "data"]
        widths = np.array([row.width for row in some])
        for quantity in SCALINGS:
            axis.loglog(widths, [getattr(row, quantity) for row in some], "o-", label=quantity.replace("_", " "))
        axis.loglog(widths, some[0].trunk_distance * (widths / widths[0]) ** -0.5, "k:", label="width^(-1/2)")
        axis.set(title=f"gradient {method}", xlabel="width m")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


@double_precision
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--plot", type=Path, help="draw distances and drift against width into this file")
    parser.add_argument("--exponents", type=int, nargs=2, default=(6, 14), help="widths 2^first to 2^last")
    parser.add_argument("--steps", type=int, default=2000, help="of gradient descent")
    chosen = parser.parse_args()
    versions = {"jax": jax.__version__, "diffrax": diffrax.__version__, "numpy": np.__version__}
    data, model = problem()
    known = convergence_quantities(model, data)
    header = {
        "date": str(datetime.date.today()),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        **versions,
        "rows": known.rows,
        "branch_width": BRANCH_WIDTH,
        "steps": chosen.steps,
        "step_size": known.step_size,
        "trunk_eigenvalue": known.trunk_eigenvalue,
        "branch_eigenvalue": known.branch_eigenvalue,
        "eigenvalue_min": known.eigenvalue_min,
        "theorem_width": known.theorem_width,
    }
    print(*(f"{name} {value}" for name, value in header.items()), sep="; ")
    print(
        f"{'width':>6} {'residual':13}{'method':8} {'loss':>9} {'/ bound':>8} {'at end':>8} {'trunk':>9} {'radius':>9} "
        f"{'branch':>9} {'radius':>9} {'least ev':>9} {'kept':>6} {'drift':>9} {'grads':>6} {'s':>7}"
    )
    first, last = chosen.exponents
    rows = [row for exponent in range(first, last + 1) for row in study(2**exponent, chosen.steps)]
    judged, slopes = verdicts(rows), exponents(rows)
    for verdict in judged:
        outcome = f"fails at widths {verdict['failed']}" if verdict["failed"] else "holds at every width"
        print(f"{verdict['target']:13}{verdict['method']:8} {verdict['statement']:42} {outcome}")
    for slope in slopes:
        print(
            f"{slope['target']:13}{slope['method']:8} {slope['quantity']:16} ~ width^{slope['all']:.3f}, "
            f"widest five: ^{slope['widest']:.3f}"
        )
    if chosen.json:
        table = [asdict(row) for row in rows]
        chosen.json.write_text(json.dumps({"header": header, "rows": table, "verdicts": judged, "exponents": slopes}))
    if chosen.plot:
        draw(rows, chosen.plot)


if __name__ == "__main__":
    main()
