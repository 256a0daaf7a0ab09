"""Two timescales on a fixed sample: the published experiments in several dimensions and with ReLUs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from foretrain._foundation import ForetrainError, Progress, ignore_progress

if TYPE_CHECKING:
    from foretrain.studies._sampled_descent import Network, Sample, Shape

EQUAL_RATES_STEP_SIZES = (1.0, 0.3, 0.1, 0.03)
"""The step sizes equal rates may choose from, as multiples of the setting's."""


@dataclass(frozen=True)
class SampledSetting:
    """One experiment: an additive teacher, a sample of it, an additive student and how it descends.

        teacher  f*(x) = sum_{c, i} weights_i psi(x_c - locations_i),                psi(s) = 1{s > 0} or relu(s)
        student  f(x) = bias + sum_{c, j} heights_cj phi(x_c - positions_cj),  phi(s) = sigma(s / width) or relu(s)

    sigma is the cubic smooth step; for ReLUs there is no bias. Test points are uniform on [0, 1]^dimension. At the
    start positions are uniform and the outer layer is zero.

    Attributes:
        name: what it is called.
        dimension: d.
        samples: how many points are learnt from.
        locations, weights: the teacher's, the same in each coordinate.
        activation: "step" or "relu".
        neurons: of the student, in each coordinate.
        step_width: of the smooth step.
        step_size: h of the outer layer, on the mean squared residual (without 1/2).
        steps: how many.
        ratio: inner step size / outer step size where there are two timescales.
        limit_step: slow time (ratio x step_size x steps) of one inner step in the limit of ratio 0.
        batch: samples seen by each step, drawn with replacement; None: all.
        label_noise: standard deviation of what is added to the training labels.
        input_noise: standard deviation of what is added to the training points, the labels being those without it.
        density: (a, b) of the Beta(a, b) density of the training points' coordinates; test points stay uniform.
        test_samples: fresh points, undisturbed.
        published: training errors published for equal rates and for two timescales, medians over 20 seeds.

    Raises:
        ForetrainError: for sizes, step sizes or noise out of range.

    Source: Marion, Berthier, "Leveraging the two-timescale regime" (NeurIPS 2023); step sizes, width of the steps and
    number of steps are ours.
    """

    name: str
    dimension: int
    samples: int
    step_size: float
    steps: int
    locations: tuple[float, ...] = (0.3, 0.5, 0.7)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    activation: str = "step"
    neurons: int = 10
    step_width: float = 0.01
    ratio: float = 0.01
    limit_step: float = 1e-3
    batch: int | None = None
    label_noise: float = 0.0
    input_noise: float = 0.0
    density: tuple[float, float] = (1.0, 1.0)
    test_samples: int = 10_000
    published: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        counts = (self.dimension, self.samples, self.steps, self.neurons, self.test_samples, self.batch or 1)
        sizes = (self.step_size, self.step_width, self.ratio, self.limit_step, *self.density)
        noise = (self.label_noise, self.input_noise)
        if min(counts) < 1 or not all(0 < size < np.inf for size in sizes) or not all(0 <= n < np.inf for n in noise):
            raise ForetrainError(
                f"setting {self.name!r}: expected counts of at least 1, positive finite sizes and noise of at least 0, "
                f"came {counts}, {sizes} and {noise}"
            )
        if self.activation not in ("step", "relu") or len(self.locations) != len(self.weights):
            raise ForetrainError(
                f"setting {self.name!r}: expected activation 'step' or 'relu' and a weight for each location, came "
                f"{self.activation!r}, {len(self.locations)} locations and {len(self.weights)} weights"
            )

    def teacher(self, points: Float[np.ndarray, "points coordinates"]) -> Float[np.ndarray, " points"]:
        """f* at the points."""
        offsets = points[..., None] - np.asarray(self.locations)
        values = (offsets > 0).astype(float) if self.activation == "step" else np.maximum(offsets, 0.0)
        return (values @ np.asarray(self.weights)).sum(axis=1)

    @property
    def slow_time(self) -> float:
        """ratio x step_size x steps."""
        return self.ratio * self.step_size * self.steps


