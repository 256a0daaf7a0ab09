"""Kernels of torch modules against explicit Jacobians, finite differences, the JAX kernel and gradient descent."""

import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, OutputScale
from foretrain.forecast import GradientDescent, spectral_curves
from foretrain.tangent import EmpiricalKernel, empirical_kernel

torch = pytest.importorskip("torch")

from foretrain.tangent._torch import torch_kernel  # noqa: E402

SINGLE, DOUBLE = 1e-5, 1e-10
"""Relative agreement with an independent computation in the same precision."""


def scattered_data(functions=7, points=6, sensors=5, seed=4):
    rng = np.random.default_rng(seed)
    return OperatorDataset(
        rng.normal(size=(functions, sensors)),
        3.0 + 2.0 * rng.normal(size=(functions, points)),
        np.linspace(0, 1, sensors),
        rng.uniform(size=points),
    )


def grid_data(shape, functions=5, channels=1, seed=2):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(functions, channels, *shape))
    points = np.stack(np.meshgrid(*(np.arange(size) / size for size in shape), indexing="ij"), -1)
    points = points.reshape(-1, len(shape))
    sensors = np.tile(points, (channels, 1))
    return OperatorDataset(inputs, rng.normal(size=(functions, *shape)), sensors, points)


def dense(*sizes):
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


class BranchTrunk(torch.nn.Module):
    """module(inputs, points), the native convention."""

    def __init__(self, sensors=5, width=8):
        super().__init__()
        self.branch, self.trunk = dense(sensors, width, width), dense(1, width, width)
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, points):
        return self.branch(inputs) @ self.trunk(points).T + self.bias


class CartesianProduct(BranchTrunk):
    """module((inputs, points)), as DeepXDE's."""

    def forward(self, inputs):
        values = torch.einsum("bi,ni->bn", self.branch(inputs[0]), self.trunk(inputs[1]))
        values += self.bias
        return values


class Spectral(torch.nn.Module):
    """[functions, channels, *grid] to the same, with complex weights on the lowest modes, as neuraloperator's FNO."""

    def __init__(self, dimension, channels=1, width=3, modes=2):
        super().__init__()
        convolution = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d}[dimension]
        self.lift, self.skip, self.project = (
            convolution(a, b, 1) for a, b in ((channels, width), (width, width), (width, 1))
        )
        self.weight = torch.nn.Parameter(torch.randn(width, width, *[modes] * dimension, dtype=torch.cfloat))
        self.axes, self.modes = tuple(range(-dimension, 0)), modes

    def forward(self, grid):
        values = self.lift(grid)
        spectrum = torch.fft.rfftn(values, dim=self.axes)
        lowest = (..., *[slice(self.modes)] * len(self.axes))
        product = torch.zeros_like(spectrum)
        product[lowest] = torch.einsum("bi...,io...->bo...", spectrum[lowest], self.weight)
        sizes = values.shape[2:]
        values = torch.fft.irfftn(product, s=sizes, dim=self.axes) + self.skip(values)
        return self.project(torch.nn.functional.gelu(values))


def built(kind, *arguments, seed=0, double=True, **settings):
    torch.manual_seed(seed)
    module = kind(*arguments, **settings)
    # Module.double() leaves complex parameters as they are.
    for parameter in module.parameters() if double else ():
        parameter.data = parameter.data.to(torch.complex128 if parameter.is_complex() else torch.float64)
    for part in module.modules() if double else ():
        for name, values in part.named_buffers(recurse=False):
            setattr(part, name, values.double() if values.is_floating_point() else values)
    return module


