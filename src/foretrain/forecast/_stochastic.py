"""Minibatch stochastic gradient descent in the linear regime: mean loss, band, noise floor, stability."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float
from scipy.interpolate import RegularGridInterpolator

from foretrain._foundation import ForetrainError, Progress, ignore_progress
from foretrain.forecast._methods import GradientDescent
from foretrain.forecast._spectral import loss_bounds
from foretrain.tangent import KrylovBasis, lanczos, lanczos_until

Array = np.ndarray
Apply = Callable[[Array], Array]
NORMAL_QUANTILE = 1.6448536269514722
"""Of 95 %: the band runs from 5 % to 95 %."""
BLOCKS = 32
"""Blocks of steps for each doubling of the step, so that the mean residual changes little within one."""
SKETCH = 1024
"""Random sums that stand for a residual where only inner products matter."""
CONVERGED = 0.01
"""Relative eigen-residual below which a Ritz vector counts as an eigenvector."""
GROUP_RATIO = 4.0
TINY = 1e-300


@dataclass(frozen=True)
class StochasticDescent:
    """Minibatch stochastic gradient descent: each step draws B of the n1 functions without replacement.

        r_{k+1} = r_k - h (n1 / B) Theta P_batch r_k,      E r_k = (1 - h Theta)^k r_0

    The factors are those of the mean, which is full-batch descent; `stochastic_curves` adds the noise.

    Arguments:
        batch_size: B, functions in a batch; all of them are full-batch descent.
        step_size: h, on the loss L = 1/2 sum_ij (G(u_i)(y_j) - z_ij)^2 of the whole training set.
        functions: n1, needed only for a default step size from the largest eigenvalue alone.
        rates: relative step sizes of weight groups, see `GradientDescent`.

    Raises:
        ForetrainError: a batch of no function, or of more than there are.
    """

    batch_size: int
    step_size: float | None = None
    functions: int | None = None
    rates: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        most = self.functions or self.batch_size
        if not 1 <= self.batch_size <= most:
            raise ForetrainError(
                f"expected a batch of 1 to {self.functions or 'all'} functions, came {self.batch_size}"
            )

    def with_step_size(self, eigenvalue_max: float) -> "StochasticDescent":
        """The same method with h = 1 / ((1 + c - c / n1) (largest eigenvalue)), c = (n1 / B - 1) n1 / (n1 - 1).

        Half of a bound below which the noise decays whatever the kernel, so it may be many times smaller than need
        be: `stochastic_curves` measures the limit of the kernel at hand. Source: Gower et al. (2019), with the largest
        eigenvalue of a function's own block bounded by that of the whole.
        """
        if self.step_size is not None:
            return self
        if self.functions is None:
            raise ForetrainError(
                "stochastic descent without a step size: expected the number of functions as well, came none; "
                "give `step_size` or `functions`, or let `stochastic_curves` choose the step"
            )
        strength = noise_strength(self.functions, self.batch_size)
        return replace(self, step_size=1 / ((1 + strength - strength / self.functions) * eigenvalue_max))

    def residual_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - h l)^k."""
        return GradientDescent(self.step_size).residual_factor(eigenvalues, steps)

    def learnt_factor(self, eigenvalues: Array, steps: Array) -> Array:
        """(1 - (1 - h l)^k) / l."""
        return GradientDescent(self.step_size).learnt_factor(eigenvalues, steps)


def noise_strength(functions: int, batch_size: int) -> float:
    """c = (n1 / B - 1) n1 / (n1 - 1): a batch weighs the functions with covariance c (1 - 1 1^T / n1)."""
    return (functions / batch_size - 1) * functions / max(functions - 1, 1)


