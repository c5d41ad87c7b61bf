"""Kernels as functions of the squared distance or of the product of two rows.

A kernel is bound to a bandwidth once and then evaluated tile by tile, in the caller's buffers. Each kernel multiplies
its argument by a scale. The code that computes the argument can apply this scale at no extra cost.

Legend: I rows and J columns of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_LOG2_E = math.log2(math.e)
MIXTURE_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)

Profile = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BoundKernel:
    """One kernel at one bandwidth.

    Attributes:
        name: key in `KERNELS`.
        argument: `distance` for k(x, y) = f(s·‖x − y‖²) of centred features, or `product` for k(x, y) = f(s·x·y) of
            uncentred features.
        scale: the scale s in `argument`.
        profile: the function f. The function overwrites a tile of scaled arguments with kernel values and returns the
            tile.
        slope: |∂k/∂u|, where u is the argument without the scale. The slope converts the error of u to a bound on the
            error of the kernel value. For distances, this is the largest slope where kernel values matter; for
            products, the slope at |k| = 1.
        gaussian_sigmas: bandwidth of each Gaussian if the kernel is a mean of Gaussians; otherwise empty.
        sigma: bandwidth, for backends that do not call `profile`; 0 for kernels without a bandwidth.
        sqrt_slope: factor c if the slope is unbounded near u = 0, where |k(u + ε) − k(u)| grows as c·√ε; 0 for smooth
            kernels.
        degree: exponent p if the kernel is the p-th power of a product. The slope is then `slope`·|k|^(1 − 1/p).
    """

    name: str
    argument: Literal["distance", "product"]
    scale: float
    profile: Profile
    slope: float
    gaussian_sigmas: tuple[float, ...] = ()
    sigma: float = 0.0
    sqrt_slope: float = 0.0
    degree: int = 1

    def evaluate(self, argument_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        """Converts a tile of squared distances or products to kernel values in `out_IJ`, which may be the same tile."""
        return self.profile(torch.mul(argument_IJ, self.scale, out=out_IJ))


def gaussian(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = exp(−‖x − y‖²/(2σ²)) (Gretton et al., JMLR 2012, sec. 2; σ in feature units)."""
    return _gaussians("gaussian", sigma, (sigma,))


def gaussian_mixture(sigma: float, channels: int) -> BoundKernel:
    """Mean of Gaussians at σ·{¼, ½, 1, 2, 4} (Li, Swersky, Zemel, ICML 2015: sums of kernels at several scales)."""
    return _gaussians("gaussian_mixture", sigma, tuple(sigma * multiple for multiple in MIXTURE_MULTIPLES))


def laplacian(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = exp(−‖x − y‖₂/σ) (Sriperumbudur et al., JMLR 2010, sec. 3, with the Euclidean norm).

    The slope in ‖x − y‖² is unbounded at 0. `slope` is the largest slope at distances of at least σ/8.
    """

    def profile(scaled_IJ: Tensor) -> Tensor:
        return scaled_IJ.clamp_(min=0.0).sqrt_().neg_().exp2_()

    return BoundKernel(
        "laplacian", "distance", (_LOG2_E / sigma) ** 2, profile, 4.0 / sigma**2, sigma=sigma, sqrt_slope=1.0 / sigma
    )


def rational_quadratic(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = (1 + ‖x − y‖²/(2σ²))⁻¹ (Rasmussen and Williams, 2006, eq. 4.19, α = 1)."""

    def profile(scaled_IJ: Tensor) -> Tensor:
        return scaled_IJ.add_(1.0).reciprocal_()

    return BoundKernel("rational_quadratic", "distance", 0.5 / sigma**2, profile, 0.5 / sigma**2, sigma=sigma)


def inverse_multiquadric(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = (1 + ‖x − y‖²/σ²)^(−½) (Gorham and Mackey, ICML 2017, with c = σ, scaled to k(x, x) = 1)."""

    def profile(scaled_IJ: Tensor) -> Tensor:
        return scaled_IJ.add_(1.0).rsqrt_()

    return BoundKernel("inverse_multiquadric", "distance", 1.0 / sigma**2, profile, 0.5 / sigma**2, sigma=sigma)


def polynomial(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = (x·y/d + 1)³ (KID; Bińkowski et al., ICLR 2018, sec. 4), without a bandwidth."""

    def profile(scaled_IJ: Tensor) -> Tensor:
        return scaled_IJ.add_(1.0).pow_(3)

    return BoundKernel("polynomial", "product", 1.0 / channels, profile, 3.0 / channels, degree=3)


def linear(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = x·y: MMD² is the squared distance of the means (JMLR 2012, sec. 2), without a bandwidth."""
    return BoundKernel("linear", "product", 1.0, lambda product_IJ: product_IJ, 1.0)


KERNELS: dict[str, Callable[[float, int], BoundKernel]] = {
    "gaussian": gaussian,
    "gaussian_mixture": gaussian_mixture,
    "laplacian": laplacian,
    "rational_quadratic": rational_quadratic,
    "inverse_multiquadric": inverse_multiquadric,
    "polynomial": polynomial,
    "linear": linear,
}
"""Maps the name of each kernel family to a function of σ (in feature units) and the number of channels d."""

WITHOUT_BANDWIDTH = frozenset({"polynomial", "linear"})


def _gaussians(name: str, sigma: float, sigmas: Sequence[float]) -> BoundKernel:
    """Returns the mean of Gaussian kernels with the bandwidths `sigmas`; `sigma` scales the argument."""
    multiples = [(sigma / width) ** 2 for width in sigmas]

    def profile(scaled_IJ: Tensor) -> Tensor:
        if len(multiples) == 1:
            return scaled_IJ.exp2_()
        sum_IJ, value_IJ = (scaled_IJ * multiples[0]).exp2_(), torch.empty_like(scaled_IJ)
        for multiple in multiples[1:]:
            sum_IJ += torch.mul(scaled_IJ, multiple, out=value_IJ).exp2_()
        return torch.div(sum_IJ, len(multiples), out=scaled_IJ)

    slope = sum(0.5 / width**2 for width in sigmas) / len(sigmas)
    return BoundKernel(name, "distance", -0.5 * _LOG2_E / sigma**2, profile, slope, tuple(sigmas), sigma)
