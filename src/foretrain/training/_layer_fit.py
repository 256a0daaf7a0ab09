"""Fitting the filters of a layered operator: one least-squares problem after the other."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from foretrain._foundation import Progress, ignore_progress
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.models import LayeredNetwork

STAGE = "fitting layers"
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LEAST_SIZE = 1e-3
"""Of the outputs' root mean square: smaller functions weigh no more than one of this size."""
PATIENCE = 2
"""Layers in succession that gain too little, after which the stack ends: the next draw may do better."""
VALUES_KEPT = 2**28
"""Of neurons' spectra in memory between fitting a layer and taking it; 1 GiB. More are computed twice."""


@dataclass(frozen=True)
class LayerRecord:
    """What a layer did.

    Attributes:
        layer: counted from 1; 0 is the mean of the training outputs.
        train_error, held_out_error: mean relative L2 errors after it, on the functions it was fitted to and on those
            held out (nan without any).
        ridge: of its filters, relative to each unknown's own diagonal entry of the normal equations.
        cpu_seconds: of the processor since the start.
    """

    layer: int
    train_error: float
    held_out_error: float
    ridge: float
    cpu_seconds: float


@dataclass(frozen=True)
class LayerEquations:
    """Normal equations of one layer's filters, [knots, width] listed row by row; they add up over functions.

    Attributes:
        gram, moment: of the unknowns; rest: the weighted squared residual without this layer.
    """

    gram: Float[np.ndarray, "unknowns unknowns"]
    moment: Float[np.ndarray, " unknowns"]
    rest: float

    def solutions(self, ridges: Sequence[float]) -> list[Float[np.ndarray, " unknowns"]]:
        """The filters that leave least, for every ridge; ridges are relative to the diagonal."""
        size = np.sqrt(np.diag(self.gram))
        # A hat between two waves meets none of them.
        seen = size > 1e-6 * size.max()
        scaled = self.gram[np.ix_(seen, seen)] / np.outer(size[seen], size[seen])
        values, vectors = scipy.linalg.eigh(scaled)
        # Sums in single precision leave eigenvalues a little below zero where neurons depend on each other.
        values, turned = np.maximum(values, 0.0), vectors.T @ (self.moment[seen] / size[seen])
        found = np.zeros((len(ridges), len(seen)))
        found[:, seen] = [vectors @ (turned / (values + ridge)) / size[seen] for ridge in ridges]
        return list(found)

    def loss(self, filters: Float[np.ndarray, " unknowns"]) -> float:
        """The weighted squared residual with these filters."""
        return float(self.rest - 2 * self.moment @ filters + filters @ self.gram @ filters)


@dataclass(frozen=True)
class Progressing:
    """Functions on their way through the layers, filled up with functions of weight zero to whole chunks.

    Attributes:
        medium: inputs as windows see them; targets: wanted outputs; answers: those so far.
        weights: one over each function's norm, for its relative error.
        count: how many are functions; chunk: how many are looked at together.
    """

    medium: Array
    targets: Array
    weights: Array
    answers: Array
    count: int
    chunk: int

    @classmethod
    def of(cls, network: LayeredNetwork, data: OperatorDataset) -> "Progressing":
        """At the start."""
        size = np.linalg.norm(network.scale.normalise(data.outputs), axis=1)
        weights = 1.0 / np.maximum(size, LEAST_SIZE * np.sqrt(np.mean(size**2)))
        targets = network.inner(data.outputs)
        chunk = network.chunk
        missing = -len(data) % chunk
        medium, wanted = (
            jnp.pad(fields, ((0, missing), (0, 0), (0, 0))) for fields in (network.medium(data.inputs), targets)
        )
        weighted = jnp.pad(jnp.asarray(weights, targets.dtype), (0, missing))
        return cls(medium, wanted, weighted, network.first_answers(len(data) + missing), len(data), chunk)

    def error(self) -> float:
        """Mean relative L2 error so far, on the nodes inside."""
        fields = (self.answers[: self.count], self.targets[: self.count])
        return mean_relative_error(*(np.asarray(field, np.float64).reshape(self.count, -1) for field in fields))

    def chunks(self) -> Iterator[tuple[slice, Array, Array]]:
        """Which functions are looked at together, their inputs and their answers so far."""
        for start in range(0, len(self.targets), self.chunk):
            rows = slice(start, start + self.chunk)
            yield rows, self.medium[rows], self.answers[rows]

    def equations(self, network: LayeredNetwork, layer: int) -> tuple[LayerEquations, list[Array]]:
        """Of this layer's filters, after the layers before it; and its neurons' spectra, where there is room to keep
        them for `through`.
        """
        hats = np.asarray(network.hats, np.float64)
        (knots, modes), width = hats.shape, network.gates.shape[1]
        gram, moment, rest, spectra = np.zeros((modes, width, width)), np.zeros((modes, width)), 0.0, []
        room = self.targets.size * network.gates.shape[1] <= VALUES_KEPT
        for rows, medium, answers in self.chunks():
            neurons = _neurons(network, jnp.asarray(layer), medium, answers)
            left = network.spectrum(self.targets[rows] - answers)
            products = [np.asarray(part, np.float64) for part in _products(neurons, left, self.weights[rows])]
            gram, moment, rest = gram + products[0], moment + products[1], rest + float(products[2])
            if room:
                spectra.append(neurons)
        blocks = np.zeros((knots, width, knots, width))
        for one in range(knots):
            # Hats further apart than neighbours do not overlap.
            for other in range(one, min(one + 2, knots)):
                blocks[one, :, other] = np.tensordot(hats[one] * hats[other], gram, 1)
                blocks[other, :, one] = blocks[one, :, other].T
        return LayerEquations(blocks.reshape(knots * width, -1), (hats @ moment).ravel(), rest), spectra

    def through(self, network: LayeredNetwork, layer: int, spectra: list[Array]) -> "Progressing":
        """After this layer."""
        answers = []
        for place, (_, medium, before) in enumerate(self.chunks()):
            neurons = spectra[place] if spectra else _neurons(network, jnp.asarray(layer), medium, before)
            answers.append(_corrected(network, before, neurons, network.filters[layer]))
        return replace(self, answers=jnp.concatenate(answers))


