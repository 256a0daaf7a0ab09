"""Periodic Gaussian random fields with a given spectrum."""

import numpy as np
from jaxtyping import Float


def periodic_gaussian_field(
    samples: int,
    resolution: int,
    amplitude: float,
    shift: float,
    power: float,
    rng: np.random.Generator,
    modes: int | None = None,
) -> Float[np.ndarray, "samples resolution"]:
    """Draws of N(0, amplitude^2 (-Laplace + shift)^(-power)) with zero mean on the unit circle.

        u(x) = sum_{k>=1} sqrt(2) s_k (a_k cos 2 pi k x + b_k sin 2 pi k x),
        s_k = amplitude ((2 pi k)^2 + shift)^(-power/2)

    with a_k, b_k independent standard normal. **Modes at and above the Nyquist frequency of the grid are left out,**
    and those above `modes` where it is given: equal generators draw equal functions on two grids only if the number of
    modes is the same.
    """
    wave_numbers = np.arange(1, resolution // 2)[:modes]
    deviation = amplitude * ((2 * np.pi * wave_numbers) ** 2 + shift) ** (-power / 2)
    cosines, sines = rng.standard_normal((2, samples, len(wave_numbers)))
    spectrum = np.zeros((samples, resolution // 2 + 1), dtype=complex)
    # irfft sums c_k e^{ikx} + conj, divided by the resolution: half of each amplitude goes to either side.
    spectrum[:, 1 : len(wave_numbers) + 1] = np.sqrt(2) * deviation * (cosines - 1j * sines) / 2 * resolution
    return np.fft.irfft(spectrum, n=resolution, axis=1)
