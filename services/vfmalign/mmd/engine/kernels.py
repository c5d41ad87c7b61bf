"""Kernels as functions of a squared distance or of a product of rows.

A kernel is bound to its bandwidth once and then evaluated tile by tile, in memory that the caller owns. A kernel first
multiplies its argument by a scale. Code that computes the argument can include this scale at no cost.

Legend: I, J rows of one tile.
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
        argument: `distance` for k(x, y) = f(s·‖x − y‖²), on centred features; `product` for k(x, y) = f(s·x·y), on
            features that are not centred.
        scale: s.
        profile: f; overwrites a tile of scaled arguments with kernel values and returns it.
        slope: |∂k/∂u|, where u is the argument without the scale. It bounds the error of a kernel value, given the
            error of u. For distances, it is the largest slope in the range where kernel values matter; for products, it
            is the slope at |k| = 1.
        gaussian_sigmas: σ of each Gaussian if the kernel is a mean of Gaussians; empty for other families.
        sigma: bandwidth, for backends that evaluate the kernel themselves; 0 if the kernel has none.
        sqrt_slope: c if |k(u + ε) − k(u)| grows as c·√ε near u = 0, which no slope bounds; 0 for smooth kernels.
        degree: p of a kernel of products that is a p-th power; its slope is `slope`·|k|^(1 − 1/p).
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
        """Writes kernel values of a tile of squared distances or products into `out_IJ`, which may be that tile."""
        return self.profile(torch.mul(argument_IJ, self.scale, out=out_IJ))


def gaussian(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = exp(−‖x − y‖²/(2σ²)) (Gretton et al., JMLR 2012, sec. 2; σ in feature units)."""
    return _gaussians("gaussian", sigma, (sigma,))


def gaussian_mixture(sigma: float, channels: int) -> BoundKernel:
    """Mean of Gaussians at σ·{¼, ½, 1, 2, 4} (Li, Swersky, Zemel, ICML 2015: sums of kernels at several scales)."""
    return _gaussians("gaussian_mixture", sigma, tuple(sigma * multiple for multiple in MIXTURE_MULTIPLES))


def laplacian(sigma: float, channels: int) -> BoundKernel:
    """k(x, y) = exp(−‖x − y‖₂/σ) (Sriperumbudur et al., JMLR 2010, sec. 3, with the Euclidean norm).

    Its slope in ‖x − y‖² is unbounded at 0; `slope` is the largest slope at distances of σ/8 or more.
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
"""Kernel families by name: functions of σ, in feature units, and the number of channels d."""

WITHOUT_BANDWIDTH = frozenset({"polynomial", "linear"})


def _gaussians(name: str, sigma: float, sigmas: Sequence[float]) -> BoundKernel:
    """Returns the mean of Gaussians with widths `sigmas`; `sigma` scales the argument."""
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
