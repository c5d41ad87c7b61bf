"""Kernels as functions of a squared distance or of a product. Knows nothing of tiles, samples or estimators.

A kernel is bound to its bandwidth once and then evaluated tile by tile, into memory that the caller owns.

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

Evaluate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kernel:
    """One kernel at one bandwidth.

    Attributes:
        name: key in `KERNELS`.
        argument: `distance` for k(x, y) = f(‖x − y‖²), on centred features; `product` for k(x, y) = f(x·y), on
            features as they are.
        evaluate: writes kernel values of the first tile (squared distances or products) into the second, returns it.
        slope: largest |f′| where kernel values matter; turns an error of the argument into one of the kernel.
        scales: σ of the Gaussians it is the mean of; empty for other families.
        root: c where |f(u + ε) − f(u)| reaches c·√ε near u = 0, as no slope bounds; 0 for smooth families.
        sigma: what it was bound to, for engines that evaluate it themselves; 0 where it has no bandwidth.
    """

    name: str
    argument: Literal["distance", "product"]
    evaluate: Evaluate
    slope: float
    scales: tuple[float, ...] = ()
    sigma: float = 0.0
    root: float = 0.0

    @property
    def in_place(self) -> bool:
        """Whether `evaluate` may write over its argument; a mean of several Gaussians reads it for each of them."""
        return len(self.scales) < 2


def gaussian(sigma: float, channels: int) -> Kernel:
    """k(x, y) = exp(−‖x − y‖²/(2σ²)) (Gretton et al., JMLR 2012, sec. 2; σ in feature units)."""
    return _gaussians("gaussian", sigma, (sigma,))


def gaussian_mixture(sigma: float, channels: int) -> Kernel:
    """Mean of Gaussians at σ·{¼, ½, 1, 2, 4} (Li, Swersky, Zemel, ICML 2015: sums of kernels at several scales)."""
    return _gaussians("gaussian_mixture", sigma, tuple(sigma * multiple for multiple in MIXTURE_MULTIPLES))


def laplacian(sigma: float, channels: int) -> Kernel:
    """k(x, y) = exp(−‖x − y‖₂/σ) (Sriperumbudur et al., JMLR 2010, sec. 3, with the Euclidean norm).

    Its slope in ‖x − y‖² is without bound at 0; the one given is that of distances down to σ/8.
    """

    def evaluate(distance2_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        return torch.clamp(distance2_IJ, min=0.0, out=out_IJ).sqrt_().mul_(-_LOG2_E / sigma).exp2_()

    return Kernel("laplacian", "distance", evaluate, 4.0 / sigma**2, sigma=sigma, root=1.0 / sigma)


def rational_quadratic(sigma: float, channels: int) -> Kernel:
    """k(x, y) = (1 + ‖x − y‖²/(2σ²))⁻¹ (Rasmussen and Williams, 2006, eq. 4.19, α = 1)."""

    def evaluate(distance2_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        return torch.mul(distance2_IJ, 0.5 / sigma**2, out=out_IJ).add_(1.0).reciprocal_()

    return Kernel("rational_quadratic", "distance", evaluate, 0.5 / sigma**2, sigma=sigma)


def inverse_multiquadric(sigma: float, channels: int) -> Kernel:
    """k(x, y) = (1 + ‖x − y‖²/σ²)^(−½) (Gorham and Mackey, ICML 2017, with c = σ, scaled to k(x, x) = 1)."""

    def evaluate(distance2_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        return torch.mul(distance2_IJ, 1.0 / sigma**2, out=out_IJ).add_(1.0).rsqrt_()

    return Kernel("inverse_multiquadric", "distance", evaluate, 0.5 / sigma**2, sigma=sigma)


def polynomial(sigma: float, channels: int) -> Kernel:
    """k(x, y) = (x·y/d + 1)³ (KID; Bińkowski et al., ICLR 2018, sec. 4); it has no bandwidth."""

    def evaluate(product_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        base_IJ = product_IJ / channels + 1.0
        return torch.mul(base_IJ, base_IJ, out=out_IJ).mul_(base_IJ)

    return Kernel("polynomial", "product", evaluate, 3.0 / channels)


def linear(sigma: float, channels: int) -> Kernel:
    """k(x, y) = x·y: MMD² is the squared distance of the means (JMLR 2012, sec. 2); it has no bandwidth."""
    return Kernel("linear", "product", lambda product_IJ, out_IJ: out_IJ.copy_(product_IJ), 1.0)


KERNELS: dict[str, Callable[[float, int], Kernel]] = {
    "gaussian": gaussian,
    "gaussian_mixture": gaussian_mixture,
    "laplacian": laplacian,
    "rational_quadratic": rational_quadratic,
    "inverse_multiquadric": inverse_multiquadric,
    "polynomial": polynomial,
    "linear": linear,
}
"""Family by name: takes σ in feature units and the number of channels d, gives the kernel."""

WITHOUT_BANDWIDTH = frozenset({"polynomial", "linear"})


def _gaussians(name: str, sigma: float, sigmas: Sequence[float]) -> Kernel:
    """Mean of Gaussians."""
    coefficients = [-0.5 * _LOG2_E / sigma**2 for sigma in sigmas]

    def evaluate(distance2_IJ: Tensor, out_IJ: Tensor) -> Tensor:
        torch.mul(distance2_IJ, coefficients[0], out=out_IJ).exp2_()
        if len(coefficients) > 1:
            part_IJ = torch.empty_like(out_IJ)
            for coefficient in coefficients[1:]:
                out_IJ += torch.mul(distance2_IJ, coefficient, out=part_IJ).exp2_()
            out_IJ /= len(coefficients)
        return out_IJ

    slope = sum(0.5 / sigma**2 for sigma in sigmas) / len(sigmas)
    return Kernel(name, "distance", evaluate, slope, tuple(sigmas), sigma)
