import json
import time
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats

from foretrain._foundation import ForetrainError, write_json
from foretrain.problems import antiderivative
from foretrain.studies import compare
from foretrain.studies._compare import paired_effect
from foretrain.tangent import BranchTrunkSettings, InfiniteWidthOperator

SEEDS = 6
DRAWS = np.random.default_rng(0).normal(size=(4, SEEDS))
ERRORS = {
    "plain": 0.1 * np.exp(0.5 * DRAWS[0]),
    "twice as good": 0.05 * np.exp(0.5 * DRAWS[0] + 0.1 * DRAWS[1]),
    "worse": 0.15 * np.exp(0.5 * DRAWS[0] + 0.1 * DRAWS[2]),
    "unclear": 0.1 * np.exp(0.5 * DRAWS[3]),
}


@dataclass
class Scored:
    """Something trained whose error is known; remembers what it was handed."""

    error: float
    seen: list

    def score(self, check):
        self.seen.append(check)
        return self.error


def arm(errors, learnt=None, seen=None):
    def train(learn, seed):
        if learnt is not None:
            learnt.append(learn)
        return Scored(errors[seed], seen if seen is not None else [])

    return train


@pytest.fixture(scope="module")
def data():
    return antiderivative(samples=30, resolution=12)


@pytest.fixture(scope="module")
def comparison(data):
    return compare(data, {name: arm(errors) for name, errors in ERRORS.items()}, SEEDS)


@pytest.mark.parametrize("name", list(ERRORS)[1:])
def test_effects_are_paired_t_intervals_of_log_errors(comparison, name):
    effect = comparison.effects[name]
    paired = scipy.stats.ttest_rel(np.log(ERRORS[name]), np.log(ERRORS["plain"]))
    interval = paired.confidence_interval(0.95)
    assert effect.ratio == pytest.approx(scipy.stats.gmean(ERRORS[name] / ERRORS["plain"]), rel=1e-12)
    assert effect.lower == pytest.approx(np.exp(interval.low), rel=1e-9)
    assert effect.upper == pytest.approx(np.exp(interval.high), rel=1e-9)
    assert (effect.verdict == "no difference seen") == (paired.pvalue > 0.05)


def test_verdicts_say_what_was_put_in_and_only_others_are_compared_with_the_first(comparison):
    verdicts = {name: effect.verdict for name, effect in comparison.effects.items()}
    assert verdicts == {"twice as good": "better", "worse": "worse", "unclear": "no difference seen"}
    for name, errors in ERRORS.items():
        np.testing.assert_array_equal(comparison.errors[name], errors)


def test_the_first_arm_is_the_reference(data, comparison):
    turned = compare(data, {name: arm(ERRORS[name]) for name in ("worse", "plain")}, SEEDS).effects["plain"]
    effect = comparison.effects["worse"]
    assert turned.verdict == "better"
    assert (turned.ratio, turned.lower, turned.upper) == pytest.approx(
        (1 / effect.ratio, 1 / effect.upper, 1 / effect.lower)
    )


def test_all_arms_of_a_seed_learn_and_are_judged_by_the_same_functions_and_seeds_by_others(data):
    learnt, seen = ([], []), ([], [])
    compare(data, {str(i): arm(ERRORS["plain"], learnt[i], seen[i]) for i in range(2)}, SEEDS)
    for seed in range(SEEDS):
        learn, check = learnt[0][seed], seen[0][seed]
        assert learnt[1][seed].fingerprint == learn.fingerprint
        assert seen[1][seed].fingerprint == check.fingerprint
        assert (len(learn), len(check)) == (24, 6)
        assert not {row.tobytes() for row in learn.inputs} & {row.tobytes() for row in check.inputs}
    assert len({check.fingerprint for check in seen[0]}) == SEEDS


def test_test_functions_that_are_given_judge_every_seed_and_all_others_are_learnt_from(data):
    train, test = data.split(5)
    learnt, seen = [], []
    compare(train, {"one": arm(ERRORS["plain"], learnt, seen), "other": arm(ERRORS["worse"])}, 3, test=test)
    assert all(check is test for check in seen)
    assert all(learn is train for learn in learnt)


