"""The tangent kernel of a model at infinite width, from the data alone."""

from collections.abc import Mapping

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import ShallowOperator
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel
from foretrain.tangent._grid import GridKernel

GROUPS = ("trunk", "branch", "outer")


def limit_kernel(
    model: ShallowOperator, data: OperatorDataset, rates: Mapping[str, float] | None = None
) -> BranchTrunkKernel:
    """The kernel function of the model's infinite-width limit, at the model's own embedding of the data.

    Both forms, block and shared, have this limit; at any width it is the mean of the finite kernel over the draw.

    Arguments:
        rates: relative step sizes of the weight groups "trunk", "branch" and (if trained) "outer"; 1 where not given.
    """
    if not isinstance(model, ShallowOperator):
        raise ForetrainError(
            f"the infinite-width kernel: expected a ShallowOperator, came {type(model).__name__}; "
            "use empirical_kernel for a network with drawn weights"
        )
    rates = dict(rates or {})
    trained = GROUPS if model.train_outer else GROUPS[:2]
    if unknown := [name for name in rates if name not in trained]:
        raise ForetrainError(
            f"step sizes by group: expected some of {', '.join(trained)}, which this network trains, came "
            f"{', '.join(unknown)}"
        )
    return BranchTrunkKernel(
        model.embedding_for(data),
        model.activation,
        model.activation,
        trunk_rate=rates.get("trunk", 1.0),
        branch_rate=rates.get("branch", 1.0),
        outer_rate=rates.get("outer", 1.0) if model.train_outer else 0.0,
    )


def tangent_kernel(model: ShallowOperator, data: OperatorDataset) -> GridKernel:
    """The infinite-width tangent kernel of the model on the training data, as a two-term grid kernel.

        Theta = K(U) (x) [D(Y) + K(Y) if the outer weights are trained] + D(U) (x) K(Y)

    Raises:
        ForetrainError: for models without a closed-form limit.

    Source: Xu, Li, Huang, arXiv 2412.05545.
    """
    return limit_kernel(model, data).gram(data.inputs, data.query_points)