@dataclass(frozen=True)
class StochasticCurves:
    """Loss of minibatch descent after any number of steps, as it is on average and as one run may find it.

    Attributes:
        method: with its step size.
        basis: Krylov space of the initial residual, for the mean dynamics.
        rows: numbers in the residual.
        grid: the steps at which the noise was computed.
        noise: mean squared residual that the batches add there, E|r_k|^2 / rows - |E r_k|^2 / rows.
        deviation: standard deviation of a run's loss there.
        noise_floor: what `noise` would settle at, were the mean residual to stay as at the last step. It falls with
            that residual, to zero for a network that interpolates: then `noise_ratio` says more.
        feedback: noise that a unit of noise begets in all; the mean square contracts if it is below 1.
        step_limit: the step size at which `feedback` reaches 1, or 2 / (largest eigenvalue) if that is smaller. An
            estimate: a few functions that weigh much more in the kernel than the rest lower the true limit.
        sure_step: 2 / (largest eigenvalue of (1 - c / n1) Theta + c times its blocks of one function each): below it
            the mean square contracts (Gower et al. 2019), if the functions of most weight were found.
        applications: how often the kernel was applied.
        test_grid_noise: squared noise of the outputs on each test function, summed over its points, or None.
    """

    method: StochasticDescent
    basis: KrylovBasis
    rows: int
    grid: Float[Array, " grid"]
    noise: Float[Array, " grid"]
    deviation: Float[Array, " grid"]
    noise_floor: float
    feedback: float
    step_limit: float
    sure_step: float
    applications: int
    test_grid_noise: Float[Array, "grid test_functions"] | None = None

    @property
    def stable(self) -> bool:
        """Whether the mean square of the residual contracts at this step size, as `step_limit` estimates it."""
        return (self.method.step_size or 0.0) < self.step_limit

    @property
    def noise_ratio(self) -> float:
        """`noise_floor` relative to the loss of the mean dynamics, which it follows as that falls."""
        lower, upper = loss_bounds(self.basis, self.method, self.grid[-1:], self.rows)
        return self.noise_floor / max(float(np.sqrt(lower[0]) * np.sqrt(upper[0])), TINY)

    def loss(self, steps: Float[Array, " steps"]) -> tuple[Array, Array, Array]:
        """Mean, 5 % and 95 % quantile of the mean squared residual, log-normal with the mean and deviation above."""
        steps = np.asarray(steps, float)
        lower, upper = loss_bounds(self.basis, self.method, self._within(steps), self.rows)
        noise = self._between(steps, self.noise)
        mean = np.sqrt(lower) * np.sqrt(upper) + noise
        with np.errstate(invalid="ignore", over="ignore"):
            spread = np.sqrt(np.log1p((self._between(steps, self.deviation) / np.maximum(mean, TINY)) ** 2))
            low = (lower + noise) * np.exp(-(spread**2) / 2 - NORMAL_QUANTILE * spread)
            high = (upper + noise) * np.exp(-(spread**2) / 2 + NORMAL_QUANTILE * spread)
        return mean, np.nan_to_num(low, nan=0.0, posinf=np.inf), np.nan_to_num(high, nan=np.inf, posinf=np.inf)

    def test_noise(self, steps: Float[Array, " steps"]) -> Float[Array, "steps test_functions"]:
        """Expected squared noise of the outputs on each test function: add it to the squared error of the mean."""
        if self.test_grid_noise is None:
            raise ForetrainError("expected curves made with `test`, the kernel between test and training functions")
        return np.stack([self._between(steps, column) for column in self.test_grid_noise.T], axis=1)

    def _within(self, steps: Array) -> Array:
        if np.any((steps < 0) | (steps > self.grid[-1])):
            raise ForetrainError(
                f"expected steps from 0 to {self.grid[-1]:.0f}, came {np.min(steps)} to {np.max(steps)}"
            )
        return steps

    def _between(self, steps: Array, values: Array) -> Array:
        return np.interp(np.log1p(self._within(np.asarray(steps, float))), np.log1p(self.grid), values)


@dataclass(frozen=True)
class _Noise:
    """Gauss nodes of the noise that sources inject: what one unit of a source's energy puts where.

    `source` and `draw` say whence a node is; `shares` is how its Ritz vector divides among the groups of directions on
    the query points; `sketches` stand for the Ritz vectors, with the signs they have in the draw; `images` holds, for
    every draw of a source, the inner products of their images on each test function.
    """

    eigenvalues: Float[Array, " nodes"]
    weights: Float[Array, " nodes"]
    shares: Float[Array, "nodes groups"]
    sketches: Float[Array, "nodes sketch"]
    source: Float[Array, " nodes"]
    draw: Float[Array, " nodes"]
    images: tuple[Float[Array, "some_nodes some_nodes test_functions"], ...]

    @classmethod
    def of(cls, parts: "list[_Noise]") -> "_Noise":
        names = ("eigenvalues", "weights", "shares", "sketches", "source", "draw")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, images=tuple(image for part in parts for image in part.images))

    def injected(self, step: float, strength: float, source: int) -> Array:
        """Energy at each node from one step with unit energy in a source."""
        return np.where(self.source == source, strength * (step * self.eigenvalues) ** 2 * self.weights, 0.0)

    def kept_in_all(self, step: float, strength: float, source: int) -> Array:
        """Energy at each node from a unit in a source at every step since ever."""
        progress = step * self.eigenvalues
        return np.where(self.source == source, strength * progress * self.weights / (2 - progress), 0.0)

    def gain(self, step: float, strength: float) -> Array:
        """Energy that every group ends with from a lasting unit in each group, [to, from]."""
        return np.stack(
            [self.kept_in_all(step, strength, group) @ self.shares for group in range(self.shares.shape[1])], axis=1
        )

    def feedback(self, step: float, strength: float) -> float:
        """The largest eigenvalue of the gain."""
        return float(np.max(np.abs(np.linalg.eigvals(self.gain(step, strength)))))


