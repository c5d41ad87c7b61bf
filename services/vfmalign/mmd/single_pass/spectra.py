"""Random frequencies for the random Fourier features of kernels of distances.

By Bochner's theorem, k(x, y) = E cos(ω·(x − y)) if ω has the kernel's spectral distribution (Rahimi and Recht, NIPS
2007, thm 1). Each of the kernels in this module is a mean of Gaussians of different widths (Schoenberg, 1938).
Therefore ω = s·z/σ, where z is standard normal and the factor s is distributed as 1/width.

The direction of ω is uniform and independent of its length. The lengths are stratified: many candidates are drawn and
sorted, and one candidate is chosen at random from each run of neighbours. Each ω still has the spectral distribution.
High frequencies are rare. They matter most if samples differ little. Through stratification, every set contains a
proportional number of high frequencies. A set of independent draws may lack high frequencies and would then
underestimate its own error.

Legend: R frequencies, C channels, K candidates for one length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator

from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.engine.kernels import KERNELS, MIXTURE_MULTIPLES, BoundKernel
from vfmalign.mmd.engine.rows import FloatArray

DEFAULT_FREQUENCIES = 1024
# Second key of the generator: the permutations, drawn from the same seed, use 0 and are therefore independent.
_STREAM = 1
_CANDIDATES = 32


def _ones(generator: Generator, count: int) -> FloatArray:
    return np.ones(count)


def _mixture(generator: Generator, count: int) -> FloatArray:
    """Assigns the widths in turn instead of at random, so that each width has the same number of frequencies."""
    return np.tile(1.0 / np.array(MIXTURE_MULTIPLES), count // len(MIXTURE_MULTIPLES))


def _cauchy(generator: Generator, count: int) -> FloatArray:
    """exp(−‖δ‖/σ) = E exp(−‖δ‖²/(2σ²w²)) with normal w. ω is multivariate Cauchy (Rahimi and Recht, fig. 1)."""
    return np.asarray(1.0 / np.abs(generator.standard_normal(count)))


def _gamma(generator: Generator, count: int) -> FloatArray:
    """(1 + ‖δ‖²/(2σ²))⁻¹ = E exp(−g‖δ‖²/(2σ²)) with exponentially distributed g."""
    return np.asarray(np.sqrt(generator.standard_exponential(count)))


def _chi(generator: Generator, count: int) -> FloatArray:
    """(1 + ‖δ‖²/σ²)^(−½) = E exp(−w²‖δ‖²/(2σ²)) with standard normal w."""
    return np.asarray(np.abs(generator.standard_normal(count)))


INVERSE_WIDTHS: dict[str, Callable[[Generator, int], FloatArray]] = {
    "gaussian": _ones,
    "gaussian_mixture": _mixture,
    "laplacian": _cauchy,
    "rational_quadratic": _gamma,
    "inverse_multiquadric": _chi,
}
"""Maps each kernel name to a function that draws s for a number of frequencies."""


@dataclass(frozen=True)
class Spectrum:
    """Frequencies of one kernel.

    Attributes:
        kernel: kernel with the spectral distribution of the frequencies; k(x, x) = 1.
        omega_RC: frequency vectors in inverse units of the features.
    """

    kernel: BoundKernel
    omega_RC: FloatArray

    @property
    def count(self) -> int:
        """Number R of frequencies."""
        return int(self.omega_RC.shape[0])

    @property
    def heavy_tailed(self) -> bool:
        """Whether some frequencies are so high that their phases in float32 have no correct digit."""
        return self.kernel.name == "laplacian"

    def one_minus_kernel(self, difference_C: FloatArray) -> float:
        """Returns 1 − k(x, x + difference). For Gaussians, small values do not lose digits to cancellation."""
        squared = float(difference_C @ difference_C)
        if self.kernel.gaussian_sigmas:
            return float(np.mean([-np.expm1(-0.5 * squared / scale**2) for scale in self.kernel.gaussian_sigmas]))
        argument = torch.full((1, 1), squared, dtype=torch.float64)
        return 1.0 - float(self.kernel.evaluate(argument, torch.empty_like(argument)))


def draw_spectrum(kernel: str, sigma: float, channels: int, count: int, seed: int) -> Spectrum:
    """Draws frequency vectors. The vectors depend only on the arguments, not on the device or the data.

    Args:
        kernel: a name in `KERNELS`.
        sigma: bandwidth in feature units.
        channels: number C of channels.
        count: number R of frequencies; 0 for the default. For a mixture of Gaussians, R is rounded up to a multiple of
            the number of widths.
        seed: seed of the random numbers, from 0 to 2⁶⁴ − 1.

    Raises:
        BadOption: random Fourier features do not exist for this kernel.
    """
    if kernel not in INVERSE_WIDTHS:
        raise BadOption(
            f"`{kernel}` is not a kernel of a distance and has no random Fourier features",
            field="kernel",
            remedy=f"use {', '.join(INVERSE_WIDTHS)}, or another estimator",
        )
    count = count or DEFAULT_FREQUENCIES
    if kernel == "gaussian_mixture":
        count = -(-count // len(MIXTURE_MULTIPLES)) * len(MIXTURE_MULTIPLES)
    generator = Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    omega_RC = generator.standard_normal((count, channels))
    omega_RC *= (_draw_lengths(generator, kernel, count, channels) / np.linalg.norm(omega_RC, axis=1) / sigma)[:, None]
    return Spectrum(KERNELS[kernel](sigma, channels), omega_RC)


def _draw_lengths(generator: Generator, kernel: str, count: int, channels: int) -> FloatArray:
    """Draws stratified values of σ‖ω‖ in ascending order, [R]."""
    factors = INVERSE_WIDTHS[kernel](generator, _CANDIDATES * count)
    candidates = np.sqrt(generator.chisquare(channels, factors.size)) * factors
    candidates.sort()
    candidates_RK = candidates.reshape(count, _CANDIDATES)
    return np.asarray(candidates_RK[np.arange(count), generator.integers(_CANDIDATES, size=count)])
