"""The loss of a shallow Fourier operator as a function of its filters, the outer filters at their optimum."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import FilteredBoxNetwork, FilteredFourierNetwork

FilteredNetwork = FilteredFourierNetwork | FilteredBoxNetwork
OUTER_RIDGE = 1e-7
VALUES_AT_ONCE = 2**19
"""Neuron values held at once: few enough for the processor's cache, on which the speed depends."""


@dataclass(frozen=True)
class ReducedValue:
    """The reduced loss at one place.

    Attributes:
        value: the reduced loss, ridge included; data_term: without it.
        slopes: its gradient, with respect to filters and biases.
        readout: the optimal outer filters.
    """

    value: float
    data_term: float
    slopes: tuple[Float[np.ndarray, "features width"], Float[np.ndarray, " width"]]
    readout: Float[np.ndarray, "output_modes twice_width"]


@dataclass(frozen=True)
class NormalEquations:
    """Of the outer filters: one problem for each output wave number. They add up over functions."""

    gram: Float[np.ndarray, "output_modes twice_width twice_width"]
    moment: Float[np.ndarray, "output_modes twice_width"]

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(self.gram + other.gram, self.moment + other.moment)

    def times(self, factor: float) -> "NormalEquations":
        """With all functions' weights multiplied."""
        return NormalEquations(factor * self.gram, factor * self.moment)

    def diagonals(self) -> Float[np.ndarray, " output_modes"]:
        """Mean diagonal of each problem, what a ridge is relative to."""
        diagonal = np.trace(self.gram, axis1=1, axis2=2) / self.gram.shape[1]
        # A wave number without any features (the constant of an odd operator) still needs a definite system.
        return np.maximum(diagonal, 1e-12 * diagonal.max())

    def solution(self, ridges: Float[np.ndarray, " output_modes"]) -> Float[np.ndarray, "output_modes twice_width"]:
        """argmin_q: the outer filters."""
        identity = np.eye(self.gram.shape[1])
        solved = [
            scipy.linalg.solve(matrix + ridge * identity, vector, assume_a="pos")
            for matrix, ridge, vector in zip(self.gram, ridges, self.moment, strict=True)
        ]
        return np.stack(solved)


