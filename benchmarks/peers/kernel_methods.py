"""Kernel ridge, random features and linear regression of scikit-learn on one file of functions, as their authors do.

Methods:
- linear: ridge regression from inputs to outputs, its strength by generalised cross-validation.
- random-features: 2,000 random Fourier features (`RBFSampler`) of the inputs, ridge by cross-validation; scale by a
  tenth of the training functions held out.
- kernel-matern, kernel-rational-quadratic: Gaussian-process regression, one kernel for all outputs, its length, shape
  and nugget by marginal likelihood (`GaussianProcessRegressor`, one restart), as Batlle et al. 2023 do
  (https://arxiv.org/abs/2304.13202); with `-pca` inputs and outputs are compressed to principal components with 99.99 %
  (inputs) and 99.9999 % (outputs) of the variance first, as they do in the plane. Hyper-parameters from at most 250
  functions; the fit takes all.

Run: make bench, or .venv-torch-modules/bin/python kernel_methods.py METHOD DATA --json FILE
"""

import argparse
import datetime
import json
import os
import platform
import resource
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _training import timed

METHODS = (
    "linear",
    "random-features",
    "kernel-matern",
    "kernel-matern-pca",
    "kernel-rational-quadratic",
    "kernel-rational-quadratic-pca",
)
HYPER_FUNCTIONS, RESTARTS = 250, 1
FEATURES, SCALES = 2000, 2.0 ** np.arange(-6, 3)
INPUT_VARIANCE, OUTPUT_VARIANCE = 0.9999, 0.999999
RIDGES = 10.0 ** np.arange(-12.0, 6.0)


class Scaled:
    """Inputs and outputs around their means with one scale each, compressed to principal components if asked."""

    def __init__(self, train, compressed):
        from sklearn.decomposition import PCA

        self.input_mean, self.output_mean = train.inputs.mean(axis=0), train.outputs.mean(axis=0)
        self.input_scale, self.output_scale = np.std(train.inputs), np.std(train.outputs)
        centred = (train.inputs - self.input_mean) / self.input_scale
        self.into = PCA(INPUT_VARIANCE).fit(centred) if compressed else None
        out = (train.outputs - self.output_mean) / self.output_scale
        self.out = PCA(OUTPUT_VARIANCE).fit(out) if compressed else None
        self.targets = self.out.transform(out) if self.out else out

    def inputs(self, values):
        centred = (values - self.input_mean) / self.input_scale
        return self.into.transform(centred) if self.into else centred

    def outputs(self, values):
        values = self.out.inverse_transform(values) if self.out else values
        return values * self.output_scale + self.output_mean


def linear(inputs, targets):
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(RIDGES).fit(inputs, targets)
    return model.predict, model.coef_.size, {"ridge": float(model.alpha_)}


def random_features(inputs, targets):
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import RidgeCV

    held = np.arange(len(inputs)) % 10 == 0
    typical = 1 / np.mean(np.sum(inputs**2, axis=1))
    found = []
    for scale in SCALES:
        drawn = RBFSampler(gamma=scale * typical, n_components=FEATURES, random_state=0).fit(inputs)
        model = RidgeCV(RIDGES).fit(drawn.transform(inputs[~held]), targets[~held])
        error = np.mean((model.predict(drawn.transform(inputs[held])) - targets[held]) ** 2)
        found.append((error, scale, drawn, model.alpha_))
    _, scale, drawn, ridge = min(found, key=lambda each: each[0])
    model = RidgeCV([ridge]).fit(drawn.transform(inputs), targets)
    numbers = model.coef_.size + drawn.random_weights_.size + drawn.random_offset_.size
    return lambda given: model.predict(drawn.transform(given)), numbers, {"scale": float(scale), "ridge": float(ridge)}


def kernel_ridge(inputs, targets, name):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, RationalQuadratic, WhiteKernel

    length = float(np.sqrt(np.mean(np.sum(inputs**2, axis=1))))
    bounds = (1e-2 * length, 1e3 * length)
    if "matern" in name:
        shape = Matern(length, bounds, nu=2.5)
    else:
        shape = RationalQuadratic(length, 1.0, bounds, (1e-3, 1e3))
    kernel = shape + WhiteKernel(1e-6, (1e-12, 1.0))
    some = np.random.default_rng(0).permutation(len(inputs))[:HYPER_FUNCTIONS]
    # One scale for all outputs: with a scale each, small components would ask for the likelihood of their noise.
    settings = {"normalize_y": False, "random_state": 0}
    chosen = GaussianProcessRegressor(kernel, n_restarts_optimizer=RESTARTS, **settings).fit(
        inputs[some], targets[some]
    )
    model = GaussianProcessRegressor(chosen.kernel_, optimizer=None, **settings).fit(inputs, targets)
    return model.predict, inputs.size + targets.size, {"kernel": str(chosen.kernel_)}


def measure(options):
    """Everything about one method on one file."""
    import sklearn

    from foretrain.data import load_split, mean_relative_error

    # Optimisers of the likelihood that touch a bound say so; the bounds are wide, and the kernel is in the result.
    warnings.simplefilter("ignore")
    train, test = load_split(options.data, options.test, key=0)
    started, started_wall = time.process_time(), time.perf_counter()
    scaled = Scaled(train, options.method.endswith("-pca"))
    inputs = scaled.inputs(train.inputs)
    if options.method == "linear":
        predict, numbers, settings = linear(inputs, scaled.targets)
    elif options.method == "random-features":
        predict, numbers, settings = random_features(inputs, scaled.targets)
    else:
        predict, numbers, settings = kernel_ridge(inputs, scaled.targets, options.method)
    seconds, wall = time.process_time() - started, time.perf_counter() - started_wall

    def answer(values):
        return scaled.outputs(predict(scaled.inputs(values)))

    return {
        "peer": options.method,
        "problem": options.data.stem,
        "train_fingerprint": train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "functions": [len(train), len(test)],
        "settings": settings,
        "parameters": int(numbers),
        "numbers": int(numbers),
        "best_error_percent": 100 * mean_relative_error(answer(test.inputs), test.outputs),
        "processor_seconds": seconds,
        "wall_seconds": wall,
        "converged": True,
        "verdict": "solved in closed form",
        "latency": timed(lambda: answer(test.inputs[:1])),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seed": 0,
        "header": f"{datetime.date.today()}, {platform.machine()}, one thread, scikit-learn {sklearn.__version__}",
    }


def main():
    """One method, one file, one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("data", type=Path, help="npz file of foretrain's format")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--test", type=int, help="functions held out where the file does not say, by default a sixth")
    options = parser.parse_args()
    result = measure(options)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.json.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1))
    os.replace(unfinished, options.json)
    print(json.dumps({name: value for name, value in result.items() if name != "latency"}, indent=1))


if __name__ == "__main__":
    main()