SAMPLED_SETTINGS: Mapping[str, SampledSetting] = {
    setting.name: setting
    for setting in (
        SampledSetting("steps-2d", 2, 1_000, 0.02, 10_000, published=(0.46, 0.12)),
        SampledSetting("steps-10d", 10, 10_000, 0.02, 5_000, published=(1.30, 0.51)),
        SampledSetting(
            "relu",
            1,
            1_000,
            0.4,
            20_000,
            weights=(1.0, -2.0, 3.0),
            activation="relu",
            limit_step=0.2,
            published=(0.048, 0.011),
        ),
        SampledSetting("steps-2d-stochastic", 2, 1_000, 0.005, 40_000, batch=1, published=(0.46, 0.12)),
    )
}
"""The published experiments by name, and the first of them by steps on single samples."""


@dataclass(frozen=True)
class SampledResult:
    """How one setting went, seed by seed.

    Attributes:
        setting, ratio: what was run; ratio 1 is equal rates, 0 the limit.
        training_error: root-mean-square residual on the (disturbed) sample at the end, [seeds]; infinite if diverged.
        test_error: the same against the teacher on fresh points, [seeds].
        recorded_steps: when the curves were recorded, [records].
        training_curves, test_curves: root-mean-square residuals, [seeds, records].
        covered: jumps of the teacher with a neuron within step_width, over all coordinates, [seeds].
        jumps: how many there are; 0 for ReLUs.
        positions: where the neurons ended, [seeds, coordinates, neurons].
        seconds: processor time of all seeds, without compilation.
    """

    setting: SampledSetting
    ratio: float
    training_error: Float[np.ndarray, " seeds"]
    test_error: Float[np.ndarray, " seeds"]
    recorded_steps: Int[np.ndarray, " records"]
    training_curves: Float[np.ndarray, "seeds records"]
    test_curves: Float[np.ndarray, "seeds records"]
    covered: Int[np.ndarray, " seeds"]
    jumps: int
    positions: Float[np.ndarray, "seeds coordinates neurons"]
    seconds: float


def run_sampled(
    setting: SampledSetting,
    ratio: float | None = None,
    seeds: Sequence[int] = range(20),
    progress: Progress = ignore_progress,
    *,
    records: int = 20,
) -> SampledResult:
    """Descends from every seed's start on every seed's sample and records training and test error.

        outer layer -= step_size dL/d outer,   positions -= ratio step_size dL/d positions,   L = mean (f - labels)^2

    Arguments:
        setting: what is learnt and how.
        ratio: 1 for equal rates; None: the setting's; 0: the limit, in which the outer layer is solved for before
            every inner step and the slow time is that of the setting's own ratio (always full batch).
        seeds: each draws a sample, test points, a start and the batches; its noise only scales with the level.
        progress: told at every record.
        records: how often errors are recorded, evenly, besides the start.

    Raises:
        ForetrainError: for a ratio below 0, no seed or no record.
    """
    ratio = setting.ratio if ratio is None else ratio
    seeds = list(seeds)
    if not 0 <= ratio < np.inf or not seeds or records < 1:
        raise ForetrainError(
            f"run_sampled: expected a ratio of at least 0, a seed and a record, "
            f"came {ratio}, {len(seeds)} and {records}"
        )
    steps = setting.steps if ratio else max(1, round(setting.slow_time / setting.limit_step))
    recorded = np.unique(np.linspace(0, steps, records + 1).astype(int)).tolist()
    curves = np.empty((2, len(seeds), len(recorded)))
    positions = np.empty((len(seeds), setting.dimension, setting.neurons))
    _warm_up(setting, ratio)
    started = time.process_time()
    for index, seed in enumerate(seeds):
        for record, (errors, places) in enumerate(_descent(setting, ratio, seed, recorded)):
            curves[:, index, record], positions[index] = errors, places
            done = index * len(recorded) + record + 1
            progress(
                f"{setting.name}, ratio {ratio:g}", done, len(seeds) * len(recorded), {"training error": errors[0]}
            )
    seconds = time.process_time() - started
    jumps = np.asarray(setting.locations if setting.activation == "step" else ())
    near = np.abs(positions[:, :, None, :] - jumps[:, None]) <= setting.step_width
    return SampledResult(
        setting,
        ratio,
        curves[0, :, -1],
        curves[1, :, -1],
        np.array(recorded),
        curves[0],
        curves[1],
        near.any(axis=-1).sum(axis=(1, 2)),
        jumps.size * setting.dimension,
        positions,
        seconds,
    )


