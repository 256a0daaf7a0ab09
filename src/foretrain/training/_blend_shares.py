"""Shares of a blend: those that make the error on held-out functions least."""

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from jaxtyping import Float

from foretrain._foundation import DataError
from foretrain.data import relative_errors

Array = np.ndarray
FOLDS = 10
STIFFNESS = 1e4
SETTLED = 1e-10
MOST_ROUNDS = 300
NEAR_AND_FAR = (0.1, 0.9)
FEWEST_TO_LEAD = 20
"""Functions from which on shares are led: twice as many numbers are chosen."""


@dataclass(frozen=True)
class Shares:
    """Shares that depend on how far the members disagree about a function.

        w(u) = (1 - t) agreed + t disagreed,   t = log(d / near) / log(far / near) kept between 0 and 1,
        d(u) = ( mean_k |G_k(u) - M(u)|^2 )^(1/2) / |M(u)|,   M = mean_k G_k

    Attributes:
        agreed, disagreed: w where the members differ by less than `near` and by more than `far`.
        near, far: values of d.
    """

    agreed: Float[Array, " members"]
    disagreed: Float[Array, " members"]
    near: float = 1.0
    far: float = 1.0

    @property
    def fixed(self) -> bool:
        """Whether all functions have the same shares."""
        return bool(np.array_equal(self.agreed, self.disagreed))

    def of(self, predictions: Float[Array, "members functions points"]) -> Float[Array, "members functions"]:
        """w for each function."""
        place = _place(disagreement(predictions), self.near, self.far)
        return self.agreed[:, None] * (1 - place) + self.disagreed[:, None] * place

    def blend(self, predictions: Float[Array, "members functions points"]) -> Float[Array, "functions points"]:
        """The members' predictions, added with their shares."""
        return np.einsum("kf,kfp->fp", self.of(predictions), predictions)


def disagreement(predictions: Float[Array, "members functions points"]) -> Float[Array, " functions"]:
    """How far the members' answers lie from their mean, relative to it: d of `Shares`."""
    mean = np.mean(predictions, axis=0)
    size = np.linalg.norm(mean, axis=1)
    apart = np.sqrt(np.mean(np.sum((predictions - mean) ** 2, axis=2), axis=0))
    return apart / np.maximum(size, np.finfo(float).tiny)


def blend_shares(
    predictions: Float[Array, "members functions points"], outputs: Float[Array, "functions points"]
) -> Float[Array, " members"]:
    """The shares that minimise the mean relative error.

        w = argmin_{w >= 0, sum w = 1}  sum_i |sum_k w_k p_ki - z_i| / |z_i|

    Convex, solved by quadratic programmes, each with the errors squared and divided by what they were before. Errors
    that are squared only, as is more usual, would let the few hardest functions decide.

    Functions that vanish identically are measured against the root mean square of all of them.

    Raises:
        DataError: predictions that are not of the outputs' shape, one for each member.

    Source: Weiszfeld (1937) for the iteration; each step lowers the sum.
    """
    return _least(_products(predictions, outputs), 1)[0]


def led_shares(
    predictions: Float[Array, "members functions points"], outputs: Float[Array, "functions points"]
) -> Shares:
    """Shares led by the members' disagreement, for the least mean relative error; `near` and `far` leave a tenth of the
    functions on either side. Raises as `blend_shares` does."""
    products = _products(predictions, outputs)
    apart = disagreement(np.asarray(predictions))
    near, far = (float(bound) for bound in np.quantile(apart, NEAR_AND_FAR))
    place = _place(apart, near, far)
    # Shares in t: the first half of the unknowns acts with 1 - t, the second with t.
    parts = np.stack([1 - place, place], axis=1)
    count = products.shape[1]
    wide = np.einsum("ia,ikl,ib->iakbl", parts, products, parts).reshape(len(products), 2 * count, 2 * count)
    agreed, disagreed = _least(wide, 2)
    return Shares(agreed, disagreed, near, far)