class _Sampler:
    """Draws noise of sources with the covariance that batches give it, and decomposes it by a few Lanczos steps."""

    def __init__(self, apply: Apply, shape: tuple[int, ...], krylov: int, key: int, test: Apply | None) -> None:
        self.apply, self.krylov, self.test = apply, krylov, test
        self.random = np.random.default_rng(key)
        self.buckets = self.random.integers(SKETCH, size=int(np.prod(shape)))
        self.flips = self.random.choice([-1.0, 1.0], size=int(np.prod(shape)))
        self.directions, self.labels = np.eye(shape[1]), np.zeros(shape[1], int)
        self.leverage = np.zeros(shape[0])
        self.applications = 0

    @property
    def groups(self) -> int:
        return int(self.labels.max()) + 1

    def sketch(self, vectors: Array) -> Array:
        """Random sums of the entries: inner products stay the same on average, to one in sqrt(SKETCH)."""
        flat = vectors.reshape(len(vectors), -1) * self.flips
        return np.stack([np.bincount(self.buckets, row, SKETCH) for row in flat])

    def draw(self, source: Array) -> KrylovBasis:
        """Krylov space of the source times centred random signs, one for each function."""
        noise = np.zeros_like(source)
        while not np.any(noise):
            noise = centred_signs(len(source), self.random)[:, None] * source
        basis = lanczos(self.apply, noise, self.krylov)
        self.applications += basis.steps
        return basis

    def group_directions(self, bases: list[KrylovBasis], most: int) -> None:
        """Groups directions on the query points by how much of the kernel acts in them: batches do not mix them."""
        total = np.zeros_like(self.directions)
        for basis in bases:
            values, vectors = _ritz(basis)
            for value, vector in zip(values, _combine(vectors.T, basis), strict=True):
                total += value * vector.T @ vector
            self.leverage += np.einsum("i,ifp->f", values, _combine(vectors.T, basis) ** 2)
        sizes, self.directions = np.linalg.eigh(total)
        decades = np.log(sizes[-1] / np.maximum(sizes, 1e-30 * sizes[-1])) / np.log(GROUP_RATIO)
        self.labels = np.minimum(np.unique(np.floor(decades), return_inverse=True)[1], most - 1)

    def largest_block(self, residual: Array, candidates: int = 6, steps: int = 4) -> float:
        """Largest eigenvalue of the kernel on a single function, of those in which most of the kernel was seen."""
        largest = 0.0
        for function in np.argsort(-self.leverage)[:candidates]:

            def alone(row: Array, function: int = int(function)) -> Array:
                whole = np.zeros_like(residual)
                whole[function] = row
                self.applications += 1
                return np.asarray(self.apply(whole))[function]

            start = self.random.normal(size=residual.shape[1])
            largest = max(largest, float(_ritz(lanczos(alone, start, steps))[0][-1]))
        return largest

    def split(self, basis: KrylovBasis) -> list[Array]:
        """A residual as noise leaves it, sqrt(Theta) times the drawn noise, divided among the groups."""
        values, vectors = _ritz(basis)
        parts = _combine((vectors @ (np.sqrt(values) * vectors[0]))[None], basis)[0] @ self.directions
        return [np.where(self.labels == group, parts, 0) @ self.directions.T for group in range(self.groups)]

    def noise(self, source: Array, number: int, draw: int) -> _Noise:
        """Nodes of one draw. Where a Ritz vector is an eigenvector its weight needs no draw: it is the expectation

        sum_f (y_f . r_f)^2 - (y . r)^2 / n1,     and the other weights are scaled to the rest of (1 - 1 / n1) |r|^2.
        """
        source = source / np.linalg.norm(source)
        basis = self.draw(source)
        values, vectors = _ritz(basis)
        ritz = _combine(vectors.T, basis)
        expected = _centred_squares(np.einsum("ifp,fp->if", ritz, source))
        known = basis.off_diagonal[-1] * np.abs(vectors[-1]) <= CONVERGED * values
        rest = max(1 - 1 / len(source) - float(np.sum(expected[known])), 0.0)
        drawn = vectors[0] ** 2
        weights = np.where(known, expected, drawn * rest / max(float(np.sum(drawn[~known])), TINY))
        squares = np.sum((ritz @ self.directions) ** 2, axis=1)
        signs, full = np.sign(vectors[0]), np.ones(len(values), int)
        return _Noise(
            eigenvalues=values,
            weights=weights,
            shares=np.stack([squares[:, self.labels == group].sum(1) for group in range(self.groups)], axis=1),
            sketches=self.sketch(ritz) * signs[:, None],
            source=number * full,
            draw=draw * full,
            images=self._images(basis, values, vectors * signs),
        )

    def _images(self, basis: KrylovBasis, values: Array, vectors: Array) -> tuple[Array, ...]:
        if self.test is None:
            return ()
        # A residual Theta a of the training functions comes with Theta(test, train) a on the test functions.
        inverse = np.where(values > 1e-12 * values[-1], 1 / np.maximum(values, TINY), 0)
        images = np.stack([self.test(vector) for vector in basis.vectors])
        images = np.tensordot((vectors * inverse).T, images, 1)
        return (np.einsum("ifp,jfp->ijf", images, images),)