def run_equal_rates(
    setting: SampledSetting,
    seeds: Sequence[int] = range(20),
    progress: Progress = ignore_progress,
    *,
    multiples: Sequence[float] = EQUAL_RATES_STEP_SIZES,
    records: int = 20,
) -> SampledResult:
    """Equal rates with as many steps, at the step size (of a few multiples of the setting's) of least training error.

    Raises:
        ForetrainError: as `run_sampled`, or for no multiple.
    """
    if not multiples:
        raise ForetrainError("run_equal_rates: expected at least one multiple of the step size, came none")
    sizes = [setting.step_size * multiple for multiple in multiples]
    results = [run_sampled(replace(setting, step_size=size), 1.0, seeds, progress, records=records) for size in sizes]
    return min(results, key=lambda result: float(np.median(result.training_error)))


def draw_sample(setting: SampledSetting, seed: int) -> "Sample":
    """The points and labels that a seed learns from."""
    from foretrain.studies._sampled_descent import sorted_sample

    places, inputs, labels = (np.random.default_rng([seed, stream]) for stream in range(3))
    size = (setting.samples, setting.dimension)
    points = scipy.special.betaincinv(*setting.density, places.uniform(size=size))
    values = setting.teacher(points) + setting.label_noise * labels.standard_normal(setting.samples)
    return sorted_sample(points + setting.input_noise * inputs.standard_normal(size), values)


def draw_network(setting: SampledSetting, seed: int) -> "Network":
    """Where a seed starts."""
    from foretrain.studies._sampled_descent import Network

    size = (setting.dimension, setting.neurons)
    return Network(np.zeros(1), np.zeros(size), np.random.default_rng([seed, 3]).uniform(size=size))


def activation_shape(setting: SampledSetting) -> "Shape":
    """The activation as the compiled descent takes it."""
    from foretrain.studies._sampled_descent import Shape

    return Shape(setting.step_width, 1.0, 0.0) if setting.activation == "step" else Shape(0.0, 0.0, 1.0)


def _descent(
    setting: SampledSetting, ratio: float, seed: int, recorded: Sequence[int]
) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """Training and test error, and the positions, at each of the recorded steps."""
    from foretrain.studies import _sampled_descent as compiled

    sample, network, shape = draw_sample(setting, seed), draw_network(setting, seed), activation_shape(setting)
    with_bias = setting.activation == "step"
    test = np.random.default_rng([seed, 4]).uniform(size=(setting.test_samples, setting.dimension))
    answers = setting.teacher(test)
    draw = np.random.default_rng([seed, 5])
    optimum = compiled.OuterOptimum(sample, setting.neurons, shape, with_bias) if ratio == 0 else None
    inner_step = ratio * setting.step_size
    for steps in np.diff(recorded, prepend=0).tolist():
        if optimum is not None:
            compiled.descend_limit(sample, optimum, network, shape, setting.limit_step, steps)
        elif setting.batch is None:
            compiled.descend(sample, network, shape, setting.step_size, inner_step, steps, with_bias)
        else:
            batches = draw.integers(setting.samples, size=(steps, setting.batch))
            compiled.descend_batches(sample, batches, network, shape, setting.step_size, inner_step, with_bias)
        training = _root_mean_square(compiled.outputs(sample.points, network, shape) - sample.labels)
        yield (training, _root_mean_square(compiled.outputs(test, network, shape) - answers)), network.positions


def _root_mean_square(residual: Float[np.ndarray, " points"]) -> float:
    """Infinite where the descent has diverged."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.sqrt(np.mean(residual**2)))
    return error if np.isfinite(error) else np.inf


def _warm_up(setting: SampledSetting, ratio: float) -> None:
    """Compiles before the clock runs."""
    small = replace(setting, samples=2, test_samples=1, steps=1)
    for _ in _descent(small, ratio, 0, [0, 1]):
        pass
