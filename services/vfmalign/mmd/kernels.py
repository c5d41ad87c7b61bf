"""Kernels as functions of the squared distance. Knows nothing of tiles, samples or estimators.

Legend: I, J rows of one tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Kernel:
    """One kernel family k(x, y) = f(‖x − y‖²; σ).

    Attributes:
        name: key in `KERNELS`.
        evaluate_: overwrites squared distances by kernel values; σ in units of the features.
        largest_slope: max |∂k/∂‖x − y‖²| for a σ; turns an error of the squared distance into one of the kernel.
    """

    name: str
    evaluate_: Callable[[Tensor, float], Tensor]
    largest_slope: Callable[[float], float]


def gaussian_(squared_distance_IJ: Tensor, sigma: float) -> Tensor:
    """k(x, y) = exp(−‖x − y‖²/(2σ²)), in place (Gretton et al., JMLR 2012, sec. 2; σ in feature units)."""
    return squared_distance_IJ.mul_(-0.5 / sigma**2).exp_()


KERNELS: dict[str, Kernel] = {
    "gaussian": Kernel("gaussian", gaussian_, lambda sigma: 0.5 / sigma**2),
}