def dense_jacobian(module, call, data, inputs=None, points=None):
    """Rows: (function, point); columns: by parameter name, real and imaginary parts side by side; row by row."""
    precision = torch.float64
    inputs = torch.tensor(data.inputs if inputs is None else inputs, dtype=precision)
    points = torch.tensor(data.query_points if points is None else points, dtype=precision)
    outputs = call(inputs, points).reshape(-1) / OutputScale.of(data.outputs).scale
    names, weights = zip(*module.named_parameters(), strict=True)
    rows = [torch.autograd.grad(value, weights, retain_graph=True) for value in outputs]
    columns = {}
    for name, parts in zip(names, zip(*rows, strict=True), strict=True):
        stacked = torch.stack(parts)
        stacked = torch.view_as_real(stacked) if stacked.is_complex() else stacked
        columns[name] = stacked.reshape(len(outputs), -1).numpy()
    return columns


def relative_difference(value, truth):
    return np.linalg.norm(np.ravel(value) - np.ravel(truth)) / np.linalg.norm(truth)


def residual_like(data, seed=0):
    return np.random.default_rng(seed).normal(size=data.outputs.shape)


@pytest.fixture(scope="module")
def data():
    return scattered_data()


@pytest.fixture(scope="module")
def module():
    return built(BranchTrunk)


@pytest.fixture(scope="module")
def jacobian(module, data):
    return dense_jacobian(module, module, data)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_apply_is_the_dense_product_whatever_the_chunks(module, data, jacobian, chunk):
    residual = residual_like(data)
    truth = sum(group @ (group.T @ residual.ravel()) for group in jacobian.values())
    kernel = torch_kernel(module, data, chunk=chunk)
    assert kernel.chunk == chunk
    assert relative_difference(kernel.apply(residual), truth) < DOUBLE
    outputs = module(torch.tensor(data.inputs), torch.tensor(data.query_points)).detach().numpy()
    assert relative_difference(kernel.outputs(), outputs / OutputScale.of(data.outputs).scale) < DOUBLE


def test_pull_and_push_are_the_jacobian_by_parameter_name(module, data, jacobian):
    kernel, residual = torch_kernel(module, data, chunk=2), residual_like(data)
    gradient = kernel.pull(residual)
    assert list(gradient) == list(jacobian) == list(kernel.weights)
    for name, group in jacobian.items():
        np.testing.assert_allclose(gradient[name].ravel(), group.T @ residual.ravel(), rtol=1e-9, atol=1e-11)
    truth = sum(group @ gradient[name].ravel() for name, group in jacobian.items())
    assert relative_difference(kernel.push(gradient), truth) < DOUBLE


def test_the_kernel_is_symmetric_and_positive_semi_definite(module, data, jacobian):
    kernel = torch_kernel(module, data, chunk=3)
    rows = data.outputs.size
    matrix = np.stack([kernel.apply(column.reshape(data.outputs.shape)).ravel() for column in np.eye(rows)])
    eigenvalues = np.linalg.eigvalsh(matrix)
    truth = sum(group @ group.T for group in jacobian.values())
    assert relative_difference(matrix, truth) < DOUBLE
    assert np.abs(matrix - matrix.T).max() < 1e-13 * eigenvalues[-1]
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
    pair = kernel.eigenpair_max(1e-6)
    assert pair.converged
    assert pair.value == pytest.approx(eigenvalues[-1], rel=1e-6)


def test_the_kernel_to_other_functions_and_points_is_the_dense_cross_product(module, data, jacobian):
    other, residual = scattered_data(functions=5, points=4, seed=6), residual_like(data)
    there = dense_jacobian(module, module, data, other.inputs, other.query_points)
    truth = sum(there[name] @ (group.T @ residual.ravel()) for name, group in jacobian.items())
    kernel = torch_kernel(module, data, chunk=3)
    assert relative_difference(kernel.apply_to(residual, other.inputs, other.query_points), truth) < DOUBLE


def test_rates_hold_for_a_parameter_for_all_below_a_prefix_or_for_each_weight(module, data, jacobian):
    residual = residual_like(data)
    each = np.random.default_rng(1).uniform(size=(8, 1))
    rates = {"branch": 0.5, "branch.2": 3.0, "branch.2.bias": 7.0, "trunk.0.weight": each}
    stands = {"branch.0.weight": 0.5, "branch.0.bias": 0.5, "branch.2.weight": 3.0, "branch.2.bias": 7.0}
    stands["trunk.0.weight"] = each.ravel()
    truth = sum(group @ (stands.get(name, 1.0) * (group.T @ residual.ravel())) for name, group in jacobian.items())
    kernel = torch_kernel(module, data, rates=rates)
    assert relative_difference(kernel.apply(residual), truth) < DOUBLE
    assert relative_difference(kernel.push(kernel.step(kernel.pull(residual))), truth) < DOUBLE


