"""An operator of layers, fitted one after the other in closed form."""

import math
import time
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from foretrain._foundation import DataError, ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset, common_grid_shape, mean_relative_error, periodic_grid_shape
from foretrain.models import Ends, LayeredOperator, boundary_nodes
from foretrain.training._layer_fit import RIDGES, fit_layers, of_depth

Array = np.ndarray
NAMES = (
    "width",
    "layers",
    "ends",
    "symmetric",
    "reach",
    "answer_reach",
    "activation",
    "answers_gate",
    "least_gain",
    "held_out",
)
TRIAL_FUNCTIONS = 300
TRIAL_LAYERS, GATE_TRIAL_LAYERS = 2, 5
"""Gates that see the answer are of use once there is one."""
FEWEST_FUNCTIONS = 10
VALUES_FOR_EACH_UNKNOWN = 1000
"""Of a layer's filters: functions beyond that hardly change them, and layers are fitted without."""


class LayerwiseOperator:
    """Random local neurons and global filters in layers, every layer's filters solved by least squares.

        u_0 = mean output,   u_l = u_(l-1) + sum_{r<=m} F_lr [ h_lr ]
        h_lr = sum_g sigma( (g w_lr) * a + (g z_lr) * u_(l-1) + b_lr ) ( (g v_lr) * u_(l-1) + c_lr )

    Nothing descends: w, z, b, v are drawn, and the filters F solve one least-squares problem for each layer, every
    function weighted for its relative error. Each layer is a shallow operator, of the input and of the answer so far.
    Made for rough coefficients, where the answer obeys a local law that a few layers find: Darcy flow, two materials.

    Held-out functions choose each layer's ridge and the number of layers. All layers are then fitted again, to all
    functions, unless there were more than a layer needs, a thousand values for each of its numbers.

    Arguments:
        width: m, neurons of a layer; layers: how many at most.
        ends: what outputs do beyond the grid, see `LayeredOperator`. By itself: "zero" if along every axis the outputs
            nearly vanish at one end or both, else "periodic" if the functions close up (`periodic_grid_shape`), else
            as a trial says.
        symmetric: whether the operator keeps all symmetries of the box; by itself as a trial says: two layers, learning
            from at most 200 functions, judged by 100 others.
        reach, answer_reach, activation: see `LayeredOperator`.
        answers_gate: whether gates see the answer so far; by itself as such a trial of five layers says.
        least_gain: the stack ends with the second layer in succession that lowers the held-out error by a smaller
            share.
        held_out: share of the training functions that choose; at least one of ten functions.
        key: of the random windows and of the functions held out; the same key gives the same operator.
        progress: called after every layer.

    Attributes after `fit`:
        operator_: the settings; network_: the fitted network; trained_numbers_: how many numbers were fitted.
        records_: the layers as held-out functions saw them (`LayerRecord`); ridges_: of the layers kept.
        cpu_seconds_: processor seconds of `fit`, compilation included.

    **Assumption:** inputs and outputs live on one regular grid of one or two axes, and what the windows see is enough
    to correct the answer; a map that carries values far needs more layers than it is worth.

    Source: docs/decisions/0010; Huang, Zhu, Siew (2006) for random neurons under a solved readout; Friedman (2001) for
    fitting stages to what is left.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 16,
        ends: Ends | Literal["auto"] = "auto",
        symmetric: bool | Literal["auto"] = "auto",
        reach: int = 2,
        answer_reach: int = 1,
        activation: str = "tanh",
        answers_gate: bool | Literal["auto"] = "auto",
        least_gain: float = 0.005,
        held_out: float = 0.1,
        key: int = 0,
        progress: Progress = ignore_progress,
    ) -> None:
        self.width = width
        self.layers = layers
        self.ends = ends
        self.symmetric = symmetric
        self.reach = reach
        self.answer_reach = answer_reach
        self.activation = activation
        self.answers_gate = answers_gate
        self.least_gain = least_gain
        self.held_out = held_out
        self.key = key
        self.progress = progress

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments (scikit-learn's convention)."""
        return {name: getattr(self, name) for name in (*NAMES, "key", "progress")}

    def set_params(self, **params: Any) -> "LayerwiseOperator":
        """Changes constructor arguments; takes effect at the next `fit`."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ForetrainError(f"expected one of {', '.join(self.get_params())}, came {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, train: OperatorDataset, test: OperatorDataset | None = None) -> "LayerwiseOperator":
        """Chooses what is "auto" and fits the layers.

        Arguments:
            test: not used; there for the common signature.

        Raises:
            DataError: fewer than ten functions, or data that is not on one regular grid of one or two axes.
            ForetrainError: settings out of range.
        """
        if not 0 < self.held_out < 1 or not self.least_gain >= 0:
            raise ForetrainError(
                "expected a share held_out between 0 and 1 and a least_gain of at least 0, "
                f"came {self.held_out:g} and {self.least_gain:g}"
            )
        if len(train) < FEWEST_FUNCTIONS:
            raise DataError(f"layers: expected at least {FEWEST_FUNCTIONS} training functions, came {len(train)}")
        started = time.process_time()
        operator = LayeredOperator(
            self.width,
            self.layers,
            reach=self.reach,
            answer_reach=self.answer_reach,
            activation=self.activation,
        )
        order = np.random.default_rng(self.key).permutation(len(train))
        judges = min(max(1, round(self.held_out * len(train))), len(train) - 1)
        learn, check = order[judges:], order[:judges]
        unknowns = operator.knots * operator.width
        enough = max(FEWEST_FUNCTIONS, math.ceil(VALUES_FOR_EACH_UNKNOWN * unknowns / train.outputs.shape[1]))
        ends = _ends(train) if self.ends == "auto" else [self.ends]
        operator = self._best([replace(operator, ends=beyond) for beyond in ends], train, order)
        ways = [True, False] if self.symmetric == "auto" else [self.symmetric]
        operator = self._best([replace(operator, symmetric=way) for way in ways], train, order)
        gates = [False, True] if self.answers_gate == "auto" else [self.answers_gate]
        self.operator_ = self._best(
            [replace(operator, answers_gate=each) for each in gates], train, order, GATE_TRIAL_LAYERS
        )
        drawn = self.operator_.initialise(train, jax.random.key(self.key))
        fitted, self.records_ = fit_layers(
            drawn, _part(train, learn[:enough]), _part(train, check), RIDGES, self.least_gain, self.progress
        )
        # The last layer may have raised the error.
        depth = max(1, int(np.argmin([record.held_out_error for record in self.records_])))
        self.ridges_ = [record.ridge for record in self.records_[1 : depth + 1]]
        if len(learn) < enough:
            fitted, _ = fit_layers(drawn, train, None, self.ridges_, progress=self.progress)
        self.network_ = of_depth(fitted, depth)
        self.operator_ = replace(self.operator_, layers=depth)
        self.trained_numbers_ = math.prod(self.network_.filters.shape)
        self._points = train.query_points
        self.cpu_seconds_ = time.process_time() - started
        return self

    def predict(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The operator's values on its grid, in physical units.

        Raises:
            ForetrainError: before `fit`.
            DataError: inputs of another number of sensors, or points that are not the grid's.
        """
        if not hasattr(self, "network_"):
            raise ForetrainError("expected a fitted operator, came one that is not; call fit(train) first")
        inputs = np.asarray(inputs, np.float64)
        if inputs.ndim != 2 or inputs.shape[1] != len(self._points):
            raise DataError(f"inputs: expected [functions, {len(self._points)} sensors], came shape {inputs.shape}")
        if points is not None and not (points.shape == self._points.shape and np.allclose(points, self._points)):
            raise DataError("points: expected the grid trained on, came other points; leave them out")
        return np.asarray(self.network_(inputs), np.float64)

    def score(self, test: OperatorDataset) -> float:
        """Mean relative L2 error on the test functions (smaller is better, unlike scikit-learn's R^2)."""
        return mean_relative_error(self.predict(test.inputs, test.query_points), test.outputs)

    def _best(
        self,
        operators: list[LayeredOperator],
        train: OperatorDataset,
        order: np.ndarray,
        layers: int = TRIAL_LAYERS,
    ) -> LayeredOperator:
        """The one whose first layers do best on held-out functions."""
        if len(operators) == 1:
            return operators[0]
        few = order[:TRIAL_FUNCTIONS]
        judges = max(1, len(few) // 3)
        check, learn = _part(train, few[:judges]), _part(train, few[judges:])
        errors = []
        for operator in operators:
            drawn = operator.initialise(train, jax.random.key(self.key))
            errors.append(fit_layers(drawn, learn, check, most=layers)[1][-1].held_out_error)
        return operators[int(np.argmin(errors))]


def _ends(train: OperatorDataset) -> list[Ends]:
    """What the functions themselves leave possible; zeros on a boundary go first, as such functions also close up."""
    shape = common_grid_shape(train)
    if shape is None or all(any(vanishing) for vanishing in boundary_nodes(train.outputs.reshape(-1, *shape))):
        return ["zero"]
    return ["zero", "free"] if periodic_grid_shape(train) is None else ["periodic"]


def _part(data: OperatorDataset, rows: np.ndarray) -> OperatorDataset:
    return replace(data, inputs=data.inputs[rows], outputs=data.outputs[rows])
