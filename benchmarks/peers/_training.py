"""What the training of every peer shares: looks at the test error, timing, and what a network is made of."""

import time

import numpy as np

LOOKS = 60
FEWEST_REPEATS, MOST_REPEATS, SECONDS_OF_CALLS = 100, 2000, 5.0
LAST_PART, GAIN = 0.1, 0.02


class Looks:
    """Test errors along training, on clocks that stand still while it looks.

    Arguments:
        budget: processor seconds of training.
        predict: from nothing to the outputs of the test functions, in raw values.
        truth: those outputs.
    """

    def __init__(self, budget, predict, truth):
        self.budget, self.predict, self.truth = budget, predict, truth
        self.curve = {"steps": [], "seconds": [], "wall_seconds": [], "test_error_percent": []}
        self.marks = list(budget * np.arange(1, LOOKS + 1) / LOOKS)
        self.steps = 0
        self.start()

    def start(self):
        """Sets the clocks to nothing."""
        self.started, self.started_wall = time.process_time(), time.perf_counter()
        self.paused, self.paused_wall = 0.0, 0.0

    @property
    def seconds(self):
        """Processor seconds of training so far."""
        return time.process_time() - self.started - self.paused

    @property
    def share(self):
        """Of the budget that is spent."""
        return min(1.0, self.seconds / self.budget)

    def after_step(self):
        """Looks if it is time; says whether the budget is spent."""
        from foretrain.data import mean_relative_error

        self.steps += 1
        seconds = self.seconds
        if not self.marks or seconds < self.marks[0]:
            return not self.marks
        looking, looking_wall = time.process_time(), time.perf_counter()
        self.marks = [mark for mark in self.marks if mark > seconds]
        self.curve["steps"].append(self.steps)
        self.curve["seconds"].append(round(seconds, 3))
        self.curve["wall_seconds"].append(round(looking_wall - self.started_wall - self.paused_wall, 3))
        self.curve["test_error_percent"].append(100 * mean_relative_error(self.predict(), self.truth))
        print(f"{seconds:7.1f} s, step {self.steps:7}: {self.curve['test_error_percent'][-1]:.4g} %", flush=True)
        self.paused += time.process_time() - looking
        self.paused_wall += time.perf_counter() - looking_wall
        return not self.marks


def grid_shape(data):
    """Nodes along each axis of the regular grid of inputs and outputs."""
    from foretrain.data import common_grid_shape

    shape = common_grid_shape(data)
    if shape is None:
        raise SystemExit("expected inputs and outputs on one regular grid, came other points; peers need a grid")
    return shape


def count(weights):
    """Numbers in the weights; complex ones are two."""
    return sum(weight.numel() * (2 if weight.is_complex() else 1) for weight in weights)


def timed(call):
    """Seconds of one call: percentiles by the clock on the wall, mean by that of the processor.

    The second does not count while other programs have the core, so it can be trusted on a machine that is not idle.
    """
    for _ in range(20):
        call()
    seconds, started = [], time.process_time()
    while len(seconds) < FEWEST_REPEATS or (len(seconds) < MOST_REPEATS and sum(seconds) < SECONDS_OF_CALLS):
        before = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - before)
    processor = (time.process_time() - started) / len(seconds)
    tenth, middle, ninetieth, late = (float(value) for value in np.percentile(seconds, [10, 50, 90, 95]))
    return {
        "median_seconds": middle,
        "tenth_seconds": tenth,
        "ninetieth_seconds": ninetieth,
        "p95_seconds": late,
        "processor_seconds": processor,
        "repeats": len(seconds),
    }


def verdict(curve, budget):
    """Whether the least test error no longer fell by 2 % in the last tenth, and that in words."""
    late = np.array(curve["seconds"]) > (1 - LAST_PART) * budget
    errors = np.array(curve["test_error_percent"])
    if np.min(errors[late]) <= (1 - GAIN) * np.min(errors[~late], initial=np.inf):
        return False, f"stopped by the budget of {budget:g} s, still falling"
    return True, f"converged, least error at {curve['seconds'][int(np.argmin(errors))]:.0f} s"
