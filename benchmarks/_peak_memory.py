"""Peak memory of a forecast and of a training step, each in a process of its own (Linux: /proc tells it)."""

import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax

import foretrain as ft
from foretrain.forecast import advance, motion_of, training_arrays
from foretrain.models import draw_network

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The largest resident size this process has had."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(what: str, model_name: str) -> dict[str, int]:
    """Bytes beyond those of the process with the data, and of the Krylov basis."""
    from _forecast_promises import LARGE, LONG_RUN

    train, model = ft.problems.burgers(1000, resolution=128), LARGE[model_name]
    # The solver that made the data may have taken more than the data do.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    if what == "forecast":
        told = ft.forecast(train, model, None, LONG_RUN)
        return {"bytes": peak_bytes() - before, "basis_bytes": told.curves.basis.vectors.nbytes}
    network, method = draw_network(model, train, 0), ft.GradientDescent(1e-6)
    motion, _ = advance(motion_of(network, method), *training_arrays(network, train), method, 0, 2)
    jax.block_until_ready(eqx.filter(motion, eqx.is_array))
    return {"bytes": peak_bytes() - before, "basis_bytes": 0}


def in_own_process(what: str, model_name: str) -> dict[str, int] | None:
    """`measured`, or None where the system does not tell."""
    if not STATUS.exists():
        return None
    done = subprocess.run([sys.executable, __file__, what, model_name], capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