def centred_signs(functions: int, random: np.random.Generator) -> Float[Array, " functions"]:
    """Random numbers of sum zero whose covariance is exactly 1 - 1 1^T / n1."""
    half = functions // 2
    signs = np.zeros(functions)
    signs[:half], signs[half : 2 * half] = 1, -1
    return random.permutation(signs) * np.sqrt((functions - 1) / functions if functions % 2 == 0 else 1.0)


def stochastic_curves(
    apply: Apply,
    residual: Float[Array, "functions points"],
    method: StochasticDescent,
    steps: int,
    *,
    key: int = 0,
    draws: int = 4,
    marks: int = 4,
    groups: int = 5,
    krylov: int = 16,
    tolerance: float = 1e-3,
    max_krylov: int = 160,
    test: Apply | None = None,
    progress: Progress = ignore_progress,
) -> StochasticCurves:
    """Forecasts minibatch descent: the mean by full-batch descent, the noise by an equation of Volterra type.

        E|r_k|^2 = |(1 - h Theta)^k r_0|^2 + c h^2 sum_{j<k} E|(1 - h Theta)^{k-1-j} Theta g_j|^2,
        g_j = signs x r_j,   c = (n1 / B - 1) n1 / (n1 - 1),   signs: one for each function, covariance 1 - 1 1^T / n1

    is exact. Noise of the mean residual is drawn at `marks` of its steps, that of earlier noise for `groups` of
    directions on the query points (batches do not mix them); Lanczos turns every draw into nodes, and the energies at
    the nodes obey a linear recurrence, which is run in blocks. Takes about draws x krylov x (1 + groups + marks)
    applications beside those of the mean, and holds 6 log10(steps) + 10 residuals at once besides the Krylov space.

    The deviation of one run's loss |m + s|^2 about its mean is that of Gaussian noise s of covariance S,

        variance = 4 m^T S m + 2 tr S^2,

    which is too wide, up to twice, in the first steps of small batches: a single batch is no Gaussian noise.

    Arguments:
        apply: Theta(train, train) on residuals.
        residual: r_0.
        method: without a step size it gets half of `step_limit`, and `sure_step` at most.
        steps: the last step of interest.
        key: of the draws.
        draws, marks, groups, krylov: draws of each source, steps of the mean residual, groups, Lanczos steps.
        tolerance, max_krylov: see `spectral_curves`.
        test: Theta(test, train) on residuals, for `StochasticCurves.test_noise`; as many applications again.

    Raises:
        ForetrainError: no step, fewer than two draws or marks, a batch larger than the data.

    **Assumption:** the kernel stays what it is; noise of noise depends on its direction on the query points alone, not
    on the function; for the band, many batches add up to Gaussian noise (not so near the limit of stability).

    Source: after Paquette, Lee, Pedregosa, Paquette (2021), where all rows are alike.
    """
    residual = np.asarray(residual, float)
    if steps < 1 or min(draws, marks) < 2 or groups < 1 or not method.batch_size <= len(residual):
        raise ForetrainError(
            f"expected a step, two draws and marks, a group and a batch of at most {len(residual)} functions, came "
            f"{steps}, {draws}, {marks}, {groups} and {method.batch_size}"
        )
    strength = noise_strength(len(residual), method.batch_size)
    sampler = _Sampler(apply, residual.shape, krylov, key, test)
    parts: list[_Noise] = []
    limit, block = np.inf, 0.0
    if strength > 0:
        parts = _noise_of_noise(sampler, residual, draws, groups, progress)
        limit, block = _step_limit(_Noise.of(parts), strength / draws), sampler.largest_block(residual)
    first = lanczos(apply, residual, krylov)
    sampler.applications += first.steps
    largest = float(_ritz(first)[0][-1])
    sure = 2 / ((1 - strength / len(residual)) * largest + strength * block)
    limit = min(limit, 2 / largest)
    if method.step_size is None:
        method = replace(method, step_size=min(limit / 2, sure))
    basis = _mean_dynamics(apply, residual, method, steps, tolerance, max_krylov, progress)
    grid = _block_grid(steps)
    if strength == 0:
        nothing = np.zeros(len(grid))
        return StochasticCurves(
            method, basis, residual.size, grid, nothing, nothing, 0.0, 0.0, limit, sure, basis.steps
        )
    times = _mark_steps(method, basis, steps, marks)
    for number, time in enumerate(times):
        source = mean_residual(basis, method, np.array([time]))[0]
        for draw in range(draws):
            parts.append(sampler.noise(source, sampler.groups + number, draw))
            progress("noise of the mean", number * draws + draw + 1, len(times) * draws)
    return _assemble(
        _Noise.of(parts), sampler, basis, method, residual.shape, strength, grid, times, draws, limit, sure
    )


