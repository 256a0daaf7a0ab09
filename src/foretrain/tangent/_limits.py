"""The tangent kernel of a model at infinite width, from the data alone."""

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset
from foretrain.models import ShallowOperator
from foretrain.tangent._branch_trunk_kernel import BranchTrunkKernel
from foretrain.tangent._grid import GridKernel


def limit_kernel(model: ShallowOperator, data: OperatorDataset) -> BranchTrunkKernel:
    """The kernel function of the model's infinite-width limit, at the model's own embedding of the data.

    Both forms, block and shared, have this limit; at any width it is the mean of the finite kernel over the draw.
    """
    if not isinstance(model, ShallowOperator):
        raise ForetrainError(
            f"the infinite-width kernel: expected a ShallowOperator, came {type(model).__name__}; "
            "use empirical_kernel for a network with drawn weights"
        )
    return BranchTrunkKernel(
        model.embedding_for(data),
        model.activation,
        model.activation,
        outer_rate=1.0 if model.train_outer else 0.0,
    )


def tangent_kernel(model: ShallowOperator, data: OperatorDataset) -> GridKernel:
    """The infinite-width tangent kernel of the model on the training data, as a two-term grid kernel.

        Theta = K(U) (x) [D(Y) + K(Y) if the outer weights are trained] + D(U) (x) K(Y)

    Raises:
        ForetrainError: for models without a closed-form limit.

    Source: Xu, Li, Huang, arXiv 2412.05545.
    """
    return limit_kernel(model, data).gram(data.inputs, data.query_points)