def fit_layers(
    network: LayeredNetwork,
    learn: OperatorDataset,
    check: OperatorDataset | None,
    ridges: Sequence[float] = RIDGES,
    least_gain: float = 0.0,
    progress: Progress = ignore_progress,
    most: int | None = None,
) -> tuple[LayeredNetwork, list[LayerRecord]]:
    """The network with every layer's filters at their optimum, given the layers before it.

    Arguments:
        check: functions that choose each layer's ridge and end the stack with the second layer in succession that
            lowers their error by less than `least_gain`, a share.
        ridges: to choose from; without `check` one for each layer to be fitted.
        most: layers to fit; all by default.
    """
    started = time.process_time()
    learning = Progressing.of(network, learn)
    judging = None if check is None else Progressing.of(network, check)
    records = [LayerRecord(0, learning.error(), math.nan if judging is None else judging.error(), math.nan, 0.0)]
    stale = 0
    depth = len(ridges) if judging is None else min(most or len(network.filters), len(network.filters))
    for layer in range(depth):
        equations, spectra = learning.equations(network, layer)
        if judging is None:
            ridge, [filters] = ridges[layer], equations.solutions([ridges[layer]])
        else:
            judge, judged_spectra = judging.equations(network, layer)
            trials = equations.solutions(ridges)
            best = int(np.argmin([judge.loss(trial) for trial in trials]))
            ridge, filters = ridges[best], trials[best]
        shaped = jnp.asarray(filters.reshape(network.filters.shape[1:]), network.filters.dtype)
        network = eqx.tree_at(lambda net: net.filters, network, network.filters.at[layer].set(shaped))
        learning, error = learning.through(network, layer, spectra), math.nan
        if judging is not None:
            judging = judging.through(network, layer, judged_spectra)
            error = judging.error()
        before = records[-1].held_out_error
        records.append(LayerRecord(layer + 1, learning.error(), error, ridge, time.process_time() - started))
        progress(STAGE, layer + 1, depth, {"error": records[-1].train_error, "held-out error": error})
        stale = stale + 1 if error > (1 - least_gain) * before else 0
        if stale == PATIENCE:
            break
    return network, records


def of_depth(network: LayeredNetwork, layers: int) -> LayeredNetwork:
    """Its first layers."""

    def parts(net: LayeredNetwork) -> tuple[Array, ...]:
        return net.gates, net.thresholds, net.answer_gates, net.windows, net.offsets, net.filters

    return eqx.tree_at(parts, network, tuple(part[:layers] for part in parts(network)))


@eqx.filter_jit
def _neurons(network: LayeredNetwork, layer: Array, medium: Array, answers: Array) -> Array:
    return network.neurons(layer, medium, answers)


@eqx.filter_jit
def _corrected(network: LayeredNetwork, answers: Array, neurons: Array, filters: Array) -> Array:
    return network.corrected(answers, neurons, filters)


@jax.jit
def _products(neurons: Array, left: Array, weights: Array) -> tuple[Array, Array, Array]:
    neurons, left = neurons * weights[:, None, None], left * weights[:, None]
    gram = jnp.einsum("nkr,nks->krs", neurons, neurons)
    return gram, jnp.einsum("nkr,nk->kr", neurons, left), jnp.sum(left**2)