def mean_residual(basis: KrylovBasis, method: StochasticDescent, steps: Array, power: int = 0) -> Array:
    """Theta^power (1 - h Theta)^k r_0 for each step k, [steps, functions, points], from its Krylov space."""
    values, vectors = _ritz(basis)
    return basis.norm * _combine(
        (method.residual_factor(values, steps) * values**power * vectors[0]) @ vectors.T, basis
    )


def _noise_of_noise(sampler: _Sampler, residual: Array, draws: int, groups: int, progress: Progress) -> list[_Noise]:
    """The groups, and nodes of the noise that noise in each of them begets."""
    first = [sampler.draw(residual) for _ in range(draws)]
    sampler.group_directions(first, groups)
    parts = []
    for draw, basis in enumerate(first):
        for group, source in enumerate(sampler.split(basis)):
            if np.any(source):
                parts.append(sampler.noise(source, group, draw))
            progress("noise of noise", draw * sampler.groups + group + 1, draws * sampler.groups)
    return parts


def _step_limit(noise: _Noise, strength: float) -> float:
    """The step size at which noise begets as much noise, below 2 / (largest eigenvalue)."""
    largest = 2 / float(np.max(noise.eigenvalues))
    if noise.feedback(largest * (1 - 1e-9), strength) < 1:
        return largest
    return float(scipy.optimize.brentq(lambda h: noise.feedback(h, strength) - 1, 0, largest * (1 - 1e-9), rtol=1e-6))


def _mean_dynamics(
    apply: Apply,
    residual: Array,
    method: StochasticDescent,
    steps: int,
    tolerance: float,
    most: int,
    progress: Progress,
) -> KrylovBasis:
    """Krylov space of the initial residual, until it resolves the mean loss at the last step."""
    late = np.array([steps / 10, steps / 3, steps], float).round()

    @np.errstate(over="ignore", invalid="ignore")
    def gap(basis: KrylovBasis) -> float:
        lower, upper = loss_bounds(basis, method, late, residual.size)
        return float(np.nan_to_num(np.max((upper - lower) / np.maximum(lower, TINY)), nan=0.0))

    return lanczos_until(apply, residual, gap, tolerance, most, progress=progress)