def test_estimators_and_functions_are_arms_alike(data):
    settings = [BranchTrunkSettings("erf", "erf"), BranchTrunkSettings("erf", "erf", 2.0)]
    heard = []
    comparison = compare(
        data,
        {
            "estimator": InfiniteWidthOperator(settings=settings[0]),
            "function": lambda learn, seed: InfiniteWidthOperator(settings=settings[1], key=seed).fit(learn),
        },
        2,
        progress=lambda stage, done, total, figures=None: heard.append((done, total)),
    )
    for name, chosen in zip(("estimator", "function"), settings, strict=True):
        for seed in range(2):
            learn, check = data.split(6, seed)
            truth = check.outputs
            prediction = InfiniteWidthOperator(settings=chosen).fit(learn).predict(check.inputs)
            error = np.mean(np.linalg.norm(prediction - truth, axis=1) / np.linalg.norm(truth, axis=1))
            assert comparison.errors[name][seed] == pytest.approx(error, rel=1e-9)
    assert heard == [(done, 4) for done in range(5)]


def test_waiting_costs_time_but_no_processor(data):
    def sleep(learn, seed):
        time.sleep(0.05)
        return Scored(0.1 + 0.01 * seed, [])

    def work(learn, seed):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return Scored(0.1, [])

    comparison = compare(data, {"sleep": sleep, "work": work}, 2)
    assert np.all(comparison.seconds["sleep"] >= 0.05)
    assert np.all(comparison.cpu_seconds["sleep"] < 0.04)
    assert np.all(comparison.cpu_seconds["work"] >= 0.05)


@pytest.mark.parametrize(("arms", "seeds"), [(["one"], 5), ([], 5), (["one", "other"], 1)])
def test_fewer_than_two_arms_or_seeds_are_refused(data, arms, seeds):
    with pytest.raises(ForetrainError, match="expected at least 2 arms and 2 seeds") as refused:
        compare(data, {name: arm(ERRORS["plain"]) for name in arms}, seeds)
    assert "\n" not in str(refused.value)


def test_a_comparison_is_plain_values_for_a_file(comparison, tmp_path):
    record = json.loads(write_json(tmp_path / "comparison.json", comparison.as_dict()).read_text())
    assert record["errors"] == {name: list(errors) for name, errors in ERRORS.items()}
    assert record["effects"]["worse"]["verdict"] == "worse"


def test_the_interval_of_finite_errors_is_that_of_a_paired_t_test():
    errors, reference = np.random.default_rng(3).uniform(0.5, 2, (2, 9))
    effect = paired_effect(errors, reference)
    interval = scipy.stats.ttest_rel(np.log(errors), np.log(reference)).confidence_interval(0.95)
    assert np.log([effect.lower, effect.upper]) == pytest.approx(tuple(interval))
    assert effect.ratio == pytest.approx(scipy.stats.gmean(errors / reference))


def test_with_diverged_runs_the_interval_is_that_of_the_median():
    errors = np.array([0.2, 0.4, 0.6, 0.8, 0.3, np.inf, 0.9])
    effect = paired_effect(errors, np.ones(7))
    # The median of seven pairs lies outside their extremes with probability 2 / 2^7, outside the next two with 1 / 8.
    assert (effect.lower, effect.ratio, effect.upper) == (pytest.approx(0.2), pytest.approx(0.6), np.inf)
    assert effect.verdict == "no difference seen"
    assert paired_effect(np.ones(6), np.full(6, np.inf)).verdict == "better"
    assert paired_effect(np.full(6, np.inf), np.ones(6)).verdict == "worse"
    # Five agree by chance with probability 2 / 2^5 > 0.05.
    assert paired_effect(np.ones(5), np.full(5, np.inf)).verdict == "no difference seen"


def test_the_interval_with_diverged_runs_holds_the_median_as_often_as_it_says():
    rng, held, trials, seeds = np.random.default_rng(4), 0, 2_000, 12
    # A fifth diverge: the median of all is the 0.5 / 0.8 quantile of those that end.
    median = np.exp(0.7 + scipy.stats.norm.ppf(0.5 / 0.8))
    for _ in range(2_000):
        errors = np.exp(rng.normal(0.7, 1.0, seeds))
        errors[rng.uniform(size=seeds) < 0.2] = np.inf
        effect = paired_effect(errors, np.ones(seeds))
        held += np.isinf(errors).any() and effect.lower <= median <= effect.upper
        trials -= not np.isinf(errors).any()
    # Binomial scatter of 2000 trials: 0.005.
    assert held / trials > 0.94
    assert held / trials < 0.995


def test_runs_that_both_diverged_are_equal():
    effect = paired_effect(np.full(8, np.inf), np.full(8, np.inf))
    assert (effect.ratio, effect.lower, effect.upper) == (1, 1, 1)
    assert effect.verdict == "no difference seen"
    half = np.where(np.arange(8) < 4, np.inf, 1.0)
    assert paired_effect(half, half[::-1]).ratio == 1
