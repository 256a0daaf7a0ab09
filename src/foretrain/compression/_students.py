"""The two student forms, in the terms distillation needs: rows, targets, inner layer, outer layer."""

from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from foretrain.data import OperatorDataset
from foretrain.models import ComponentNetwork, ComponentOperator, ShallowFourierNetwork, ShallowFourierOperator

Batch = tuple[Array, np.ndarray]


class Student(Protocol):
    """A small network seen as an inner layer on rows and a linear outer layer."""

    @property
    def network(self) -> Any: ...

    @property
    def width(self) -> int: ...

    def inner(self) -> PyTree:
        """The inner weights, which the slow timescale moves."""
        ...

    def hidden(self, weights: PyTree, rows: Array) -> Array:
        """The inner layer's values on rows."""
        ...

    def batches(self, inputs: np.ndarray, outputs: np.ndarray) -> list[Batch]:
        """All rows and targets of some functions, in bounded pieces."""
        ...

    def sample(self, inputs: np.ndarray, outputs: np.ndarray, rows: int, key: int) -> Batch:
        """Rows and targets drawn at random."""
        ...

    def with_weights(self, weights: PyTree, outer: np.ndarray) -> "Student":
        """The student with these inner weights and this outer layer."""
        ...

    def keep(self, neurons: np.ndarray) -> "Student":
        """The student with only these neurons (its outer layer to be refitted)."""
        ...


class FourierStudent:
    """A shallow Fourier operator: a row is one function seen from one grid point, the target one number."""

    def __init__(self, network: ShallowFourierNetwork) -> None:
        self.network = network
        self.width = network.filters.shape[1]

    @classmethod
    def draw(cls, spec: ShallowFourierOperator, data: OperatorDataset, key: int) -> "FourierStudent":
        """Random filters from the prior the data suggest."""
        return cls(spec.initialise(data, jax.random.key(key)))

    def inner(self) -> PyTree:
        return (self.network.filters, self.network.biases)

    def hidden(self, weights: PyTree, rows: Array) -> Array:
        return _fourier_hidden(self.network, weights, rows)

    def batches(self, inputs: np.ndarray, outputs: np.ndarray) -> list[Batch]:
        targets = self.network.scale.normalise(outputs)
        pieces = [slice(start, start + 128) for start in range(0, len(inputs), 128)]
        return [(self._rows(inputs[piece]), targets[piece].reshape(-1, 1)) for piece in pieces]

    def sample(self, inputs: np.ndarray, outputs: np.ndarray, rows: int, key: int) -> Batch:
        rng = np.random.default_rng(key)
        functions, points = rng.integers(len(inputs), size=rows), rng.integers(outputs.shape[1], size=rows)
        order = np.argsort(functions, kind="stable")
        functions, points = functions[order], points[order]
        features = np.empty((rows, self.network.table.shape[1]), np.float32)
        for start in range(0, len(inputs), 128):
            chosen = (functions >= start) & (functions < start + 128)
            if chosen.any():
                turned = np.asarray(self.network.features(inputs[start : start + 128]))
                features[chosen] = turned[functions[chosen] - start, points[chosen]]
        targets = self.network.scale.normalise(outputs)[functions, points][:, None]
        return jnp.asarray(features), targets

    def with_weights(self, weights: PyTree, outer: np.ndarray) -> "FourierStudent":
        column = jnp.asarray(outer[:, 0], jnp.float32)
        return FourierStudent(
            eqx.tree_at(
                lambda n: (n.filters, n.biases, n.readout, n.linear),
                self.network,
                (*weights, column[: self.width], column[self.width :]),
            )
        )

    def keep(self, neurons: np.ndarray) -> "FourierStudent":
        network = self.network
        return FourierStudent(
            eqx.tree_at(
                lambda n: (n.filters, n.biases, n.readout),
                network,
                (network.filters[:, neurons], network.biases[neurons], network.readout[neurons]),
            )
        )

    def _rows(self, inputs: np.ndarray) -> Array:
        features = self.network.features(inputs)
        return features.reshape(-1, features.shape[-1])


class ComponentStudent:
    """A network between principal components: a row is one function, the targets its output components."""

    def __init__(self, network: ComponentNetwork) -> None:
        self.network = network
        self.width = network.weights.shape[1]

    @classmethod
    def draw(cls, spec: ComponentOperator, data: OperatorDataset, key: int) -> "ComponentStudent":
        """Random neurons on the data's principal components."""
        return cls(spec.initialise(data, jax.random.key(key)))

    def inner(self) -> PyTree:
        return (self.network.weights, self.network.biases)

    def hidden(self, weights: PyTree, rows: Array) -> Array:
        return _component_hidden(self.network, weights, rows)

    def batches(self, inputs: np.ndarray, outputs: np.ndarray) -> list[Batch]:
        return [(self.network.features(inputs), self._targets(outputs))]

    def sample(self, inputs: np.ndarray, outputs: np.ndarray, rows: int, key: int) -> Batch:
        chosen = np.random.default_rng(key).permutation(len(inputs))[:rows]
        return self.network.features(inputs[chosen]), self._targets(outputs[chosen])

    def with_weights(self, weights: PyTree, outer: np.ndarray) -> "ComponentStudent":
        return ComponentStudent(
            eqx.tree_at(
                lambda n: (n.weights, n.biases, n.outer), self.network, (*weights, jnp.asarray(outer, jnp.float32))
            )
        )

    def keep(self, neurons: np.ndarray) -> "ComponentStudent":
        network = self.network
        rows = np.concatenate([neurons, np.arange(self.width, len(network.outer))])
        return ComponentStudent(
            eqx.tree_at(
                lambda n: (n.weights, n.biases, n.outer),
                network,
                (network.weights[:, neurons], network.biases[neurons], network.outer[rows]),
            )
        )

    def _targets(self, outputs: np.ndarray) -> np.ndarray:
        basis, mean = (
            np.asarray(self.network.output_basis, np.float64),
            np.asarray(self.network.output_mean, np.float64),
        )
        return (outputs - mean) @ basis


@eqx.filter_jit
def _fourier_hidden(network: ShallowFourierNetwork, weights: PyTree, rows: Float[Array, "rows features"]) -> Array:
    moved = eqx.tree_at(lambda n: (n.filters, n.biases), network, weights)
    return moved.hidden(rows)


@eqx.filter_jit
def _component_hidden(network: ComponentNetwork, weights: PyTree, rows: Float[Array, "rows features"]) -> Array:
    moved = eqx.tree_at(lambda n: (n.weights, n.biases), network, weights)
    return moved.hidden(rows)
