"""A torch module as a function of its trained weights, and the ways it may be called."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from foretrain._foundation import ForetrainError, require_extra
from foretrain.data import OperatorDataset, regular_grid_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Convention = Literal["inputs, points", "(inputs, points)", "inputs", "grid"]


def require_torch() -> ModuleType:
    """Torch, or an error that says how to install it."""
    return require_extra("torch", "torch")


@dataclass(frozen=True)
class ModuleFunction:
    """A torch module as a function of its trained weights: (weights, inputs, points) -> outputs in normalised units.

    Attributes:
        module: called with the weights it is given, in evaluation mode; its own weights are never read or moved.
        constants: its buffers and the parameters that are not trained, as they were.
        complex_names: parameters given as real arrays with a last axis (real part, imaginary part).
        scale: what outputs are divided by.
        convention: how the module is called, see `torch_kernel`.
        input_shape: [channels, *grid] of one input function, for the convention "grid".
        inputs_transform: maps inputs [functions, sensors], a tensor, to what the module takes.
    """

    module: "nn.Module"
    constants: Mapping[str, "Tensor"]
    complex_names: frozenset[str]
    scale: float
    convention: Convention
    input_shape: tuple[int, ...] | None = None
    inputs_transform: Callable[["Tensor"], "Tensor"] | None = None

    def __call__(self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor") -> "Tensor":
        return self.raw_outputs(weights, inputs, points).reshape(len(inputs), -1) / self.scale

    def raw_outputs(self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor") -> Any:
        """What the module returns."""
        torch = require_torch()
        values = {
            name: torch.view_as_complex(value) if name in self.complex_names else value
            for name, value in weights.items()
        }
        arguments = self.arguments(inputs, points)
        with _evaluation_mode(self.module):
            return torch.func.functional_call(self.module, {**self.constants, **values}, arguments)

    def pull(
        self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor", residual: "Tensor"
    ) -> tuple["Tensor | None", ...]:
        """J^T r, for each of the weights, which require gradients; None for those that the outputs do not touch.

        Raises:
            ForetrainError: outputs without a gradient.
        """
        outputs = self(weights, inputs, points)
        if not outputs.requires_grad:
            raise ForetrainError(
                "the module: expected outputs that can be differentiated in its parameters, came outputs "
                "without a gradient; remove detach() and no_grad() from its forward()"
            )
        # Plain reverse mode also passes through operators that torch.func refuses.
        return require_torch().autograd.grad(outputs, list(weights.values()), residual, allow_unused=True)

    def push(
        self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor", tangent: Mapping[str, "Tensor"]
    ) -> "Tensor":
        """J t by a forward-mode derivative."""

        def outputs(moved: dict[str, "Tensor"]) -> "Tensor":
            return self(moved, inputs, points)

        return require_torch().func.jvp(outputs, (dict(weights),), (tangent,))[1].detach()

    def push_twice_reversed(
        self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor", tangent: Mapping[str, "Tensor"]
    ) -> "Tensor":
        """J t as the derivative in r of <J^T r, t>, which is linear in r."""
        torch = require_torch()
        moved = {name: value.detach().requires_grad_() for name, value in weights.items()}
        outputs = self(moved, inputs, points)
        right = torch.zeros_like(outputs, requires_grad=True)
        gradient = torch.autograd.grad(outputs, list(moved.values()), right, create_graph=True, allow_unused=True)
        pairs = [(part, tangent[name]) for part, name in zip(gradient, moved, strict=True) if part is not None]
        product = sum((part * along).sum() for part, along in pairs)
        return torch.autograd.grad(product, right)[0].detach()

    def bytes_kept(self, weights: Mapping[str, "Tensor"], inputs: "Tensor", points: "Tensor") -> int:
        """Size of the values that reverse mode keeps of one evaluation."""
        torch = require_torch()
        sizes: list[int] = []

        def note(tensor: "Tensor") -> "Tensor":
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        moved = {name: value.detach().requires_grad_() for name, value in weights.items()}
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with torch.inference_mode(False), torch.enable_grad(), hooks:
            self(moved, inputs, points)
        return sum(sizes)

    def arguments(self, inputs: "Tensor", points: "Tensor") -> tuple[Any, ...]:
        """What the module is called with."""
        if self.inputs_transform is not None:
            inputs = self.inputs_transform(inputs)
        if self.input_shape is not None:
            inputs = inputs.reshape(len(inputs), *self.input_shape)
        if self.convention == "inputs, points":
            return inputs, points
        return ((inputs, points),) if self.convention == "(inputs, points)" else (inputs,)

    @property
    def takes_points(self) -> bool:
        """Whether the module answers at any points, not only on its own."""
        return "points" in self.convention


@contextlib.contextmanager
def _evaluation_mode(module: "nn.Module") -> Iterator[None]:
    """Evaluates as `module.eval()` would, and leaves the caller's modes as they were."""
    attention = require_extra("torch.nn.attention", "torch")
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        # Fused attention has neither forward-mode nor second derivatives.
        with attention.sdpa_kernel(attention.SDPBackend.MATH):
            yield
    finally:
        for part, training in modes:
            part.training = training