def test_rates_for_unknown_parameters_or_of_wrong_shape_are_refused(module, data):
    with pytest.raises(ForetrainError, match=r"rates: expected names .* branch\.0\.weight, .*; came 'head'"):
        torch_kernel(module, data, rates={"head": 1.0})
    with pytest.raises(ForetrainError, match=r"rates: .* array \(8,\) for 'branch\.0\.bias', came one of \(3,\)"):
        torch_kernel(module, data, rates={"branch.0.bias": np.ones(3)})


class JaxMLP(eqx.Module):
    weights: list[jax.Array]
    biases: list[jax.Array]

    def __call__(self, inputs, points):
        values = inputs
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (jnp.tanh(values) if index else values) @ weight.T + bias
        return values


def test_the_same_network_in_jax_has_the_same_kernel_in_single_precision():
    data = scattered_data(functions=20, points=9, seed=8)
    module = built(dense, 5, 16, 16, 9, double=False)
    weights = {name: jnp.asarray(value.detach().numpy()) for name, value in module.named_parameters()}
    copy = JaxMLP([weights[f"{i}.weight"] for i in (0, 2, 4)], [weights[f"{i}.bias"] for i in (0, 2, 4)])
    mine, theirs, residual = torch_kernel(module, data, chunk=6), empirical_kernel(copy, data), residual_like(data)
    assert mine.convention == "inputs"
    assert relative_difference(mine.outputs(), theirs.outputs()) < SINGLE
    assert relative_difference(mine.apply(residual), theirs.apply(residual)) < SINGLE
    others = scattered_data(functions=3, points=9, seed=9).inputs
    mine, theirs = (kernel.apply_to(residual, others, data.query_points) for kernel in (mine, theirs))
    assert relative_difference(mine, theirs) < SINGLE


@pytest.mark.usefixtures("double")
def test_the_same_network_in_jax_has_the_same_kernel_in_double_precision():
    data = scattered_data(functions=20, points=9, seed=8)
    module = built(dense, 5, 16, 16, 9)
    weights = {name: jnp.asarray(value.detach().numpy()) for name, value in module.named_parameters()}
    copy = JaxMLP([weights[f"{i}.weight"] for i in (0, 2, 4)], [weights[f"{i}.bias"] for i in (0, 2, 4)])
    trained, frozen = eqx.partition(copy, eqx.is_inexact_array)
    scale = OutputScale.of(data.outputs).scale
    theirs = EmpiricalKernel(
        lambda moved, inputs, points: eqx.combine(moved, frozen)(inputs, points) / scale,
        trained,
        jnp.asarray(data.inputs),
        jnp.asarray(data.query_points),
        20,
    )
    residual = residual_like(data)
    assert relative_difference(torch_kernel(module, data).apply(residual), theirs.apply(residual)) < DOUBLE


