"""Strata of an experiment: the models of one task, or the tasks of one model. Ranks are compared within a stratum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from vfmalign.analysis.experiments.points import GetNumber, Point
from vfmalign.analysis.experiments.rank_correlation import Stratum, with_defined_rho
from vfmalign.core.domain.record import Record

Design = Literal["within_task", "within_model"]

DESIGN_LABELS: Mapping[Design, str] = {
    "within_task": "within a task, across models",
    "within_model": "within a model, across tasks",
}
MIN_UNITS = 5
"""Minimum number of models (or tasks) for a test: no order of four reaches p < 2/24."""
SIGNIFICANCE_LEVEL = 0.05


class HasModelAndTask(Protocol):
    """Interface of objects with numbers of one model and task, such as a point or an average over seeds."""

    @property
    def model_id(self) -> str:
        """Id of the model."""

    @property
    def task(self) -> str:
        """Name of the task."""


class StratumResult(Record):
    """Rank correlation in one stratum.

    Attributes:
        name: the task or the model.
        pairs: number of units with both values.
        rho: ρ of these pairs; None if it is not defined.
        used: whether the mean and the test include the stratum. The mean and the test use only the units that all
            included strata share.
    """

    name: str
    pairs: int
    rho: float | None
    used: bool


def make_strata(points: Sequence[Point], design: Design, get_x: GetNumber, get_y: GetNumber) -> list[Stratum]:
    """Groups the points that have both values by task or by model. Sorts the units of each stratum by name."""
    rows: dict[str, list[tuple[str, float, float]]] = {get_stratum_and_unit(point, design)[0]: [] for point in points}
    for point in points:
        name, unit = get_stratum_and_unit(point, design)
        x, y = point.mean(get_x), point.mean(get_y)
        if x is not None and y is not None:
            rows[name].append((unit, x, y))
    strata = []
    for name in sorted(rows):
        units = sorted(rows[name])
        strata.append(
            Stratum(
                name=name,
                units=tuple(unit for unit, _, _ in units),
                x_N=np.array([x for _, x, _ in units], dtype=np.float64),
                y_N=np.array([y for _, _, y in units], dtype=np.float64),
            )
        )
    return strata


def get_stratum_and_unit(numbers: HasModelAndTask, design: Design) -> tuple[str, str]:
    """Returns the name of the numbers' stratum, and the name of their unit in this stratum."""
    return (numbers.task, numbers.model_id) if design == "within_task" else (numbers.model_id, numbers.task)


def select_common_units(strata: Sequence[Stratum]) -> list[Stratum]:
    """Restricts the strata that have a ρ to the units that all these strata share.

    If a stratum has no ρ for these units, the stratum is left out, too. A unit that was missing only in strata without
    a ρ is then included again.
    """
    defined = with_defined_rho(strata)
    while True:
        restricted = restrict_units(defined, get_common_units(defined))
        remaining = [whole for whole, common in zip(defined, restricted, strict=True) if common.rho is not None]
        if len(remaining) == len(defined):
            return restricted
        defined = remaining


def get_common_units(strata: Sequence[Stratum]) -> frozenset[str]:
    """The units that are present in every stratum."""
    return frozenset.intersection(*(frozenset(stratum.units) for stratum in strata)) if strata else frozenset()


def restrict_units(strata: Sequence[Stratum], units: frozenset[str]) -> list[Stratum]:
    """Restricts each stratum to the given units."""
    restricted = []
    for stratum in strata:
        present_N = np.array([unit in units for unit in stratum.units], dtype=np.bool_)
        common = tuple(unit for unit in stratum.units if unit in units)
        restricted.append(replace(stratum, units=common, x_N=stratum.x_N[present_N], y_N=stratum.y_N[present_N]))
    return restricted


def summarise_strata(strata: Sequence[Stratum], used: Sequence[Stratum]) -> tuple[StratumResult, ...]:
    """Returns the result of each stratum, in the order of `strata`. Each ρ uses all units of its stratum."""
    names = {stratum.name for stratum in used}
    return tuple(
        StratumResult(name=stratum.name, pairs=len(stratum.units), rho=stratum.rho, used=stratum.name in names)
        for stratum in strata
    )
