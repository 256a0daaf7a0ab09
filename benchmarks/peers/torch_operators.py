"""One network of another library, trained on one file of functions as its authors train it, within processor seconds.

Peers:
- fno: neuraloperator's FNO, 16 modes and 64 channels on the line, 12 x 12 modes and 32 channels in the plane, four
  layers, all else at its defaults; data through its own `UnitGaussianNormalizer` and `DefaultDataProcessor`, relative
  L2 loss (`LpLoss`), its `AdamW` with weight decay 1e-4, batches of 16, learning rate 5e-3 halved after every fifth of
  training (its Darcy configuration: 60 of 300 epochs).
- deeponet, pod-deeponet: DeepXDE's `DeepONetCartesianProd` and `PODDeepONet` with sizes, activations, features, scaling
  and learning rates of Lu et al. 2022 (https://arxiv.org/abs/2111.05512; github.com/lu-group/deeponet-fno): their
  Burgers recipe on periodic lines, their advection recipe on other lines, their Darcy recipe, with convolutions in the
  branch, in the plane. Unlike theirs, the basis of pod-deeponet never sees test functions. All functions are one batch,
  as with them; in the plane 50, for the convolutions would leave a processor no more than a step each second.

What the authors fix in epochs (hundreds of thousands for a DeepONet) is here a share of the budget: learning rates fall
over the processor seconds there are. The clock stands still while the test functions are looked at; they decide nothing
but which error is called the best. Latency is that of one function through everything, raw values to raw values, in
torch's inference mode on one thread; `latency_kept` is a DeepONet's with the trunk's answers at the points kept from
before.

Run: make bench-shrink-peers, or .venv-torch-modules/bin/python torch_operators.py PEER DATA --json FILE [--seconds N]
"""

import argparse
import datetime
import json
import os
import platform
import resource
from pathlib import Path

import numpy as np

os.environ.setdefault("DDE_BACKEND", "pytorch")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from _deepxde_deeponet import train_deeponet
from _neuraloperator_fno import train_fno
from _training import timed, verdict

PEERS = ("fno", "deeponet", "pod-deeponet")


def measure(options):
    """Everything about one peer on one file."""
    import deepxde
    import neuralop
    import torch

    from foretrain.data import load_split

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - DeepXDE draws its batches from the global generator
    train, test = load_split(options.data, options.test, key=0)
    load = os.getloadavg()[0]
    training = train_fno if options.peer == "fno" else train_deeponet
    header = (
        f"{datetime.date.today()}, {platform.machine()}, one thread, load {load:.1f} at the start, torch "
        f"{torch.__version__}, neuraloperator {neuralop.__version__}, DeepXDE {deepxde.__version__}"
    )
    if options.latency_only:
        kept = json.loads(options.json.read_text())
        options.dense_branch = kept["settings"].get("dense_branch", False)
        _, calls, _, _, settings = training(train, test, 1e-3, options)
        latencies = {name: timed(call) for name, call in calls.items()}
        return kept | latencies | {"settings": settings | kept["settings"], "latency_header": header}
    looks, calls, parameters, numbers, settings = training(train, test, options.seconds, options)
    converged, words = verdict(looks.curve, options.seconds)
    return {
        "peer": options.peer,
        "problem": options.problem or options.data.stem,
        "train_fingerprint": train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "functions": [len(train), len(test)],
        "settings": settings,
        "parameters": parameters,
        "numbers": numbers,
        "best_error_percent": min(looks.curve["test_error_percent"]),
        "final_error_percent": looks.curve["test_error_percent"][-1],
        "processor_seconds": looks.curve["seconds"][-1],
        "wall_seconds": looks.curve["wall_seconds"][-1],
        "budget_seconds": options.seconds,
        "steps": looks.steps,
        "converged": converged,
        "verdict": words,
        **{name: timed(call) for name, call in calls.items()},
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seed": options.seed,
        "header": header,
        "curve": looks.curve,
    }


def main():
    """One peer, one file, one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("data", type=Path, help="npz file of foretrain's format")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0, help="processor seconds of training")
    parser.add_argument("--test", type=int, help="functions held out where the file does not say, by default a sixth")
    parser.add_argument("--problem", default="", help="name of the problem; by default the file's")
    parser.add_argument("--batch", type=int, help="functions in a batch, instead of the authors' number")
    parser.add_argument("--learning-rate", type=float, help="instead of the authors'")
    parser.add_argument("--dense-branch", action="store_true", help="no convolutions in the plane")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-only", action="store_true", help="time the network of a result again, untrained")
    options = parser.parse_args()
    result = measure(options)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.json.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1))
    os.replace(unfinished, options.json)
    shown = {name: value for name, value in result.items() if name != "curve"}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
