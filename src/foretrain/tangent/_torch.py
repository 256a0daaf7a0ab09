"""The tangent kernel of a torch module, applied without ever being formed. Torch itself is imported at first use."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, OutputScale
from foretrain.tangent._krylov import EigenPair, largest_eigenvalue
from foretrain.tangent._torch_module import (
    Convention,
    ModuleFunction,
    find_convention,
    require_torch,
    trained_function,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray
CHUNK_BYTES = 512 * 2**20


@dataclass(frozen=True)
class TorchKernel:
    """Theta = J S J^T, J the Jacobian of a torch module's outputs in its trained weights, S the relative step sizes.

        Theta R = sum over chunks of functions:   J_chunk S sum_chunks J_chunk^T R_chunk

    The counterpart of `EmpiricalKernel`: NumPy in double precision at the edges, the module's own precision and device
    inside. Weights are dictionaries by parameter name. A complex parameter counts as two real ones, its arrays have a
    last axis (real part, imaginary part); torch's optimisers treat it alike.

    Attributes:
        function: the module with its calling convention.
        parameters: the trained weights when the kernel was made, tensors; training the module on does not move them.
        inputs, points: what the function is given, tensors.
        chunk: functions processed at once.
        forward_mode: J t by forward-mode derivatives; False where the module's operators lack them (found by trying),
            then as the derivative of J^T r in r, at about twice the cost.
        rates: S, numbers or arrays by parameter name, or by a prefix ("branch") for all parameters below it; the
            longest prefix counts, parameters without one have 1. None for all equal.

    **Assumption:** the module is differentiable at these weights and treats every input by itself.

    Raises:
        ForetrainError: rates for parameters the module does not have, or of a shape they do not have.
    """

    function: ModuleFunction
    parameters: Mapping[str, "Tensor"]
    inputs: "Tensor"
    points: "Tensor"
    chunk: int
    forward_mode: bool = True
    rates: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        names = list(self.parameters)
        for key in self.rates or ():
            if not any(_is_below(name, key) for name in names):
                raise ForetrainError(
                    f"rates: expected names or prefixes of the trained parameters {', '.join(names)}; came {key!r}"
                )
        for name in names:
            self._rate(name)

    @property
    def shape(self) -> tuple[int, int]:
        """(functions, points)."""
        return len(self.inputs), len(self.points)

    @property
    def convention(self) -> Convention:
        """How the module is called, see `torch_kernel`."""
        return self.function.convention

    @property
    def weights(self) -> dict[str, Array]:
        """The trained weights, by name."""
        return _numbers(self.parameters)

    def apply(self, residual: Float[ArrayLike, "functions points"]) -> Float[Array, "functions points"]:
        """Theta applied to a residual."""
        return self._array(self._push(self._step(self._pull(residual)), self.inputs, self.points))

    def apply_to(
        self, residual: Float[ArrayLike, "functions points"], inputs: ArrayLike, points: ArrayLike
    ) -> Float[Array, "others other_points"]:
        """The kernel between other inputs and points and the training data, applied to a residual."""
        return self._array(self._push(self._step(self._pull(residual)), *self._others(inputs, points)))

    def pull(self, residual: Float[ArrayLike, "functions points"]) -> dict[str, Array]:
        """J^T R: the gradient, by name, of the inner product of the outputs with a residual."""
        return _numbers(self._pull(residual))

    def step(self, gradient: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """S g: a gradient times the relative step sizes."""
        return {name: self._rate(name) * np.asarray(value, np.float64) for name, value in gradient.items()}

    def push(
        self, tangent: Mapping[str, ArrayLike], inputs: ArrayLike | None = None, points: ArrayLike | None = None
    ) -> Float[Array, "others other_points"]:
        """J t: how outputs change, to first order, when the weights change by t; on the training data by default.

        Raises:
            ForetrainError: other points, for a module that answers on its own only.
        """
        tensors = {name: self._tensor(tangent[name]).reshape(value.shape) for name, value in self.parameters.items()}
        return self._array(self._push(tensors, *self._others(inputs, points)))

    def outputs(self) -> Float[Array, "functions points"]:
        """The module's own outputs, in the units of the data's normalisation."""
        torch = require_torch()
        with torch.inference_mode(False), torch.no_grad():
            values = [self.function(self.parameters, part, self.points) for part in self.inputs.split(self.chunk)]
            return self._array(torch.cat(values))

    def eigenvalue_max(self, tolerance: float = 1e-4) -> float:
        """The largest eigenvalue, by Lanczos."""
        return self.eigenpair_max(tolerance).value

    def eigenpair_max(self, tolerance: float = 1e-4) -> EigenPair:
        """The largest eigenvalue with its eigenvector [functions, points] and residual."""
        return largest_eigenvalue(self.apply, self.shape, jax.random.key(0), tolerance=tolerance)

    def _pull(self, residual: ArrayLike) -> dict[str, "Tensor"]:
        torch = require_torch()
        right = self._tensor(residual)
        with torch.inference_mode(False), torch.enable_grad():
            weights = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
            gradient = [torch.zeros_like(value) for value in self.parameters.values()]
            for part, own in zip(self.inputs.split(self.chunk), right.split(self.chunk), strict=True):
                more = self.function.pull(weights, part, self.points, own)
                gradient = [old if new is None else old + new for old, new in zip(gradient, more, strict=True)]
        return dict(zip(weights, gradient, strict=True))

    def _step(self, gradient: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
        if self.rates is None:
            return gradient
        return {name: self._rate_tensors[name] * value for name, value in gradient.items()}

    def _push(self, tangent: dict[str, "Tensor"], inputs: "Tensor", points: "Tensor") -> "Tensor":
        torch = require_torch()
        one = self.function.push if self.forward_mode else self.function.push_twice_reversed
        with torch.inference_mode(False), torch.enable_grad():
            return torch.cat([one(self.parameters, part, points, tangent) for part in inputs.split(self.chunk)])

    def _others(self, inputs: ArrayLike | None, points: ArrayLike | None) -> tuple["Tensor", "Tensor"]:
        others = self.inputs if inputs is None else self._tensor(inputs)
        if points is None:
            return others, self.points
        there = self._tensor(points)
        if not self.function.takes_points and not self._are_own(there):
            raise ForetrainError(
                f"query points: expected the {len(self.points)} of the training data, came {len(there)} others; "
                "this module is called with inputs only and answers nowhere else"
            )
        return others, there

    def _are_own(self, points: "Tensor") -> bool:
        same_shape = points.shape == self.points.shape
        return same_shape and bool(require_torch().allclose(points, self.points, rtol=1e-5, atol=1e-6))

    def _rate(self, name: str) -> Array | float:
        """The relative step sizes of one parameter, such that they multiply its real coordinates."""
        keys = [key for key in self.rates or () if _is_below(name, key)]
        if self.rates is None or not keys:
            return 1.0
        rate, shape = _as_numpy(self.rates[max(keys, key=len)]), tuple(self.parameters[name].shape)
        if np.iscomplexobj(rate):
            rate = np.stack([rate.real, rate.imag], axis=-1)
        elif name in self.function.complex_names and rate.ndim and rate.shape == shape[:-1]:
            rate = np.repeat(rate[..., None], 2, axis=-1)
        if rate.shape not in ((), shape):
            raise ForetrainError(f"rates: expected a number or an array {shape} for {name!r}, came one of {rate.shape}")
        return rate

    @functools.cached_property
    def _rate_tensors(self) -> dict[str, "Tensor"]:
        return {name: self._tensor(self._rate(name)) for name in self.parameters}

    def _tensor(self, values: ArrayLike) -> "Tensor":
        return require_torch().tensor(_as_numpy(values), dtype=self.inputs.dtype, device=self.inputs.device)

    def _array(self, tensor: "Tensor") -> Array:
        return tensor.to("cpu", require_torch().float64).numpy()


def _is_below(name: str, prefix: str) -> bool:
    return prefix in ("", name) or name.startswith(prefix + ".")


def _as_numpy(values: Any) -> Array:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _numbers(tensors: Mapping[str, "Tensor"]) -> dict[str, Array]:
    return {name: np.array(_as_numpy(value.to(require_torch().float64))) for name, value in tensors.items()}


def torch_kernel(
    module: "nn.Module",
    data: OperatorDataset,
    *,
    inputs_transform: Callable[["Tensor"], "Tensor"] | None = None,
    rates: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    memory_bytes: int = CHUNK_BYTES,
    convention: Convention | None = None,
) -> TorchKernel:
    """The tangent kernel of any torch module on the training data, its outputs in units of the data's normalisation.

    How the module is called is found by trying, on two functions, in this order:

        "inputs, points"     module(inputs [functions, sensors], points [points, dimension]) -> [functions, points]
        "(inputs, points)"   module((inputs, points)) -> [functions, points], as DeepXDE's DeepONetCartesianProd
        "inputs"             module(inputs) -> [functions, ...], as many values as query points
        "grid"               module(inputs [functions, channels, *grid]) -> [functions, channels, *grid], as
                             neuraloperator's FNO; the grid is that of the sensors or query points, listed row by row

    Arguments:
        module: on its own device and in its own precision. Trained are the parameters that require gradients.
        data: where the kernel is evaluated.
        inputs_transform: maps a tensor [functions, sensors] to what the module takes in place of it, function by
            function: a scaling, or a grid with coordinates as further channels (then the convention is "inputs").
        rates: relative step sizes, see `TorchKernel`.
        chunk: functions processed at once; by default as many as `memory_bytes` allows.
        memory_bytes: bound on the intermediate arrays of one chunk, estimated from what differentiation keeps of it.
        convention: only this way of calling.

    Raises:
        ForetrainError: dropout or batch normalisation in training mode, no way to call the module, outputs of one
            function that depend on another's or on chance, or operators without the derivatives that are needed.
        MissingExtraError: torch is not installed.
    """
    any_way, parameters = trained_function(module, OutputScale.of(data.outputs).scale, inputs_transform)
    torch = require_torch()
    first = next(iter(parameters.values()))
    inputs, points = (
        torch.tensor(array, dtype=first.dtype, device=first.device) for array in (data.inputs, data.query_points)
    )
    function = find_convention(any_way, parameters, inputs, points, data, convention)
    kernel = TorchKernel(function, parameters, inputs, points, 2, True, rates)
    kernel = replace(kernel, forward_mode=_has_forward_mode(kernel))
    if chunk is None:
        # Second derivatives keep the graph of the first as well.
        chunk = memory_bytes // (_bytes_per_function(kernel) * (1 if kernel.forward_mode else 2))
    return replace(kernel, chunk=int(np.clip(chunk, 1, len(inputs))))


def _has_forward_mode(kernel: TorchKernel) -> bool:
    """Whether J t can be had by forward-mode derivatives: <r, J t> must come out as <J^T r, t>."""
    rng = np.random.default_rng(0)
    few = replace(kernel, inputs=kernel.inputs[:2], forward_mode=True, rates=None)
    residual = rng.normal(size=few.shape)
    tangent = {name: rng.normal(size=tuple(value.shape)) for name, value in few.parameters.items()}
    product = sum(float(np.sum(value * tangent[name])) for name, value in few.pull(residual).items())
    try:
        with warnings.catch_warnings():
            # The first forward-mode derivative of a process makes torch use a function that it has itself deprecated.
            warnings.filterwarnings(
                "ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning
            )
            image = few.push(tangent)
        tolerance = math.sqrt(require_torch().finfo(kernel.inputs.dtype).eps) * np.linalg.norm(residual)
        if abs(float(np.sum(residual * image)) - product) <= tolerance * np.linalg.norm(image):
            return True
    except RuntimeError:  # NotImplementedError, which torch raises for missing derivatives, is one
        pass
    try:
        replace(few, forward_mode=False).push(tangent)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ForetrainError(
            "the module: expected operators with forward-mode or second derivatives, came one that has neither "
            f"({reason}); replace it by operators of torch itself"
        ) from error
    return False


def _bytes_per_function(kernel: TorchKernel) -> int:
    """What one more function adds to the values that differentiation keeps, and to their gradients."""
    three, two = (
        kernel.function.bytes_kept(kernel.parameters, kernel.inputs[[0] * functions], kernel.points)
        for functions in (3, 2)
    )
    # Measured: what is computed but not kept, and the gradients, are once more as much, or up to three times.
    return max(1, 4 * (three - two))