@pytest.mark.parametrize("shape", [(9,), (4, 6)])
def test_complex_weights_count_as_pairs_of_real_ones_by_finite_differences(shape):
    data = grid_data(shape)
    module = built(Spectral, len(shape))
    kernel, rng = torch_kernel(module, data, chunk=2), np.random.default_rng(0)
    assert kernel.convention == "grid"
    assert kernel.forward_mode
    grids, scale = torch.tensor(data.inputs).reshape(-1, 1, *shape), OutputScale.of(data.outputs).scale
    columns, step = {}, 1e-6
    for name, parameter in module.named_parameters():
        units = [1.0, 1.0j] if parameter.is_complex() else [1.0]
        sides = []
        # Real and imaginary part next to one another, as in the last axis of the kernel's arrays.
        for index in range(parameter.numel()):
            for unit in units:
                values = []
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter.view(-1)[index] += sign * step * unit
                        values.append(module(grids).reshape(len(grids), -1).numpy() / scale)
                        parameter.view(-1)[index] -= sign * step * unit
                sides.append((values[0] - values[1]).ravel() / (2 * step))
        columns[name] = np.stack(sides, axis=1)
    residual = rng.normal(size=data.outputs.shape)
    gradient = kernel.pull(residual)
    assert gradient["weight"].shape == (*module.weight.shape, 2)
    for name, group in columns.items():
        assert relative_difference(gradient[name], group.T @ residual.ravel()) < 1e-7
    truth = sum(group @ (group.T @ residual.ravel()) for group in columns.values())
    assert relative_difference(kernel.apply(residual), truth) < 1e-7
    rates = rng.uniform(size=module.weight.shape) + 1j * rng.uniform(size=module.weight.shape)
    pairs = np.stack([rates.real, rates.imag], axis=-1)
    for given, stands in ((rates, pairs), (pairs, pairs), (rates.real, np.stack([rates.real] * 2, axis=-1))):
        scaled = dict.fromkeys(columns, 1.0) | {"weight": stands.ravel()}
        truth = sum(group @ (scaled[name] * (group.T @ residual.ravel())) for name, group in columns.items())
        assert relative_difference(replace(kernel, rates={"weight": given}).apply(residual), truth) < 1e-7


def test_every_calling_convention_is_found_and_gives_the_dense_kernel():
    points = scattered_data()
    line, plane, two_channels = grid_data((9,)), grid_data((4, 6)), grid_data((4, 6), channels=2)
    cases = [
        ("inputs, points", BranchTrunk, (), points, lambda module: module),
        ("(inputs, points)", CartesianProduct, (), points, lambda module: lambda u, y: module((u, y))),
        ("inputs", dense, (5, 8, 6), points, lambda module: lambda u, y: module(u)),
        ("grid", Spectral, (1,), line, lambda module: lambda u, y: module(u.reshape(-1, 1, 9))),
        ("grid", Spectral, (2,), plane, lambda module: lambda u, y: module(u.reshape(-1, 1, 4, 6))),
        ("grid", Spectral, (2, 2), two_channels, lambda module: lambda u, y: module(u.reshape(-1, 2, 4, 6))),
    ]
    for convention, kind, arguments, data, calling in cases:
        module, residual = built(kind, *arguments), residual_like(data)
        groups = dense_jacobian(module, calling(module), data).values()
        truth = sum(group @ (group.T @ residual.ravel()) for group in groups)
        kernel = torch_kernel(module, data)
        assert kernel.convention == convention
        assert relative_difference(kernel.apply(residual), truth) < DOUBLE
        assert torch_kernel(module, data, convention=convention).convention == convention


def test_channels_may_be_an_axis_of_data_given_without_points():
    rng = np.random.default_rng(0)
    data = OperatorDataset(rng.normal(size=(5, 2, 4, 6)), rng.normal(size=(5, 1, 4, 6)))
    kernel = torch_kernel(built(Spectral, 2, 2), data)
    assert (kernel.convention, kernel.function.input_shape) == ("grid", (2, 4, 6))


def test_a_transform_of_the_inputs_is_part_of_the_module():
    data = grid_data((9,))
    module, residual = built(Spectral, 1, 2), residual_like(data)

    def with_coordinates(inputs):
        coordinates = torch.linspace(0, 1, 9, dtype=inputs.dtype).expand(len(inputs), -1)
        return torch.stack([3 * inputs, coordinates], dim=1)

    kernel = torch_kernel(module, data, inputs_transform=with_coordinates)
    jacobian = dense_jacobian(module, lambda u, y: module(with_coordinates(u)), data)
    truth = sum(group @ (group.T @ residual.ravel()) for group in jacobian.values())
    assert kernel.convention == "inputs"
    assert relative_difference(kernel.apply(residual), truth) < DOUBLE


