"""Closed-form operators with given hyper-parameters: solve once, predict anywhere."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from foretrain._foundation import DataError, ForetrainError, Progress, ignore_progress
from foretrain.data import (
    InputPrior,
    OperatorDataset,
    OutputScale,
    choose_embedding,
    periodic_grid_shape,
    regular_grid_shape,
)
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel
from foretrain.tangent._fourier_kernel import FourierSettings
from foretrain.tangent._fourier_solution import FourierSolution as FourierSolution
from foretrain.tangent._grid import GridKernel, Solution
from foretrain.tangent._receptive_fields import ReceptiveFields
from foretrain.tangent._symmetric_grid import SymmetricGridKernel
from foretrain.tangent._symmetric_kernel import SymmetricBranchTrunkKernel
from foretrain.tangent._symmetry import Symmetry

Array = np.ndarray


@dataclass(frozen=True)
class BranchTrunkSettings:
    """What decides how the branch-trunk form generalises.

    Attributes:
        activation: of the branch; trunk_activation: of the trunk.
        input_norm: root-mean-square length of the scaled input vector, beside the constant 1.
        point_scale: factor on the embedded coordinates.
        outer_rate: step size of the outer weights relative to the inner ones (0: frozen).
        ridge: relative ridge on the diagonals of the kernel's factors.
        branch_depth, trunk_depth: hidden layers of either network.
        mode_scale: input weights decay beyond this wave number, as (1 + (|k| / mode_scale)^2)^(-decay) in the cosine
            basis (Fourier on periodic grids); infinite for white weights.
        decay: exponent of that prior.
        local_share: fraction of branch neurons with a local receptive field.
        field_width: standard deviation of the fields, as a fraction of the axis.
        field_norm: root-mean-square length of the inputs in a field.
        symmetries: generators of the group over which the kernel is averaged; they act on what the branch sees.
        logarithm: whether the branch sees the inputs' logarithm, as fits a positive medium (a conductivity, a speed).
    """

    activation: str = "relu"
    trunk_activation: str = "relu"
    input_norm: float = 1.0
    point_scale: float = 1.0
    outer_rate: float = 0.0
    ridge: float = 0.0
    branch_depth: int = 1
    trunk_depth: int = 1
    mode_scale: float = math.inf
    decay: float = 1.0
    local_share: float = 0.0
    field_width: float = 0.1
    field_norm: float = 1.0
    symmetries: tuple[Symmetry, ...] = ()
    logarithm: bool = False

    def seen(self, inputs: Float[Array, "functions sensors"]) -> Float[Array, "functions sensors"]:
        """What the branch sees of the inputs.

        Raises:
            DataError: the logarithm of values that are not positive.
        """
        if not self.logarithm:
            return inputs
        if not np.all(inputs > 0):
            raise DataError(
                "inputs: expected positive values, as all training functions have and the settings' logarithm needs, "
                f"came {np.min(inputs):.4g}; choose settings without it for such functions"
            )
        return np.log(inputs)

    def __str__(self) -> str:
        parts = [f"{self.activation} x {self.trunk_activation}"]
        parts += [f"depth {self.branch_depth} x {self.trunk_depth}"] if self.branch_depth * self.trunk_depth > 1 else []
        parts += ["logarithm of the input"] if self.logarithm else []
        parts.append(f"input norm {self.input_norm:g}")
        parts += [f"input weights ~ (1 + (k/{self.mode_scale:g})^2)^-{self.decay:g}"] if self.has_prior else []
        fields = f"{100 * self.local_share:g} % of neurons local, width {self.field_width:g}, norm {self.field_norm:g}"
        parts += [fields] if self.local_share else []
        parts += [f"point scale {self.point_scale:g}"] if self.point_scale != 1 else []
        parts += ["outer weights trained"] if self.outer_rate else []
        parts += [" and ".join(symmetry.name for symmetry in self.symmetries)] if self.symmetries else []
        parts += [f"ridge {self.ridge:g}"] if self.ridge else []
        return ", ".join(parts)

    @property
    def has_prior(self) -> bool:
        """Whether the input weights are other than white."""
        return math.isfinite(self.mode_scale)


Settings = BranchTrunkSettings | FourierSettings


def settings_record(settings: Settings) -> dict[str, Any]:
    """Settings as plain values for a file: symmetries by name, white weights as None."""
    values = dict(vars(settings))
    if "symmetries" in values:
        values["symmetries"] = [symmetry.name for symmetry in values["symmetries"]]
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in values.items()}


class ClosedFormSolution(Protocol):
    """A solved kernel system that predicts."""

    @property
    def train(self) -> OperatorDataset: ...

    @property
    def relative_residual(self) -> float: ...

    @property
    def jitter(self) -> tuple[float, float]: ...

    def predict(self, inputs: Array, points: Array | None, progress: Progress = ignore_progress) -> Array: ...

    def std(self, inputs: Array, points: Array | None) -> Array: ...


LARGEST_RESIDUAL = 1e-2
"""Relative residual from which on a solution is tried again with a jitter."""
USELESS_RESIDUAL = 0.5
JITTER_SLACK = 1.2
JITTERS_OF_SINGULAR_KERNELS = (1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)
"""Relative to the mean diagonal of the functions' leading factor."""