class FourierCoefficients:
    """Functions as the loss sees them: Fourier coefficients of inputs and normalised outputs, in equal pieces.

    Arguments:
        network: settles the tables and the scale; its weights do not matter.
        data: the functions.
        piece: functions at once; functions of two data sets in pieces of one size share their compiled steps.
    """

    def __init__(self, network: FilteredNetwork, data: OperatorDataset, piece: int | None = None) -> None:
        targets = network.scale.normalise(data.outputs)
        squares = np.mean(data.outputs**2, axis=1) / network.scale.scale**2
        # A function that is all but zero must not decide the fit.
        self.relative = 1 / np.maximum(squares, 1e-6 * np.mean(squares))
        spectrum = network.output_spectrum(targets)
        within = np.einsum("k,kcn->n", np.asarray(network.multiplicity, np.float64), spectrum**2)
        self.beyond = np.maximum(np.mean(targets**2, axis=1) - within, 0)
        pieces = -(-len(targets) * network.samples * 2 * len(network.biases) // VALUES_AT_ONCE)
        self.piece = piece if piece is not None else -(-len(targets) // max(1, pieces))
        # Filled up with functions of no weight, so that one compiled step serves all pieces.
        missing = -len(targets) % self.piece
        self._coefficients = np.pad(np.asarray(network.coefficients(data.inputs)), ((0, missing), (0, 0)))
        self._targets = np.pad(spectrum, ((0, 0), (0, 0), (0, missing)))
        self._weights = np.pad(self.relative / len(targets), (0, missing))

    @property
    def truncation(self) -> float:
        """Mean square relative error that the output modes leave whatever the weights."""
        return float(np.mean(self.relative * self.beyond))

    def normal_equations(self, network: FilteredNetwork) -> NormalEquations:
        """For the network's filters and biases, in double precision."""
        size = network.readout.shape
        gram, moment = np.zeros((*size, size[1])), np.zeros(size)
        for rows in self._pieces():
            features = np.asarray(_hidden(network, jnp.asarray(self._coefficients[rows])))
            root = np.tile(np.sqrt(self._weights[rows]), features.shape[1])[:, None]
            for index, (values, targets) in enumerate(zip(features, self._targets[:, :, rows], strict=True)):
                weighted = values.reshape(-1, size[1]).astype(np.float64) * root
                gram[index] += weighted.T @ weighted
                moment[index] += weighted.T @ (targets.reshape(-1) * root[:, 0])
        return NormalEquations(gram, moment)

    def squares(self, network: FilteredNetwork) -> Float[np.ndarray, " functions"]:
        """Mean square of each function's residual, in normalised outputs."""
        dtype, found = network.filters.dtype, []
        for rows in self._pieces():
            arguments = self._coefficients[rows], self._targets[:, :, rows]
            found.append(np.asarray(_squares(network, *(jnp.asarray(argument, dtype) for argument in arguments))))
        return np.concatenate(found)[: len(self.beyond)].astype(np.float64) + self.beyond

    def error(self, network: FilteredNetwork) -> float:
        """Mean relative L2 error."""
        return float(np.mean(np.sqrt(self.squares(network) * self.relative)))

    def data_term(
        self, network: FilteredNetwork
    ) -> tuple[float, tuple[Float[np.ndarray, "features width"], Float[np.ndarray, " width"]]]:
        """Mean square relative error and its gradient with respect to filters and biases."""
        dtype = network.filters.dtype
        total, across, along = self.truncation, np.zeros(network.filters.shape), np.zeros(network.biases.shape)
        for rows in self._pieces():
            arguments = self._coefficients[rows], self._targets[:, :, rows], self._weights[rows]
            value, slopes = _data_term(network, *(jnp.asarray(argument, dtype) for argument in arguments))
            total += float(value)
            across, along = across + np.asarray(slopes[0], np.float64), along + np.asarray(slopes[1], np.float64)
        return total, (across, along)

    def _pieces(self) -> list[slice]:
        return [slice(start, start + self.piece) for start in range(0, len(self._weights), self.piece)]


class ReducedFourierLoss:
    """The loss as a function of filters and biases alone, the outer filters at their optimum for them.

        L(v) = min_q  mean_i |G(u_i; v, q) - z_i|^2 / |z_i|^2 + sum_k ridge_k |q_k|^2,
        dL/dv = partial gradient at the optimal q (envelope theorem),

    one least-squares problem of 2 width unknowns for each output wave number. `ridge` is relative to the mean
    diagonal of each problem's normal equations at the starting filters, and stays what it was there, so that the
    gradient is exact. The normal equations are summed and solved in double precision.

    Attributes:
        functions: the data, as coefficients; ridges: one for each output wave number, absolute.

    Source: Golub, Pereyra (1973).
    """

    def __init__(self, network: FilteredNetwork, data: OperatorDataset, ridge: float = OUTER_RIDGE) -> None:
        if not ridge > 0:
            raise ForetrainError(f"ridge: expected a positive number, came {ridge:g}")
        self.network = network
        self.functions = FourierCoefficients(network, data)
        self._multiplicity = np.asarray(network.multiplicity, np.float64)
        self.ridges = ridge * self.functions.normal_equations(network).diagonals()

    def optimal_readout(self, filters: Array, biases: Array) -> Float[np.ndarray, "output_modes twice_width"]:
        """argmin_q: the outer filters that go with these filters."""
        moved = self.with_weights(filters, biases, np.asarray(self.network.readout))
        return self.functions.normal_equations(moved).solution(self.ridges)

    def evaluate(self, filters: Array, biases: Array) -> ReducedValue:
        """The reduced loss and its gradient."""
        readout = self.optimal_readout(filters, biases)
        data_term, slopes = self.functions.data_term(self.with_weights(filters, biases, readout))
        penalty = float(np.sum(self._multiplicity * self.ridges * np.sum(readout**2, axis=1)))
        return ReducedValue(data_term + penalty, data_term, slopes, readout)

    def with_weights(self, filters: Array, biases: Array, readout: np.ndarray) -> FilteredNetwork:
        """The network with these weights."""
        dtype = self.network.filters.dtype
        weights = [jnp.asarray(values, dtype) for values in (filters, biases, readout)]
        return eqx.tree_at(lambda network: (network.filters, network.biases, network.readout), self.network, weights)


@eqx.filter_jit
def _hidden(network: FilteredNetwork, coefficients: Array) -> Array:
    return network.hidden(coefficients)


@eqx.filter_jit
def _squares(network: FilteredNetwork, coefficients: Array, targets: Array) -> Array:
    residual = jnp.einsum("kcnr,kr->kcn", network.hidden(coefficients), network.readout) - targets
    return jnp.einsum("kcn,k->n", residual**2, network.multiplicity)


@eqx.filter_jit
def _data_term(
    network: FilteredNetwork, coefficients: Array, targets: Array, weights: Array
) -> tuple[Array, tuple[Array, Array]]:
    def loss(inner: tuple[Array, Array]) -> Array:
        moved = eqx.tree_at(lambda net: (net.filters, net.biases), network, inner)
        residual = jnp.einsum("kcnr,kr->kcn", moved.hidden(coefficients), network.readout) - targets
        return jnp.einsum("kcn,k,n->", residual**2, network.multiplicity, weights)

    return jax.value_and_grad(loss)((network.filters, network.biases))