class NoForwardMode(torch.autograd.Function):
    """tanh, as users write their own operators: reverse mode only."""

    @staticmethod
    def forward(context, values):
        context.save_for_backward(values)
        return torch.tanh(values)

    @staticmethod
    def backward(context, gradient):
        (values,) = context.saved_tensors
        return gradient * (1 - torch.tanh(values) ** 2)


class WithOwnOperator(BranchTrunk):
    def forward(self, inputs, points):
        return NoForwardMode.apply(super().forward(inputs, points))


class LinearInDisguise(BranchTrunk):
    """One of its parameters is not used, and its output is linear in the other."""

    def __init__(self):
        super().__init__()
        self.only = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, points):
        return self.only * (inputs.sum(dim=1, keepdim=True) + points.T)


def test_operators_without_forward_mode_are_differentiated_twice(data):
    module, residual = built(WithOwnOperator), residual_like(data)
    kernel = torch_kernel(module, data, chunk=3)
    assert not kernel.forward_mode
    truth = sum(group @ (group.T @ residual.ravel()) for group in dense_jacobian(module, module, data).values())
    assert relative_difference(kernel.apply(residual), truth) < DOUBLE


@pytest.mark.parametrize("forward_mode", [True, False])
def test_unused_parameters_and_linear_ones_are_no_exception(data, forward_mode):
    module, residual = built(LinearInDisguise), residual_like(data)
    kernel = replace(torch_kernel(module, data), forward_mode=forward_mode)
    column = (data.inputs.sum(axis=1, keepdims=True) + data.query_points.T) / OutputScale.of(data.outputs).scale
    assert relative_difference(kernel.apply(residual), column * np.sum(column * residual)) < DOUBLE
    assert np.all(kernel.pull(residual)["branch.0.weight"] == 0)


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.project = torch.nn.Linear(1, 8), torch.nn.Linear(8, 1)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, inputs):
        return self.project(self.layer(self.lift(inputs[:, :, None])))[..., 0]


def test_attention_is_differentiated_although_its_fused_form_cannot_be():
    data = grid_data((6,))
    module, residual = built(Attention), residual_like(data)
    groups = dense_jacobian(module, lambda u, y: module(u), data).values()
    truth = sum(group @ (group.T @ residual.ravel()) for group in groups)
    kernel = torch_kernel(module, data)
    for forward_mode in {kernel.forward_mode, False}:
        assert relative_difference(replace(kernel, forward_mode=forward_mode).apply(residual), truth) < 1e-8


def test_frozen_parameters_do_not_count(data):
    module, residual = built(BranchTrunk), residual_like(data)
    jacobian = dense_jacobian(module, module, data)
    module.branch.requires_grad_(False)
    truth = sum(
        group @ (group.T @ residual.ravel()) for name, group in jacobian.items() if not name.startswith("branch")
    )
    assert relative_difference(torch_kernel(module, data).apply(residual), truth) < DOUBLE
    with pytest.raises(ForetrainError, match="parameters that require gradients, came none"):
        torch_kernel(module.requires_grad_(False), data)


def test_training_the_module_on_moves_neither_kernel_nor_modes(data):
    module, residual = built(BranchTrunk), residual_like(data)
    kernel = torch_kernel(module, data)
    before = kernel.apply(residual)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert np.array_equal(kernel.apply(residual), before)
    assert module.training
    with torch.inference_mode():
        assert np.array_equal(kernel.apply(residual), before)


class Tied(BranchTrunk):
    """One matrix used in branch and trunk, and one layer with a normalised weight."""

    def __init__(self):
        super().__init__()
        self.trunk[2].weight = self.branch[2].weight
        torch.nn.utils.parametrizations.weight_norm(self.branch[0])