@dataclass(frozen=True)
class BranchTrunkSolution:
    """G(u)(y) = Theta((u, y), (U, Y)) alpha with alpha = Theta^{-1} Z, the kernel averaged over symmetries if any."""

    kernel: BranchTrunkKernel | SymmetricBranchTrunkKernel
    gram: GridKernel | SymmetricGridKernel
    coefficients: Float[Array, "functions points"]
    train: OperatorDataset
    scale: OutputScale
    relative_residual: float
    jitter: tuple[float, float]
    settings: BranchTrunkSettings

    @classmethod
    def solve(
        cls,
        train: OperatorDataset,
        settings: BranchTrunkSettings,
        scale: OutputScale,
        points: Int[Array, " some"] | None = None,
    ) -> "BranchTrunkSolution":
        """Solves on all training functions.

        Arguments:
            points: numbers of the query points to learn from, by default all; the kernel is that of all the data.

        Raises:
            ForetrainError: a kernel system without a solution, or points that a symmetry maps onto others.
        """
        if any(symmetry.output_sign < 0 for symmetry in settings.symmetries):
            # A constant changes sign with the function, so it is no part of what commutes with the symmetry.
            scale = OutputScale(0.0, scale.scale)
        seen = settings.seen(train.inputs)
        kernel = branch_trunk_kernel(replace(train, inputs=seen), settings)
        if points is not None:
            if isinstance(kernel, SymmetricBranchTrunkKernel):
                symmetries = tuple(symmetry.at_points(points) for symmetry in settings.symmetries)
                kernel = SymmetricBranchTrunkKernel(kernel.kernel, symmetries)
            train = replace(train, outputs=train.outputs[:, points], query_points=train.query_points[points])
        gram = kernel.gram(seen, train.query_points)
        gram, solution = _solved(gram, scale.normalise(train.outputs))
        return cls(kernel, gram, solution.value, train, scale, solution.relative_residual, solution.jitter, settings)

    def predict(self, inputs: Array, points: Array | None, progress: Progress = ignore_progress) -> Array:
        """Values in physical units at any query points."""
        own = self.train.query_points
        factors = self._own_factors if points is None else self.kernel.point_factors(points, own)
        parts = self.kernel.contract_functions(self.settings.seen(inputs), self._seen, self.coefficients)
        return self.scale.restore(sum(part @ factor.T for part, factor in zip(parts, factors, strict=True)))

    @functools.cached_property
    def _seen(self) -> Array:
        return self.settings.seen(self.train.inputs)

    @functools.cached_property
    def _own_factors(self) -> tuple[Array, Array]:
        """Kept, because most answers are wanted at the training query points."""
        own = self.train.query_points
        return self.kernel.point_factors(own, own)

    def std(self, inputs: Array, points: Array | None) -> Array:
        """Posterior standard deviation in physical units, amplitude by maximum marginal likelihood.

        Raises:
            ForetrainError: with symmetries, points other than the training query points.
        """
        own = self.train.query_points
        near = 1e-6 * float(np.ptp(own))
        on_own = points is None or (points.shape == own.shape and np.allclose(points, own, rtol=0, atol=near))
        if isinstance(self.kernel, SymmetricBranchTrunkKernel) and not on_own:
            raise ForetrainError(
                "std with symmetries: expected the training query points, came others, which the symmetries may not "
                "map onto one another; leave `points` out"
            )
        places = self._places(inputs, points)
        prior = self.kernel.diagonal(*places[:2])
        explained = self.kernel.explained_variance(self.gram, *places)  # type: ignore[arg-type]
        target = self.scale.normalise(self.train.outputs)
        amplitude = float(np.sum(target * self.coefficients)) / target.size
        return self.scale.scale * np.sqrt(amplitude * np.maximum(prior - explained, 0))

    def _places(self, inputs: Array, points: Array | None) -> tuple[Array, Array, Array, Array]:
        points = self.train.query_points if points is None else points
        return self.settings.seen(inputs), points, self._seen, self.train.query_points