def _block_grid(steps: int) -> Array:
    """Every step at first, then BLOCKS for each doubling, to `steps` or a little beyond."""
    pieces, start, size = [np.arange(2 * BLOCKS + 1)], 2 * BLOCKS, 2
    while pieces[-1][-1] < steps:
        pieces.append(np.arange(start + size, 2 * start + 1, size))
        start, size = 2 * start, 2 * size
    grid = np.concatenate(pieces)
    return grid[: int(np.searchsorted(grid, steps)) + 1].astype(float)


def _mark_steps(method: StochasticDescent, basis: KrylovBasis, steps: int, marks: int) -> Array:
    """The start, and steps from the fastest mode's time to the last, as long as there is a residual."""
    fastest = min(max(_fastest(method, basis), 1.0), max(steps / 2, 1.0))
    times = np.unique(np.append(0, np.geomspace(fastest, steps, marks - 1).round()))
    left = loss_bounds(basis, method, times, 1)[0]
    return times[(times == 0) | (np.isfinite(left) & (left > 1e-200 * left[0]))]


def _fastest(method: StochasticDescent, basis: KrylovBasis) -> float:
    return 1 / ((method.step_size or 0.0) * float(_ritz(basis)[0][-1]))


@np.errstate(over="ignore", invalid="ignore")
def _assemble(
    noise: _Noise,
    sampler: _Sampler,
    basis: KrylovBasis,
    method: StochasticDescent,
    shape: tuple[int, ...],
    strength: float,
    grid: Array,
    times: Array,
    draws: int,
    limit: float,
    sure: float,
) -> StochasticCurves:
    step, rows = method.step_size or 0.0, int(np.prod(shape))
    noise = replace(noise, weights=noise.weights / draws)
    lower, upper = loss_bounds(basis, method, grid, rows)
    # A mark's share in each step's noise falls off linearly in the logarithm of the step.
    unit = _fastest(method, basis)
    places, marks = np.log1p(grid / unit), np.log1p(times / unit)
    shares = np.stack([np.interp(places, marks, row) for row in np.eye(len(times))], axis=1)
    sources = (np.sqrt(lower) * np.sqrt(upper))[:, None] * shares
    first = sampler.groups
    injected = np.stack([noise.injected(step, strength, first + mark) for mark in range(len(times))], axis=1)
    energies = _recurrence(noise, step, strength, grid, sources @ injected.T)
    kept = np.stack([noise.kept_in_all(step, strength, first + mark) for mark in range(len(times))], axis=1)
    feedback = noise.feedback(step, strength)
    floor = np.inf
    if feedback < 1 and step < limit:
        lasting = noise.shares.T @ kept @ sources[-1]
        floor = float(np.sum(np.linalg.solve(np.eye(first) - noise.gain(step, strength), lasting)))
    variance = _variance(noise, sampler, basis, method, strength, grid, energies, rows, draws)
    return StochasticCurves(
        method=method,
        basis=basis,
        rows=rows,
        grid=grid,
        noise=np.nan_to_num(energies.sum(axis=1), nan=np.inf, posinf=np.inf),
        deviation=np.nan_to_num(np.sqrt(variance), nan=np.inf, posinf=np.inf),
        noise_floor=floor,
        feedback=feedback,
        step_limit=limit,
        sure_step=sure,
        applications=sampler.applications + basis.steps,
        test_grid_noise=_test_noise(noise, energies * rows, draws) if noise.images else None,
    )


def _recurrence(noise: _Noise, step: float, strength: float, grid: Array, injected: Array) -> Array:
    """Energies at the nodes, e(k+1) = A e(k) + injected(k), by doubling A and sum_{t < size} A^t with the blocks."""
    power = np.diag((1 - step * noise.eigenvalues) ** 2)
    for group in range(noise.shares.shape[1]):
        power += np.outer(noise.injected(step, strength, group), noise.shares[:, group])
    total, size = np.eye(len(power)), 1.0
    energies = np.zeros_like(injected)
    for index, length in enumerate(np.diff(grid)):
        while size < length:
            total, power, size = total + power @ total, power @ power, 2 * size
        within = injected[index] if size == 1 else (injected[index] + injected[index + 1]) / 2
        energies[index + 1] = power @ energies[index] + total @ within
    return energies


