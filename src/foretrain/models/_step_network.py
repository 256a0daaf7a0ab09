"""The univariate network of smooth steps, whose two-timescale limit is fully understood."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def smooth_step(s: Float[Array, "..."]) -> Float[Array, "..."]:
    """The cubic step from 0 to 1 on [-1/2, 1/2].

    sigma(s) = clip(4 (s + 1/2)^3, 0, 1/2) + clip(1/2 - 4 (1/2 - s)^3, 0, 1/2)
    """
    return jnp.clip(4 * (s + 0.5) ** 3, 0, 0.5) + jnp.clip(0.5 - 4 * (0.5 - s) ** 3, 0, 0.5)


class StepNetwork(eqx.Module):
    """f(x) = bias + sum_j heights_j sigma((x - positions_j) / step_width), x in [0, 1].

    Heights and bias are the outer (fast) layer, positions the inner (slow) one.

    Source: Marion, Berthier, NeurIPS 2023.
    """

    bias: Float[Array, ""]
    heights: Float[Array, " neurons"]
    positions: Float[Array, " neurons"]
    step_width: float = eqx.field(static=True, default=4e-3)

    @classmethod
    def draw(cls, neurons: int, key: PRNGKeyArray, step_width: float = 4e-3) -> "StepNetwork":
        """Positions uniform on [0, 1], all outer weights zero."""
        zeros = jnp.zeros(neurons)
        return cls(jnp.zeros(()), zeros, jax.random.uniform(key, (neurons,)), step_width)

    def __call__(self, x: Float[Array, " points"]) -> Float[Array, " points"]:
        """The values at the points x."""
        return self.bias + self.features(x) @ self.heights

    def features(self, x: Float[Array, " points"]) -> Float[Array, "points neurons"]:
        """The inner layer's values at the points x."""
        return smooth_step((x[:, None] - self.positions) / self.step_width)
