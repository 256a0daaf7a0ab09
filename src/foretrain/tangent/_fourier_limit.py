"""The tangent kernel of the shallow Fourier operator as it starts, averaged over the draw, from the data alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Complex, Float

from foretrain._foundation import DataError, ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset, common_grid_shape
from foretrain.models import ShallowFourierOperator, half_space_modes
from foretrain.tangent._circulant import CirculantKernel, apply_blocks, inverse_transform, transform
from foretrain.tangent._fourier_kernel import FilteredFunctions, FourierKernel
from foretrain.tangent._fourier_settings import FourierSettings

Array = np.ndarray


@dataclass(frozen=True)
class _GivenPrior(FourierSettings):
    """Settings whose filter prior is a table of variances over the half spectrum."""

    variances: tuple[float, ...] = ()

    def prior(self, grid_shape: tuple[int, ...]) -> Float[Array, "..."]:
        """The table."""
        return np.asarray(self.variances).reshape(*grid_shape[:-1], grid_shape[-1] // 2 + 1)


def fourier_limit(
    model: ShallowFourierOperator,
    train: OperatorDataset,
    test: OperatorDataset | None = None,
    rates: Mapping[str, float] | None = None,
    *,
    progress: Progress = ignore_progress,
) -> tuple[CirculantKernel, Callable[[Array], Array] | None]:
    """Theta(train, train) of a shallow Fourier operator at its start, and Theta(test, train) applied to residuals.

        Theta = m readout_rate K(C) + linear_rate (C - b^2),     C(s) = sum_k rho_k u_k conj(u'_k) e^{2 pi i k s} + b^2

    with the model's filter prior rho and biases of variance b^2: the readout starts at zero, so filters and biases do
    not move at first, and the kernel's mean over the draw is Theta at every width m. With a reflection everything is
    summed over it: four times the average.

    Raises:
        DataError: inputs and outputs not on one regular grid.
        ForetrainError: rates of groups the network has not.
        MemoryBudgetError: if the kernel would not fit into memory.

    **Assumption:** filters move little (m is large): readout and linear part do the learning.
    """
    shape = common_grid_shape(train)
    if shape is None:
        raise DataError("a Fourier operator: expected inputs and outputs on one regular grid, came other points")
    unknown = set(rates or {}) - {"filters", "biases", "readout", "linear"}
    if unknown:
        raise ForetrainError(
            "step sizes by group: expected some of filters, biases, readout, linear, which this network trains, came "
            f"{', '.join(sorted(unknown))}"
        )
    sides = (model.width * (rates or {}).get("readout", 1.0), (rates or {}).get("linear", 1.0))
    kernel = FourierKernel(_settings(model, train, shape), shape, 1.0)
    functions = kernel.filter(train.inputs)
    sign, times = model.reflection, 4.0 if model.reflection else 1.0
    half = int(np.prod(functions.spectrum.shape[1:]))
    others = 0 if test is None else len(test)
    require_memory(
        16 * half * len(train) * (len(train) + others) * (2 if sign else 1),
        "the Fourier operator's kernel",
        "use fewer training functions or a coarser grid",
    )
    blocks = times * _blocks(kernel, functions, functions, sides, progress)
    mirrored = functions.reflected(sign)
    reflected = times * _blocks(kernel, functions, mirrored, sides, progress) if sign else None
    gram = CirculantKernel(blocks, shape, reflected, sign or 1)
    if test is None:
        return gram, None
    unseen = kernel.filter(test.inputs)
    across = times * _blocks(kernel, unseen, functions, sides, progress)
    across_mirror = times * _blocks(kernel, unseen, mirrored, sides, progress) if sign else None

    def cross(residual: Array) -> Array:
        spectrum = transform(residual, shape)
        return inverse_transform(apply_blocks(across, across_mirror, sign or 1, spectrum), shape)

    return gram, cross


def _blocks(
    kernel: FourierKernel,
    left: FilteredFunctions,
    right: FilteredFunctions,
    sides: tuple[float, float],
    progress: Progress,
) -> Complex[Array, "frequencies rows columns"]:
    linear = np.einsum(
        "iw,jw->wij",
        left.spectrum.reshape(len(left.spectrum), -1),
        np.conj(right.spectrum).reshape(len(right.spectrum), -1),
    )
    return sides[0] * kernel.blocks(left, right, progress) + sides[1] * kernel.points * linear


def _settings(model: ShallowFourierOperator, train: OperatorDataset, shape: tuple[int, ...]) -> _GivenPrior:
    """The drawn network's own filter prior: its features hold one of each pair of modes, so half of the variance."""
    network = replace(model, width=1).initialise(train, jax.random.key(0))
    largest = [min(model.modes, (size - 1) // 2) for size in shape]
    modes = half_space_modes(len(shape), largest)
    scales = np.asarray(network.feature_scale, np.float64)[: len(modes)] ** 2
    variances = np.zeros((*shape[:-1], shape[-1] // 2 + 1))
    for mode, variance in zip(modes, scales, strict=True):
        share = variance / 2 if np.any(mode) else variance
        # On the last axis half a spectrum is kept; there a mode and its negative have their own entries if it is zero.
        for signed in {tuple(mode), tuple(-mode)}:
            if signed[-1] >= 0:
                variances[(*tuple(np.mod(signed[:-1], shape[:-1])), signed[-1])] = share
    return _GivenPrior(
        activation=model.activation,
        input_norm=model.input_norm,
        bias=model.input_norm,
        reflection=model.reflection,
        ridge=0.0,
        variances=tuple(variances.ravel()),
    )
