"""Piecewise-constant targets on [0, 1], the univariate problem of the two-timescale theory."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError


@dataclass(frozen=True)
class PiecewiseConstant:
    """f(x) = bias + sum_i jump_i 1{x >= location_i} on [0, 1].

    Attributes:
        bias: value left of the first jump.
        locations: where it jumps, increasing, inside (0, 1).
        jumps: by how much, none of them zero.

    Raises:
        ForetrainError: if locations and jumps do not belong together.

    Source: Marion, Berthier, "Leveraging the two-timescale regime" (NeurIPS 2023).
    """

    bias: float
    locations: tuple[float, ...]
    jumps: tuple[float, ...]

    def __post_init__(self) -> None:
        inside = all(0.0 < location < 1.0 for location in self.locations)
        if len(self.locations) != len(self.jumps) or not inside or list(self.locations) != sorted(set(self.locations)):
            raise ForetrainError(
                f"expected as many jumps as increasing locations inside (0, 1), came {self.locations} and {self.jumps}"
            )
        if any(jump == 0 or not math.isfinite(jump) for jump in self.jumps):
            raise ForetrainError(f"expected finite jumps that are not zero, came {self.jumps}; leave those out")

    def __call__(self, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The values at the points x."""
        values = np.concatenate([[self.bias], self.bias + np.cumsum(self.jumps)])
        return values[np.searchsorted(self.locations, x, side="right")]

    @property
    def shortest_piece(self) -> float:
        """Length of the shortest piece between neighbouring jumps and the ends of [0, 1]."""
        return float(np.diff([0.0, *self.locations, 1.0]).min())

    @property
    def smallest_jump(self) -> float:
        """The least of the jumps' sizes; infinite if there are none."""
        return float(np.min(np.abs(self.jumps), initial=np.inf))


PUBLISHED_STEPS = PiecewiseConstant(1.0, (0.2, 0.35, 0.5, 0.65, 0.8), (4.0, -4.0, 2.0, -2.0, 4.0))
"""The target of the published two-timescale experiments (Marion, Berthier 2023)."""


def random_steps(pieces: int, key: int = 0, shortest: float = 0.05) -> PiecewiseConstant:
    """A random target: piece lengths Dirichlet above `shortest`, values standard normal with jumps of at least 0.5.

    Raises:
        ForetrainError: if that many pieces of at least that length do not fit into [0, 1].
    """
    if pieces < 1 or pieces * shortest >= 1:
        raise ForetrainError(f"expected pieces x shortest < 1, came {pieces} x {shortest:g}; ask for fewer or shorter")
    rng = np.random.default_rng(key)
    lengths = shortest + (1 - pieces * shortest) * rng.dirichlet(np.ones(pieces))
    jumps = rng.choice([-1.0, 1.0], pieces - 1) * (0.5 + np.abs(rng.standard_normal(pieces - 1)))
    return PiecewiseConstant(
        float(rng.standard_normal()), tuple(map(float, np.cumsum(lengths)[:-1])), tuple(map(float, jumps))
    )
