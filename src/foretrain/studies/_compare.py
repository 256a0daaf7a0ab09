"""A/B comparison of ways to train: same data, same splits, paired."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset

Arm = Callable[[OperatorDataset, int], Any]


@dataclass(frozen=True)
class Effect:
    """How one arm compares with the first.

    Attributes:
        ratio: geometric mean, over seeds, of its error divided by the first arm's.
        lower, upper: 95 % interval of that ratio (Student's t on paired log errors; see `paired_effect`).
        verdict: "better", "worse" or "no difference seen".
    """

    ratio: float
    lower: float
    upper: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Errors and costs of all arms.

    Attributes:
        errors: mean relative L2 test error of each arm, [seeds].
        seconds, cpu_seconds: what each arm took, [seeds].
        effects: every arm but the first against the first.
    """

    errors: Mapping[str, Float[np.ndarray, " seeds"]]
    seconds: Mapping[str, Float[np.ndarray, " seeds"]]
    cpu_seconds: Mapping[str, Float[np.ndarray, " seeds"]]
    effects: Mapping[str, Effect]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "errors": dict(self.errors),
            "seconds": dict(self.seconds),
            "cpu_seconds": dict(self.cpu_seconds),
            "effects": {name: vars(effect) for name, effect in self.effects.items()},
        }


def compare(
    train: OperatorDataset,
    arms: Mapping[str, Any],
    seeds: int = 10,
    *,
    test: OperatorDataset | None = None,
    progress: Progress = ignore_progress,
) -> Comparison:
    """Trains every arm on the same functions for several seeds and compares their errors pairwise.

    Arguments:
        train: the data.
        arms: name -> an estimator with `fit` and `score`, or a function (data, seed) -> something with `score`. The
            first is the one the others are compared with.
        seeds: how many; each draws its own held-out functions (unless `test` is given) and is handed to the arms.
        test: functions to judge by.

    Raises:
        ForetrainError: fewer than two arms or two seeds.

    **Assumption:** log errors of a seed differ between arms by a normal variable of unknown mean and variance.
    """
    if len(arms) < 2 or seeds < 2:
        raise ForetrainError(f"compare: expected at least 2 arms and 2 seeds, came {len(arms)} and {seeds}")
    names = list(arms)
    errors, wall, cpu = (np.empty((len(names), seeds)) for _ in range(3))
    for seed in range(seeds):
        learn, check = (train, test) if test is not None else train.split(max(2, len(train) // 5), seed)
        for index, name in enumerate(names):
            progress("comparing", seed * len(names) + index, seeds * len(names))
            started, started_cpu = time.perf_counter(), time.process_time()
            trained = _trained(arms[name], learn, seed)
            wall[index, seed] = time.perf_counter() - started
            cpu[index, seed] = time.process_time() - started_cpu
            errors[index, seed] = trained.score(check)
    progress("comparing", seeds * len(names), seeds * len(names))
    effects = {name: paired_effect(errors[index + 1], errors[0]) for index, name in enumerate(names[1:])}
    tables = [dict(zip(names, table, strict=True)) for table in (errors, wall, cpu)]
    return Comparison(tables[0], tables[1], tables[2], effects)


def _trained(arm: Any, learn: OperatorDataset, seed: int) -> Any:
    return arm.fit(learn) if hasattr(arm, "fit") else arm(learn, seed)


def paired_effect(errors: Float[np.ndarray, " seeds"], reference: Float[np.ndarray, " seeds"]) -> Effect:
    """How positive errors compare with those of a reference on the same seeds.

    The interval is Student's t on paired log errors. Where a run diverged (an infinite error), or with a single seed,
    it is that of the median ratio by the sign test, which asks nothing of the errors but six seeds to be finite.

    **Assumption:** of Student's t: the log errors of a seed differ by a normal variable.
    """
    with np.errstate(invalid="ignore"):
        difference = np.log(errors) - np.log(reference)
    difference = np.where(np.isnan(difference), 0.0, difference)  # both diverged
    seeds = len(difference)
    if seeds > 1 and np.all(np.isfinite(difference)):
        middle = float(np.mean(difference))
        reach = float(scipy.stats.t.ppf(0.975, seeds - 1) * np.std(difference, ddof=1) / seeds**0.5)
        low, high = middle - reach, middle + reach
    else:
        ordered = np.sort(difference)
        middle = float(ordered[(seeds - 1) // 2 : seeds // 2 + 1].clip(-1e300, 1e300).mean())
        rank = int(scipy.stats.binom.ppf(0.025, seeds, 0.5))
        low, high = (float(ordered[rank - 1]), float(ordered[-rank])) if rank else (-np.inf, np.inf)
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference seen"
    with np.errstate(over="ignore"):
        return Effect(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)), verdict)