def test_shared_and_parametrised_weights_count_once(data):
    module, residual = built(Tied), residual_like(data)
    jacobian = dense_jacobian(module, module, data)
    kernel = torch_kernel(module, data)
    assert list(kernel.weights) == list(jacobian)
    truth = sum(group @ (group.T @ residual.ravel()) for group in jacobian.values())
    assert relative_difference(kernel.apply(residual), truth) < DOUBLE


class Regularised(BranchTrunk):
    def __init__(self, extra):
        super().__init__()
        self.branch.insert(1, extra)


def test_dropout_and_batch_normalisation_need_evaluation_mode(data):
    for extra, named in ((torch.nn.Dropout(0.5), "Dropout"), (torch.nn.BatchNorm1d(8), "BatchNorm1d")):
        module = built(Regularised, extra)
        with pytest.raises(ForetrainError, match=rf"came {named} 'branch\.1' in training mode"):
            torch_kernel(module, data)
        module.eval()
        residual = residual_like(data)
        truth = sum(group @ (group.T @ residual.ravel()) for group in dense_jacobian(module, module, data).values())
        assert relative_difference(torch_kernel(module, data, chunk=3).apply(residual), truth) < DOUBLE


def test_outputs_that_depend_on_the_batch_are_refused(data):
    module = built(Regularised, torch.nn.BatchNorm1d(8, track_running_stats=False)).eval()
    with pytest.raises(ForetrainError, match="outputs of one function that depend on another's or on chance"):
        torch_kernel(module, data)


class Transposed(BranchTrunk):
    def forward(self, inputs, points):
        return super().forward(inputs, points).T


class Detached(BranchTrunk):
    def forward(self, inputs, points):
        return super().forward(inputs, points).detach()


def test_modules_that_cannot_be_called_are_refused_in_one_line_with_the_shapes(data):
    with pytest.raises(
        ForetrainError, match=r"\(2, 6\) for 2 functions.*inputs \(2, 5\), points \(6, 1\)\) gave \(6, 2\)"
    ):
        torch_kernel(built(Transposed), data)
    with pytest.raises(ForetrainError, match="outputs that can be differentiated") as failure:
        torch_kernel(built(Detached), data)
    assert "\n" not in str(failure.value)
    with pytest.raises(ForetrainError, match=r"expected a torch\.nn\.Module, came a type; build it first"):
        torch_kernel(BranchTrunk, data)
    with pytest.raises(ForetrainError, match="answers nowhere else"):
        torch_kernel(built(dense, 5, 8, 6), data).apply_to(residual_like(data), data.inputs, 1 + data.query_points)


def test_little_memory_means_small_chunks():
    data, module = scattered_data(functions=64), built(BranchTrunk)
    assert torch_kernel(module, data, memory_bytes=1).chunk == 1
    assert torch_kernel(module, data, memory_bytes=2**30).chunk == 64
    assert 1 < torch_kernel(module, data, memory_bytes=20_000).chunk < 64


def test_gradient_descent_of_a_wide_network_follows_the_forecast_of_its_kernel():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(30, 6))
    outputs = np.sin(inputs @ rng.normal(size=(6, 4)) / 2)
    data = OperatorDataset(inputs, outputs)
    module = built(dense, 6, 2048, 4, double=False)
    kernel, scale = torch_kernel(module, data), OutputScale.of(outputs).scale
    residual = kernel.outputs() - outputs / scale
    method = GradientDescent(step_size=1 / kernel.eigenvalue_max())
    steps = np.arange(51)
    lower, upper = spectral_curves(kernel.apply, residual, method, 50).loss(method, steps)
    optimiser = torch.optim.SGD(module.parameters(), lr=method.step_size)
    features, targets = (torch.tensor(values, dtype=torch.float32) for values in (inputs, outputs / scale))
    measured = []
    for _ in steps:
        difference = module(features) / scale - targets
        measured.append((difference**2).mean().item())
        optimiser.zero_grad()
        (difference**2).sum().div(2).backward()
        optimiser.step()
    assert measured[50] < 0.5 * measured[0]
    np.testing.assert_allclose(measured, (lower + upper) / 2, rtol=0.03)
