"""Spearman's rank correlation within strata, and its mean over strata. Axes: N units of one stratum, P rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Comparable units, each with two numbers. The units are the models of one task, or the tasks of one model."""

    name: str
    units: tuple[str, ...]
    x_N: Array
    y_N: Array

    @property
    def weight(self) -> float:
        """N − 1, the inverse variance of Spearman's ρ under independence."""
        return len(self.x_N) - 1.0

    @property
    def rho(self) -> float | None:
        """Spearman's ρ with mid-ranks. ρ is None for fewer than two units, or if all x or all y are tied."""
        rho = float(rank_correlations(self.x_N, self.y_N)) if len(self.x_N) > 1 else math.nan
        return None if math.isnan(rho) else rho


def rank_correlations(x_PN: Array, y_PN: Array) -> Array:
    """Computes Spearman's ρ along the last axis and broadcasts the other axes.

    Infinite values rank last. ρ is NaN if all values of x or all values of y are tied.
    """
    x_PN, y_PN = get_centred_ranks(x_PN), get_centred_ranks(y_PN)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho_P: Array = (x_PN * y_PN).sum(-1) / np.sqrt((x_PN * x_PN).sum(-1) * (y_PN * y_PN).sum(-1))
    return rho_P


def get_centred_ranks(value_PN: Array) -> Array:
    """Mid-ranks along the last axis minus their mean: (number of smaller values − number of larger values) / 2.

    For the many short rows of a permutation test, this is several times as fast as `scipy.stats.rankdata`.
    """
    rank_PN: Array = np.zeros(value_PN.shape)
    for unit in range(value_PN.shape[-1]):
        rank_PN += value_PN > value_PN[..., unit, np.newaxis]
        rank_PN -= value_PN < value_PN[..., unit, np.newaxis]
    return rank_PN / 2


def with_defined_rho(strata: Sequence[Stratum]) -> list[Stratum]:
    """Selects the strata in which ρ is defined."""
    return [stratum for stratum in strata if stratum.rho is not None]


def mean_correlation(strata: Sequence[Stratum]) -> float | None:
    """Averages ρ over the strata with the weights N − 1. Returns None if ρ is not defined in any stratum."""
    defined = with_defined_rho(strata)
    if not defined:
        return None
    return float(np.average([stratum.rho or 0.0 for stratum in defined], weights=[s.weight for s in defined]))
