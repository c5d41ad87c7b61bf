"""Random frequencies of kernels of a distance: what random Fourier features are made of. Knows nothing of samples.

By Bochner's theorem k(x, y) = E cos(ω·(x − y)) for ω from the kernel's spectral distribution (Rahimi and Recht, NIPS
2007, thm 1). Every kernel of a distance here is a mean of Gaussians of different widths (Schoenberg, 1938), so that
ω = s·z/σ with standard normal z and a factor s that has the distribution of 1/width.

Legend: R frequencies, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator

from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.engine.kernels import KERNELS, MIXTURE_MULTIPLES, Kernel
from vfmalign.mmd.engine.rows import FloatArray

DEFAULT_FREQUENCIES = 1024
SMALLEST_FREQUENCIES = 32
LARGEST_FREQUENCIES = 2**20
# Keeps the frequencies apart from the permutations that are drawn from the same seed.
_STREAM = 1


def _ones(generator: Generator, count: int) -> FloatArray:
    return np.ones(count)


def _mixture(generator: Generator, count: int) -> FloatArray:
    """One factor after another instead of a random one: as many frequencies of each width."""
    return np.tile(1.0 / np.array(MIXTURE_MULTIPLES), count // len(MIXTURE_MULTIPLES))


def _cauchy(generator: Generator, count: int) -> FloatArray:
    """exp(−‖δ‖/σ) = E exp(−‖δ‖²/(2σ²w²)), w standard normal: ω is multivariate Cauchy (Rahimi and Recht, fig. 1)."""
    return np.asarray(1.0 / np.abs(generator.standard_normal(count)))


def _gamma(generator: Generator, count: int) -> FloatArray:
    """(1 + ‖δ‖²/(2σ²))⁻¹ = E exp(−g‖δ‖²/(2σ²)), g exponential."""
    return np.asarray(np.sqrt(generator.standard_exponential(count)))


def _chi(generator: Generator, count: int) -> FloatArray:
    """(1 + ‖δ‖²/σ²)^(−½) = E exp(−w²‖δ‖²/(2σ²)), w standard normal."""
    return np.asarray(np.abs(generator.standard_normal(count)))


FACTORS: dict[str, Callable[[Generator, int], FloatArray]] = {
    "gaussian": _ones,
    "gaussian_mixture": _mixture,
    "laplacian": _cauchy,
    "rational_quadratic": _gamma,
    "inverse_multiquadric": _chi,
}
"""Kernel by name: draws s for so many frequencies."""


@dataclass(frozen=True)
class Spectrum:
    """Frequencies of one kernel.

    Attributes:
        kernel: the kernel they stand for; k(x, x) = 1.
        omega_RC: frequencies in 1/units of the features, independent of each other.
    """

    kernel: Kernel
    omega_RC: FloatArray

    @property
    def count(self) -> int:
        """R."""
        return int(self.omega_RC.shape[0])

    @property
    def heavy_tailed(self) -> bool:
        """Whether some frequencies are so high that float32 keeps no digit of their phases."""
        return self.kernel.name == "laplacian"

    def drop(self, difference_C: FloatArray) -> float:
        """1 − k(x, x + difference), without loss of digits where that is small for a Gaussian."""
        squared = float(difference_C @ difference_C)
        if self.kernel.gaussian_sigmas:
            return float(np.mean([-np.expm1(-0.5 * squared / scale**2) for scale in self.kernel.gaussian_sigmas]))
        argument = torch.full((1, 1), squared, dtype=torch.float64)
        return 1.0 - float(self.kernel.evaluate(argument, torch.empty_like(argument)))


def draw_spectrum(kernel: str, sigma: float, channels: int, count: int, seed: int) -> Spectrum:
    """Draws frequencies; they depend on the arguments alone, never on device or data.

    Args:
        kernel: a name in `KERNELS`.
        sigma: bandwidth in feature units.
        channels: C.
        count: R; 0 for the default, rounded up to a whole number per width for a mixture.
        seed: from 0 to 2⁶⁴ − 1.

    Raises:
        BadOption: a kernel without a spectrum, or a number, seed or bandwidth out of range.
    """
    if kernel not in FACTORS:
        raise BadOption(
            f"`{kernel}` is no kernel of a distance and has no Fourier features",
            field="kernel",
            remedy=f"use {', '.join(FACTORS)}, or another estimator",
        )
    count = count or DEFAULT_FREQUENCIES
    if not SMALLEST_FREQUENCIES <= count <= LARGEST_FREQUENCIES:
        raise BadOption(
            f"expected {SMALLEST_FREQUENCIES} to {LARGEST_FREQUENCIES} frequencies, got {count}",
            field="frequencies",
            remedy=f"{DEFAULT_FREQUENCIES} is a good start; the error falls with their square root",
        )
    if not 0 <= seed < 2**64:
        raise BadOption(f"expected a seed from 0 to 2⁶⁴ − 1, got {seed}", field="seed")
    if not 1e-100 < sigma < 1e100:
        raise BadOption(f"expected a finite σ above 0, got {sigma}", field="kernel.fixed_sigma")
    if kernel == "gaussian_mixture":
        count = -(-count // len(MIXTURE_MULTIPLES)) * len(MIXTURE_MULTIPLES)
    generator = Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    factors_R = FACTORS[kernel](generator, count)
    omega_RC = generator.standard_normal((count, channels)) * (factors_R[:, None] / sigma)
    return Spectrum(KERNELS[kernel](sigma, channels), omega_RC)