def choose_shares(
    predictions: Float[Array, "members functions points"], outputs: Float[Array, "functions points"]
) -> tuple[Shares, dict[str, float]]:
    """The best member alone, fixed shares, or led ones: what has the least error on functions that did not choose.

    Returns the shares, fitted to all functions, and the mean relative L2 error of "alone", "fixed" and "led"; the last
    two with each function's shares chosen by the other nine tenths. Fewer than twenty functions are too few for "led",
    which is infinite then.
    """
    alone = [float(np.mean(relative_errors(each, outputs))) for each in predictions]
    best = np.eye(len(predictions))[int(np.argmin(alone))]
    errors = np.empty((2, len(outputs)))
    fold = np.arange(len(outputs)) % min(FOLDS, len(outputs))
    for number in range(fold.max() + 1):
        judged = fold == number
        learn = predictions[:, ~judged], outputs[~judged]
        fixed = blend_shares(*learn)
        for row, rival in enumerate((Shares(fixed, fixed), led_shares(*learn))):
            errors[row, judged] = relative_errors(rival.blend(predictions[:, judged]), outputs[judged])
    found = {"alone": min(alone), "fixed": float(np.mean(errors[0])), "led": float(np.mean(errors[1]))}
    if len(outputs) < FEWEST_TO_LEAD:
        found["led"] = float("inf")
    # On a tie the first and simplest is taken.
    name = min(found, key=lambda each: found[each])
    if name == "led":
        return led_shares(predictions, outputs), found
    shares = best if name == "alone" else blend_shares(predictions, outputs)
    return Shares(shares, shares), found


def _products(predictions: Array, outputs: Array) -> Float[Array, "functions members members"]:
    """Inner products of the members' relative errors, function by function."""
    predictions, outputs = np.asarray(predictions, np.float64), np.asarray(outputs, np.float64)
    if predictions.ndim != 3 or predictions.shape[1:] != outputs.shape or not predictions.size:
        raise DataError(
            f"blend_shares: expected predictions [members, {', '.join(map(str, outputs.shape))}], "
            f"came shape {predictions.shape}"
        )
    size = np.linalg.norm(outputs, axis=1)
    size = np.where(size > 0, size, np.sqrt(np.mean(size**2)) or 1.0)
    errors = (predictions - outputs) / size[:, None]
    return np.einsum("kip,lip->ikl", errors, errors)


def _least(products: Float[Array, "functions unknowns unknowns"], groups: int) -> Float[Array, "groups members"]:
    """argmin of sum_i (w' A_i w)^(1/2) over w >= 0 whose groups sum to one each."""
    unknowns = products.shape[1]
    weights = np.ones(len(products))
    shares = np.full(unknowns, np.nan)
    for _ in range(MOST_ROUNDS):
        before, shares = shares, _quadratic_programme(np.tensordot(weights, products, 1), groups)
        if np.max(np.abs(shares - before)) < SETTLED:
            break
        errors = np.sqrt(np.maximum(np.einsum("k,ikl,l->i", shares, products, shares), 0))
        # A function met exactly would get an infinite weight.
        weights = 1 / np.maximum(errors, max(1e-9 * float(np.max(errors)), 1e-150))
        weights /= np.max(weights)
    return shares.reshape(groups, -1)


def _quadratic_programme(matrix: Float[Array, "unknowns unknowns"], groups: int) -> Float[Array, " unknowns"]:
    """argmin w' A w over w >= 0 whose groups sum to one each: non-negative least squares, the sums as stiff rows."""
    values, vectors = np.linalg.eigh(matrix)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    # The stiff rows are stiff against the errors, whatever their unit.
    size = np.sqrt(max(float(np.min(np.diag(matrix))), 1e-14 * float(np.max(np.diag(matrix))))) or 1.0
    sums = STIFFNESS * np.kron(np.eye(groups), np.ones(len(matrix) // groups))
    system = np.vstack([root / size, sums])
    shares, _ = scipy.optimize.nnls(system, np.append(np.zeros(len(root)), np.full(groups, STIFFNESS)))
    parts = shares.reshape(groups, -1)
    return (parts / parts.sum(axis=1, keepdims=True)).ravel()


def _place(apart: Array, near: float, far: float) -> Float[Array, " functions"]:
    if not 0 < near < far:
        return np.zeros(len(apart))
    least = np.finfo(float).tiny
    return np.clip(np.log(np.maximum(apart, least) / near) / np.log(far / near), 0, 1)
