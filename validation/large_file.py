"""A 10 GB file trains within 4 GiB of memory: only the functions and points asked for are read.

Run: .venv/bin/python validation/large_file.py
Makes an HDF5 file of 625,000 pairs of functions at 1,024 points, 10.24 GB as arrays, of which every 500th pair is
written; what is not takes no place on the disk. Then a fresh process, whose data segment the operating system limits to
4 GiB, reads those 1,250 at every eighth point, fits the infinite-width operator to 1,000 of them and prints its error
on the other 250, the seconds and the peak of resident memory.
"""

import argparse
import datetime
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import foretrain as ft

FUNCTIONS, POINTS, WRITTEN_EVERY, POINT_STEP = 625_000, 1024, 500, 8
LIMIT = 4 * 2**30


def write(path: Path, functions: int = FUNCTIONS) -> None:
    """Smooth random periodic functions u, and the antiderivative of u^2 less its mean."""
    rows = np.arange(0, functions, WRITTEN_EVERY)
    rng = np.random.default_rng(0)
    waves = np.arange(POINTS // 2 + 1)
    coefficients = rng.standard_normal((len(rows), waves.size)) + 1j * rng.standard_normal((len(rows), waves.size))
    inputs = np.fft.irfft(coefficients * (waves > 0) / (1 + waves**2 / 4), n=POINTS, axis=1) * POINTS / 2
    spectrum = np.fft.rfft(inputs**2, axis=1) * (waves > 0) / np.maximum(2j * np.pi * waves, 1)
    with h5py.File(path, "w") as file:
        for key, values in (("inputs", inputs), ("outputs", np.fft.irfft(spectrum, n=POINTS, axis=1))):
            array = file.create_dataset(key, (functions, POINTS), np.float64, chunks=(1, POINTS))
            for row, numbers in zip(rows, values, strict=True):
                array[row] = numbers


def learn(path: Path) -> None:
    """Reads, fits and prints, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    started = time.perf_counter()
    data = ft.load(path, functions=slice(0, None, WRITTEN_EVERY), points=POINT_STEP)
    read = time.perf_counter() - started
    train, test = data.split(test=len(data) // 5, key=0)
    model = ft.InfiniteWidthOperator(form="fourier", activation="relu", symmetries=()).fit(train)
    error = ft.data.mean_relative_error(model.predict(test.inputs), test.outputs)
    seconds = time.perf_counter() - started - read
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{len(train):,} functions at {data.inputs.shape[1]} points: read in {read:.1f} s, fitted in {seconds:.1f} s")
    print(f"test error {100 * error:.3g} %, peak resident memory {peak / 2**30:.2f} GiB of {LIMIT / 2**30:g} allowed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", type=Path, help="only read this file and fit (what the script runs itself)")
    chosen = parser.parse_args()
    if chosen.learn is not None:
        learn(chosen.learn)
        return
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5"
        write(path)
        held = 2 * FUNCTIONS * POINTS * 8
        print(f"{held / 1e9:.2f} GB of arrays in a file of {path.stat().st_size / 1e6:.1f} MB", flush=True)
        subprocess.run([sys.executable, __file__, "--learn", str(path)], check=True)


if __name__ == "__main__":
    main()