def trained_function(
    module: "nn.Module", scale: float, inputs_transform: Callable[["Tensor"], "Tensor"] | None
) -> tuple[ModuleFunction, dict[str, "Tensor"]]:
    """A module as a function, the way of calling it still to be found, and copies of its trained weights.

    Raises:
        ForetrainError: no torch module, one in training mode whose outputs then depend on chance or on the batch, or
            one without parameters that require gradients.
    """
    torch = require_torch()
    if not isinstance(module, torch.nn.Module):
        raise ForetrainError(f"the module: expected a torch.nn.Module, came a {type(module).__name__}; build it first")
    _require_evaluation_mode(module)
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not trained:
        raise ForetrainError("the module: expected parameters that require gradients, came none; nothing is trained")
    complex_names = frozenset(name for name, value in trained.items() if value.is_complex())
    with torch.inference_mode(False):
        copies = {name: value.detach().clone().resolve_conj() for name, value in trained.items()}
        parameters = {name: torch.view_as_real(v) if name in complex_names else v for name, v in copies.items()}
        others = [*module.named_parameters(), *module.named_buffers()]
        constants = {name: value.detach().clone() for name, value in others if name not in trained}
    return ModuleFunction(module, constants, complex_names, scale, "inputs", None, inputs_transform), parameters


def _require_evaluation_mode(module: "nn.Module") -> None:
    layers = require_torch().nn
    dropouts = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
    norms = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
    for name, part in module.named_modules():
        drops = isinstance(part, tuple(getattr(layers, kind) for kind in dropouts)) and getattr(part, "p", 0) > 0
        if part.training and (drops or isinstance(part, tuple(getattr(layers, kind) for kind in norms))):
            raise ForetrainError(
                f"the module: expected evaluation mode, came {type(part).__name__} {name!r} in training mode, "
                "whose outputs depend on chance or on the batch; call module.eval() first"
            )


def find_convention(
    any_way: ModuleFunction,
    parameters: Mapping[str, "Tensor"],
    inputs: "Tensor",
    points: "Tensor",
    data: OperatorDataset,
    convention: Convention | None,
) -> ModuleFunction:
    """The first way of calling the module that gives the data's outputs."""
    ways: list[tuple[Convention, tuple[int, ...] | None]]
    ways = [("inputs, points", None), ("(inputs, points)", None), ("inputs", None)]
    if any_way.inputs_transform is None:
        ways += [("grid", shape) for shape in _grid_shapes(data)]
    reasons = []
    for name, shape in ways:
        if convention is None or name == convention:
            function = replace(any_way, convention=name, input_shape=shape)
            reason = _why_not(function, parameters, inputs, points, regular_grid_shape(data.query_points))
            if reason is None:
                return function
            reasons.append(f"module({_described(inputs, points, function)}) {reason}")
    raise ForetrainError(
        f"the module: expected outputs [functions, points] = {(2, len(points))} for 2 functions, came none: "
        f"{'; '.join(reasons) or 'no grid is known'}; wrap it in a module that takes (inputs, points), or give "
        "inputs_transform"
    )


def _grid_shapes(data: OperatorDataset) -> list[tuple[int, ...]]:
    """What one input function may be as [channels, *grid]."""
    sensors, shapes = data.inputs.shape[1], []
    own, queries = regular_grid_shape(data.sensor_points), regular_grid_shape(data.query_points)
    if own is not None:
        shapes.append((1, *own))
    if queries is not None and sensors % math.prod(queries) == 0:
        shapes.append((sensors // math.prod(queries), *queries))
    # Channels are an axis of the grid that data without points are given.
    if own is not None and len(own) > 1:
        shapes.append(own)
    return list(dict.fromkeys(shapes))


def _described(inputs: "Tensor", points: "Tensor", function: ModuleFunction) -> str:
    shape = (2, *(function.input_shape or inputs.shape[1:]))
    pair = f"inputs {shape}, points {tuple(points.shape)}"
    if not function.takes_points:
        return f"inputs {shape}"
    return pair if function.convention == "inputs, points" else f"({pair})"


def _why_not(
    function: ModuleFunction,
    parameters: Mapping[str, "Tensor"],
    inputs: "Tensor",
    points: "Tensor",
    grid: tuple[int, ...] | None,
) -> str | None:
    """Why the module cannot be called in this way, or None if it can."""
    torch = require_torch()
    try:
        with torch.no_grad():
            pair, twice = (function.raw_outputs(parameters, inputs[rows], points) for rows in ([0, 1], [0, 0]))
    # What a user's module raises on arguments it was not made for can be anything.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"raised {type(error).__name__}: {lines[0][:100]}"
    if not torch.is_tensor(pair):
        return f"gave a {type(pair).__name__}"
    if not pair.is_floating_point():
        return f"gave values of type {pair.dtype}"
    sizes = [size for size in pair.shape[1:] if size != 1]
    expected = [size for size in grid or () if size != 1] if function.convention == "grid" and grid else None
    fits = math.prod(sizes) == len(points) if not function.takes_points else sizes == [len(points)]
    if len(pair) != 2 or not fits or (expected is not None and sizes[-len(expected) :] != expected):
        return f"gave {tuple(pair.shape)}"
    change, size = (pair[0] - twice[0]).norm(), pair[0].norm()
    if bool(change > math.sqrt(torch.finfo(pair.dtype).eps) * size):
        return "gave outputs of one function that depend on another's or on chance"
    return None
