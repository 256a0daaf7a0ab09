"""Test error of the infinite-width operator with everything on "auto", 1,000 training and 200 test functions.

Run: .venv/bin/python benchmarks/accuracy.py
Prints one line for each problem, with the seconds of the choice of hyper-parameters and of fit and prediction.
"""

import datetime
import platform
import time

import numpy as np

import foretrain as ft

PROBLEMS = {
    "Burgers 0.1": {"viscosity": 0.1},
    "Burgers 0.1/(2 pi)": {"viscosity": 0.1 / (2 * np.pi)},
    "Burgers 0.01": {"viscosity": 0.01},
}


def main() -> None:
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'problem':20} {'form':13} {'test error':>10} {'held out':>9} {'choice':>8} {'fit':>7}  settings")
    for name, arguments in PROBLEMS.items():
        train, test = ft.problems.burgers(1200, key=0, **arguments).split(test=200, key=0)
        started = time.perf_counter()
        reports = ft.InfiniteWidthOperator().choose(train)
        chosen = time.perf_counter() - started
        for report in reports:
            started = time.perf_counter()
            error = ft.InfiniteWidthOperator(settings=report.settings).fit(train).score(test)
            fitted = time.perf_counter() - started
            print(
                f"{name:20} {report.form:13} {100 * error:8.4f} % {100 * report.held_out_error:7.3f} % "
                f"{chosen:6.1f} s {fitted:5.1f} s  {report.settings}",
                flush=True,
            )


if __name__ == "__main__":
    main()
