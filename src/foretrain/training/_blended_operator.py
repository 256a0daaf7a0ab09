"""Several operators' predictions added, with shares that held-out functions choose."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from foretrain._foundation import DataError, ForetrainError, Progress, ignore_progress
from foretrain.data import OperatorDataset, mean_relative_error, periodic_grid_shape
from foretrain.tangent import InfiniteWidthOperator, fit_leaving_out
from foretrain.training._blend_shares import choose_shares
from foretrain.training._reduced_fourier import FourierCoefficients
from foretrain.training._trained_fourier import TrainedFourierOperator

Array = np.ndarray
NAMES = ("members", "held_out", "refit", "key", "progress")
FEWEST_FUNCTIONS = 20
WIDTH, EVALUATIONS = 128, 121
STAGE = "blending"


class Member(Protocol):
    """What a blend is made of: an estimator of this library, or anything with these four methods."""

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def set_params(self, **params: Any) -> Any: ...

    def fit(self, train: OperatorDataset) -> Any: ...

    def predict(self, inputs: Any, points: Any = None) -> Array: ...


class BlendedOperator:
    """Operators that err differently, added with shares that held-out functions choose.

        G(u) = sum_k w_k(u) G_k(u),   w >= 0, sum_k w_k = 1,   for the least  sum_i |G(u_i) - z_i| / |z_i|

    the sum running over functions that no G_k has learnt from. Shares are the same for all functions, or led by how far
    the members disagree about u (`Shares`), or the best member has a share of one: what does best on held-out functions
    that did not choose, their shares being chosen by the other nine tenths.

    Arguments:
        members: estimators with `fit`, `predict`, `get_params` and `set_params`; copies are fitted, they stay as they
            are. By itself, on a periodic grid: the Fourier form of `InfiniteWidthOperator` and a
            `TrainedFourierOperator` of 128 filters of decay 2, stopped after 121 evaluations.
        held_out: share of the training functions that choose; at least two of twenty.
        refit: how members come to learn from all functions. "auto": a closed form in Fourier form is solved once, on
            all, and says what it would without some (`fit_leaving_out`); other closed forms are solved twice with one
            choice of settings. A `TrainedFourierOperator` of the same `held_out` and `key` trains once, as its own
            held-out functions are the blend's; another one keeps its filters, and its outer ones are fitted again.
            The rest are fitted twice. True: every member is fitted twice, choices included. False: none is fitted
            again, and none learns from all functions.
        key: of the functions held out.
        progress: called after every member; members call their own.

    Attributes after `fit`:
        members_: the fitted members, those with no share too; shares_: w, in their order, on average over held-out
            functions; led_shares_: the same as they depend on the function.
        held_out_error_: mean relative L2 error on held-out functions, each with shares chosen without it.
        member_errors_: the same of each member alone.
        helps_: whether more than one member has a share; verdict_: in words.
        cpu_seconds_: processor seconds of `fit`, compilation included; member_seconds_: of each member.

    **Assumption:** members err alike on held-out functions and on those to come; with "auto" the settings (not the
    weights) of closed forms, and when training stops, have been chosen with the held-out functions in sight.

    Source: Wolpert (1992) and Breiman, Stacked regressions (1996), for shares that are not negative.
    """

    def __init__(
        self,
        members: Sequence[Member] | None = None,
        held_out: float = 0.1,
        refit: bool | Literal["auto"] = "auto",
        key: int = 0,
        progress: Progress = ignore_progress,
    ) -> None:
        self.members = members
        self.held_out = held_out
        self.refit = refit
        self.key = key
        self.progress = progress

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments (scikit-learn's convention)."""
        return {name: getattr(self, name) for name in NAMES}

    def set_params(self, **params: Any) -> "BlendedOperator":
        """Changes constructor arguments; takes effect at the next `fit`."""
        for name, value in params.items():
            if name not in NAMES:
                raise ForetrainError(f"expected one of {', '.join(NAMES)}, came {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, train: OperatorDataset, test: OperatorDataset | None = None) -> "BlendedOperator":
        """Fits the members and chooses their shares.

        Arguments:
            test: not used; there for the common signature.

        Raises:
            DataError: fewer than twenty functions; no members given for data that is not on a periodic grid.
            ForetrainError: no members, settings out of range, or a member without one of the four methods.
        """
        members = self._members(train)
        started = time.process_time()
        rows = _held_out_rows(len(train), self.held_out, self.key)
        self.members_: list[Any] = []
        self.member_seconds_: list[float] = []
        said = []
        for number, member in enumerate(members):
            self.progress(STAGE, number, len(members))
            begun = time.process_time()
            fitted, prediction = self._fitted(member, train, rows)
            if prediction.shape != train.outputs[rows].shape or not np.all(np.isfinite(prediction)):
                raise ForetrainError(
                    f"member {number + 1}, {type(member).__name__}: expected finite predictions of shape "
                    f"{train.outputs[rows].shape}, came shape {prediction.shape}; leave it out"
                )
            self.members_.append(fitted)
            said.append(prediction)
            self.member_seconds_.append(time.process_time() - begun)
        self._choose(np.stack(said), train.outputs[rows])
        self._points = train.query_points
        self.cpu_seconds_ = time.process_time() - started
        self.progress(STAGE, len(members), len(members), {"held-out error": self.held_out_error_})
        return self

    def predict(
        self, inputs: Float[Array, "functions sensors"], points: Float[Array, "points dimension"] | None = None
    ) -> Float[Array, "functions points"]:
        """The blend's values in physical units; of members with fixed shares, those without one are not asked.

        Raises:
            ForetrainError: before `fit`.
            DataError: inputs or points that a member with a share does not take.
        """
        if not hasattr(self, "shares_"):
            raise ForetrainError("expected a fitted operator, came one that is not; call fit(train) first")
        if self.led_shares_.fixed:
            asked = [index for index, share in enumerate(self.shares_) if share > 0]
            return np.tensordot(self.shares_[asked], self._said(inputs, points, asked), 1)
        # How far members disagree takes all of them, at the points where the shares were chosen.
        everyone = range(len(self.members_))
        said = self._said(inputs, points, everyone)
        there = points is None or (points.shape == self._points.shape and np.allclose(points, self._points))
        shares = self.led_shares_.of(said if there else self._said(inputs, None, everyone))
        return np.einsum("kf,kfp->fp", shares, said)

    def score(self, test: OperatorDataset) -> float:
        """Mean relative L2 error on the test functions (smaller is better, unlike scikit-learn's R^2)."""
        return mean_relative_error(self.predict(test.inputs, test.query_points), test.outputs)

    def _said(self, inputs: Any, points: Any, asked: Sequence[int]) -> Float[Array, "members functions points"]:
        return np.stack([np.asarray(self.members_[index].predict(inputs, points), np.float64) for index in asked])

    def _members(self, train: OperatorDataset) -> list[Any]:
        if not 0 < self.held_out < 1:
            raise ForetrainError(f"held_out: expected a share between 0 and 1, came {self.held_out:g}")
        if not (isinstance(self.refit, bool) or self.refit == "auto"):
            raise ForetrainError(f"refit: expected True, False or 'auto', came {self.refit!r}")
        if len(train) < FEWEST_FUNCTIONS:
            raise DataError(f"a blend: expected at least {FEWEST_FUNCTIONS} training functions, came {len(train)}")
        if self.members is None:
            if periodic_grid_shape(train) is None:
                raise DataError("a blend: expected functions on one periodic grid, came others; give members yourself")
            return [
                InfiniteWidthOperator("fourier", key=self.key, progress=self.progress),
                TrainedFourierOperator(
                    WIDTH,
                    # Trials of random filters may prefer 3, from which training gets half as far (docs/decisions/0011).
                    decay=2.0,
                    evaluations=EVALUATIONS,
                    held_out=self.held_out,
                    key=self.key,
                    progress=self.progress,
                ),
            ]
        if not len(self.members):
            raise ForetrainError("members: expected at least one operator, came none")
        for member in self.members:
            missing = [name for name in ("fit", "predict", "get_params", "set_params") if not hasattr(member, name)]
            if missing or isinstance(member, type):
                came = member.__name__ + " itself" if isinstance(member, type) else type(member).__name__
                raise ForetrainError(
                    f"members: expected operators with fit, predict, get_params and set_params, came {came}"
                )
        return list(self.members)

    def _fitted(self, member: Any, train: OperatorDataset, rows: Int[Array, " judges"]) -> tuple[Any, Array]:
        """A fitted copy, and what it says of the held-out functions without having learnt from them."""
        rest = np.setdiff1d(np.arange(len(train)), rows)
        if self.refit == "auto" and isinstance(member, InfiniteWidthOperator):
            return fit_leaving_out(member, train, rows)
        if self.refit == "auto" and isinstance(member, TrainedFourierOperator):
            fourier = _copy(member)
            if member.key == self.key and round(member.held_out * len(train)) == len(rows):
                # The functions it stops by are these very ones.
                fourier.fit(train)
                alone = _with_outer_filters_of(fourier, train.take(rest))
                return fourier, np.asarray(alone.predict(train.inputs[rows]), np.float64)
            alone = fourier.fit(train.take(rest))
            return _with_outer_filters_of(alone, train), alone.predict(train.inputs[rows])
        alone = _copy(member)
        alone.fit(train.take(rest))
        said = np.asarray(alone.predict(train.inputs[rows]), np.float64)
        if self.refit is False:
            return alone, said
        fitted = _copy(member)
        fitted.fit(train)
        return fitted, said

    def _choose(self, said: Float[Array, "members judges points"], outputs: Float[Array, "judges points"]) -> None:
        self.member_errors_ = np.array([mean_relative_error(each, outputs) for each in said])
        self.led_shares_, errors = choose_shares(said, outputs)
        self.shares_ = np.mean(self.led_shares_.of(said), axis=1)
        self.helps_ = bool(np.count_nonzero(self.shares_) > 1)
        blended = min(errors["fixed"], errors["led"])
        self.held_out_error_ = min(blended, errors["alone"])
        best = type(self.members_[int(np.argmin(self.member_errors_))]).__name__
        against = f"{100 * blended:.3g} % on held-out functions, {best} alone {100 * errors['alone']:.3g} %"
        if self.helps_:
            self.verdict_ = f"blending helps: {against}"
        else:
            self.verdict_ = f"blending does not help: {against}, which has the share of one"


def _held_out_rows(functions: int, held_out: float, key: int) -> Int[Array, " judges"]:
    """Those that `OperatorDataset.split` sets apart, at least two."""
    count = min(max(2, round(held_out * functions)), functions - 2)
    return np.sort(np.random.default_rng(key).permutation(functions)[-count:])


def _copy(member: Any) -> Any:
    return type(member)(**member.get_params())


def _with_outer_filters_of(fitted: TrainedFourierOperator, data: OperatorDataset) -> TrainedFourierOperator:
    """The same trained filters, the outer ones fitted to this data with the ridge that training ended with."""
    network = fitted.network_
    equations = FourierCoefficients(network, data).normal_equations(network)
    readout = equations.solution(fitted.training_.ridge * equations.diagonals())
    moved = eqx.tree_at(lambda net: net.readout, network, jnp.asarray(readout, network.readout.dtype))
    copy = _copy(fitted)
    for name, value in vars(fitted).items():
        setattr(copy, name, value)
    copy.network_ = moved
    copy.training_ = replace(fitted.training_, network=moved)
    return copy
