"""How the ranking of the models by shift depends on the choice of layer, bandwidth and scaling.

Legend: the axis of arrays is N models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from vfmalign.analysis.experiments.cells import Cell
from vfmalign.analysis.experiments.points import SHIFT, GetNumber, Point, get_gain
from vfmalign.analysis.experiments.rank_correlation import mean_correlation
from vfmalign.analysis.experiments.strata import make_strata, select_common_units
from vfmalign.client.formatting import format_correlation
from vfmalign.core.domain.record import Record

VARIANT_LABELS: Mapping[str, str] = {
    "first_layer": "first layer of each model",
    "middle_layer": "middle layer of each model",
    "last_layer": "last layer of each model",
    "half_bandwidth": "bandwidth ½ σ",
    "double_bandwidth": "bandwidth 2 σ",
    "raw": "raw features",
    "without_top_channels": "features without the top 1 % of channels",
}
"""Labels of the variants: change from the main analysis (primary layer, bandwidth σ, standardised, all channels)."""

Array = npt.NDArray[np.float64]


class TaskAgreement(Record):
    """Agreement between two rankings of one task's models.

    Attributes:
        models: number of models that both rankings contain.
        tau: Kendall's τ-b; None for fewer than two models, or if all values of one ranking are tied.
    """

    task: str
    models: int
    tau: float | None


class Variant(Record):
    """The ranking of the models by shift after one choice of the measurement was changed.

    Attributes:
        tau: mean over tasks of Kendall's τ between this ranking and the main ranking; None if no task has a τ.
        rho: mean rank correlation of this shift with the gain within tasks; None if it is not defined.
    """

    name: str
    label: str
    tau: float | None
    rho: float | None
    tasks: tuple[TaskAgreement, ...]


class Sensitivity(Record):
    """Rankings of the models under all variants of the shift, and the conclusion.

    Attributes:
        rho: mean rank correlation of the main shift with the gain within tasks.
    """

    rho: float | None
    variants: tuple[Variant, ...]
    sentence: str


def compare_variants(points: Sequence[Point]) -> Sensitivity:
    """Compares the ranking of the models under every variant with the main ranking."""
    variants = tuple(_compare(points, name, label) for name, label in VARIANT_LABELS.items())
    rho = _correlate(points, SHIFT.get)
    return Sensitivity(rho=rho, variants=variants, sentence=_describe(variants, rho))


def get_kendall_tau(x_N: Array, y_N: Array) -> float | None:
    """Returns Kendall's τ-b of two rankings.

    Returns None for fewer than two models, or if one ranking is tied throughout.
    """
    x_NN, y_NN = (np.sign(value_N[:, np.newaxis] - value_N) for value_N in (x_N, y_N))
    pairs = float(np.sqrt((x_NN * x_NN).sum() * (y_NN * y_NN).sum()))
    return float((x_NN * y_NN).sum()) / pairs if pairs else None


def _compare(points: Sequence[Point], name: str, label: str) -> Variant:
    get_variant = _make_getter(name)
    strata = make_strata(points, "within_task", SHIFT.get, get_variant)
    tasks = tuple(
        TaskAgreement(task=stratum.name, models=len(stratum.units), tau=get_kendall_tau(stratum.x_N, stratum.y_N))
        for stratum in strata
    )
    taus = [task.tau for task in tasks if task.tau is not None]
    return Variant(
        name=name, label=label, tau=fmean(taus) if taus else None, rho=_correlate(points, get_variant), tasks=tasks
    )


def _make_getter(name: str) -> GetNumber:
    def get_variant(cell: Cell) -> float | None:
        shift = cell.shift_variants.get(name)
        return None if shift is None else shift.value

    return get_variant


def _correlate(points: Sequence[Point], get_shift: GetNumber) -> float | None:
    return mean_correlation(select_common_units(make_strata(points, "within_task", get_shift, get_gain)))


def _describe(variants: Sequence[Variant], rho: float | None) -> str:
    known = [(variant.tau, variant) for variant in variants if variant.tau is not None]
    if not known:
        return "the checks hold no shift with another layer, bandwidth or scaling"
    lowest, variant = min(known, key=lambda pair: pair[0])
    agreement = (
        f"the ranking of the models differs most from the main ranking for the choice “{variant.label}”: "
        f"mean τ {format_correlation(lowest)}"
    )
    opposite = [one.label for one in variants if rho and one.rho and rho * one.rho < 0]
    if rho is None:
        return agreement
    if opposite:
        return f"{agreement}. The correlation with the gain changes its sign for {', '.join(opposite)}"
    return f"{agreement}. The correlation with the gain has the same sign in all rows of this table"