def _solved(
    gram: GridKernel | SymmetricGridKernel, target: Float[Array, "functions points"]
) -> tuple[GridKernel | SymmetricGridKernel, Solution]:
    """The solution, with a jitter if only that makes it one, and the kernel with that jitter.

    A function that is the image of another under a symmetry, or of itself, makes the averaged kernel singular; rounding
    may hide that from the factorisation, but not from the residual, which is that of the kernel without the jitter.

    Raises:
        ForetrainError: if no jitter helps.
    """
    best, solution = gram, gram.solve_with_report(target)
    if solution.relative_residual <= LARGEST_RESIDUAL:
        return best, solution
    for relative in JITTERS_OF_SINGULAR_KERNELS:
        firmer = gram.with_jitter(relative)
        value = firmer.solve(target)
        mismatch = float(np.linalg.norm(gram.apply(value) - target) / np.linalg.norm(target))
        # Outputs of images that disagree leave a residual whatever the jitter: the larger one keeps coefficients small.
        if mismatch < JITTER_SLACK * solution.relative_residual:
            added = max(firmer.jitter[0], relative * gram.mean_diagonal)
            best, solution = firmer, Solution(value, mismatch, (added, firmer.jitter[1]))
    if not solution.relative_residual < USELESS_RESIDUAL:
        raise ForetrainError(
            f"the kernel system: expected a solution, came a relative residual of {solution.relative_residual:.2g}; "
            "look for nearly parallel functions, or functions that symmetries turn into one another"
        )
    return best, solution


def branch_trunk_kernel(
    train: OperatorDataset, settings: BranchTrunkSettings
) -> BranchTrunkKernel | SymmetricBranchTrunkKernel:
    """The kernel those settings mean on that data.

    Raises:
        DataError: an input prior or local receptive fields on sensors that are no regular grid.
    """
    kernel = BranchTrunkKernel(
        choose_embedding(train, settings.input_norm, settings.point_scale, _input_prior(train, settings)),
        settings.activation,
        settings.trunk_activation,
        outer_rate=settings.outer_rate,
        ridge=settings.ridge,
        branch_depth=settings.branch_depth,
        trunk_depth=settings.trunk_depth,
        fields=_receptive_fields(train, settings),
        local_share=settings.local_share,
    )
    return SymmetricBranchTrunkKernel(kernel, settings.symmetries) if settings.symmetries else kernel


def _input_prior(train: OperatorDataset, settings: BranchTrunkSettings) -> InputPrior | None:
    if not settings.has_prior:
        return None
    shape = _sensor_grid(train, "a prior on the input weights", "leave mode_scale infinite")
    basis: Literal["cosine", "fourier"] = "cosine" if periodic_grid_shape(train) is None else "fourier"
    return InputPrior(shape, settings.mode_scale, settings.decay, basis)


def _receptive_fields(train: OperatorDataset, settings: BranchTrunkSettings) -> ReceptiveFields | None:
    if not settings.local_share:
        return None
    shape = _sensor_grid(train, "local receptive fields", "leave local_share at 0")
    periodic = periodic_grid_shape(train) is not None
    centered = all(symmetry.input_sign > 0 for symmetry in settings.symmetries)
    return ReceptiveFields.for_inputs(train, shape, periodic, settings.field_width, settings.field_norm, centered)


def _sensor_grid(train: OperatorDataset, what: str, instead: str) -> tuple[int, ...]:
    shape = regular_grid_shape(train.sensor_points)
    if shape is None:
        raise DataError(f"{what}: expected sensors on a regular grid, came other points; {instead}")
    return shape