def _variance(
    noise: _Noise,
    sampler: _Sampler,
    basis: KrylovBasis,
    method: StochasticDescent,
    strength: float,
    grid: Array,
    energies: Array,
    rows: int,
    draws: int,
) -> Array:
    """4 m^T S m + 2 tr S^2 of the mean squared residual."""
    values, vectors = _ritz(basis)
    sketches = sampler.sketch(_combine(vectors.T, basis))
    means = (method.residual_factor(values, grid) * basis.norm * vectors[0]) @ sketches / np.sqrt(rows)
    cross = strength * (method.step_size or 0.0) ** 2 * _cross(basis, method, grid) / rows**2
    # Noise of noise has lost the mean residual's form: its directions have independent signs.
    later = np.where(noise.source < sampler.groups, energies, 0.0)
    cross += np.sum(later * (means @ noise.sketches.T) ** 2, axis=1)
    return 4 * cross + 2 * _trace_of_square(noise, energies, draws)


def _cross(basis: KrylovBasis, method: StochasticDescent, grid: Array) -> Array:
    """sum_{j<k} sum_f (centred) (m_{j,f} . [Theta (1 - h Theta)^{k-1-j} m_k]_f)^2, interpolated in two log steps."""
    last = 2 * grid[-1]
    places = np.unique(np.append(np.arange(4), np.geomspace(4, last + 1, int(6 * np.log10(last)) + 2).round()))
    left = mean_residual(basis, method, places)
    squares = np.empty((len(places), len(places)))
    for index, place in enumerate(places):
        right = mean_residual(basis, method, np.array([place]), power=1)[0]
        squares[:, index] = _centred_squares(np.einsum("afp,fp->af", left, right))
    axis = np.log1p(places)
    table = RegularGridInterpolator((axis, axis), np.log(np.clip(squares, TINY, 1e300)))
    sums = np.zeros(len(grid))
    for index in range(1, len(grid)):
        lengths = np.diff(grid[: index + 1])
        middles = grid[:index] + (lengths - 1) / 2
        found = table(np.log1p(np.stack([middles, 2 * grid[index] - 1 - middles], axis=1)))
        sums[index] = np.sum(lengths * np.exp(found))
    return sums


def _trace_of_square(noise: _Noise, energies: Array, draws: int) -> Array:
    """tr S^2 as the mean squared inner product of two independent draws of the noise."""
    owner = noise.source * draws + noise.draw
    number = int(owner.max()) + 1
    same = np.equal.outer(np.arange(number) // draws, np.arange(number) // draws)
    pairs = np.where(same, 1 / (draws * (draws - 1)), 1 / draws**2) * (1 - np.eye(number))
    traces = np.empty(len(energies))
    for index, energy in enumerate(energies):
        sums = np.zeros((number, SKETCH))
        np.add.at(sums, owner, np.sqrt(np.maximum(draws * energy, 0))[:, None] * noise.sketches)
        inner = sums @ sums.T
        # A sketch adds |s|^2 |s'|^2 / SKETCH to the square of an inner product.
        bias = np.outer(np.diag(inner), np.diag(inner)) / SKETCH
        traces[index] = max(float(np.sum(pairs * (inner**2 - bias))), 0.0)
    return traces


def _test_noise(noise: _Noise, energies: Array, draws: int) -> Array:
    """Squared noise on each test function, [grid, test functions], the mean over the draws of every source."""
    owners = noise.source * 10**6 + noise.draw
    starts = np.flatnonzero(np.append(True, np.diff(owners) != 0))
    total: Array = np.zeros((len(energies), noise.images[0].shape[-1]))
    for start, images in zip(starts, noise.images, strict=True):
        amplitudes = np.sqrt(np.maximum(energies[:, start : start + len(images)], 0))
        total = total + np.einsum("ki,kj,ijf->kf", amplitudes, amplitudes, images, optimize=True)
    return total


def _centred_squares(values: Array) -> Array:
    """sum_f x_f^2 - (sum_f x_f)^2 / n1 over the last axis."""
    return np.sum(values**2, axis=-1) - np.sum(values, axis=-1) ** 2 / values.shape[-1]


def _ritz(basis: KrylovBasis) -> tuple[Array, Array]:
    values, vectors = scipy.linalg.eigh_tridiagonal(basis.diagonal, basis.off_diagonal[:-1], lapack_driver="stev")
    return np.maximum(values, 0), vectors


def _combine(coefficients: Array, basis: KrylovBasis) -> Array:
    return np.tensordot(coefficients, basis.vectors, 1)
