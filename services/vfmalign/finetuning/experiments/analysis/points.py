"""Cells averaged over seeds, one point for each model and task, and the quantities that are compared between points.

Knows cells. Knows nothing of tests or resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vfmalign.finetuning.experiments.analysis.cells import Cell, Marks

CENSORED = math.inf
"""A value that is larger than any that was seen: it ranks last, which is all that is used of it."""


@dataclass(frozen=True)
class Quantity:
    """A number of a cell.

    Attributes:
        name: in JSON and CSV.
        label: in print.
        expected: sign of ρ with the gain where the paper's claim, or the measure's own, holds.
        note: direction, in words.
        of: the cell's number; None where absent.
    """

    name: str
    label: str
    expected: int
    note: str
    of: Callable[[Cell], float | None]


@dataclass(frozen=True)
class Point:
    """The cells of one model and task, one for each seed, in order of seeds."""

    model: str
    task: str
    cells: tuple[Cell, ...]

    def mean(self, of: Callable[[Cell], float | None]) -> float | None:
        """Mean over the seeds that have a value; infinite where one is censored; None where none has one."""
        values = [value for value in map(of, self.cells) if value is not None]
        return fmean(values) if values else None

    def without(self, of: Callable[[Cell], float | None]) -> int:
        """Seeds that have no value."""
        return sum(of(cell) is None for cell in self.cells)

    @property
    def marks(self) -> Marks:
        """A mark of any seed is one of the point."""
        return Marks(
            **{name: any(getattr(cell.marks, name) for cell in self.cells) for name in Marks.model_fields},
        )


def points_of(cells: Iterable[Cell]) -> list[Point]:
    """Cells by model and task, sorted."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.task, cell.model, cell.seed)):
        groups.setdefault((cell.model, cell.task), []).append(cell)
    return [Point(model, task, tuple(group)) for (model, task), group in groups.items()]


def gain_of(cell: Cell) -> float | None:
    """Gain over the specialised network, in per cent."""
    return cell.gain.value


def share_of_steps(cell: Cell) -> float | None:
    """Steps to 95 % as a share of all steps."""
    steps = cell.steps_to_95
    if steps.censored:
        return CENSORED
    return None if steps.value is None or not cell.budget else steps.value / cell.budget


def measure_of(name: str) -> Callable[[Cell], float | None]:
    """One of the measures beside MMD²."""

    def of(cell: Cell) -> float | None:
        found = cell.measures.get(name)
        return None if found is None else found.value

    return of


SHIFT = Quantity("mmd2_std", "MMD²", -1, "less shift, more gain", lambda cell: cell.shift.value)
RATIO = Quantity(
    "shift_ratio",
    "shift ratio",
    -1,
    "less shift against random weights, more gain",
    lambda cell: cell.shift_ratio.value,
)
PREDICTORS: tuple[Quantity, ...] = (
    SHIFT,
    RATIO,
    Quantity("weight_change", "weight change", -1, "less change of the weights, more gain", lambda c: c.weight_change),
    Quantity("cka", "CKA", 1, "a similarity: more alike, more gain", measure_of("cka")),
    Quantity("frechet", "Fréchet distance", -1, "less distance, more gain", measure_of("frechet")),
    Quantity("energy", "energy distance", -1, "less distance, more gain", measure_of("energy")),
    Quantity("logme", "LogME", 1, "more evidence before fine-tuning, more gain", measure_of("logme")),
)
MARKS: Mapping[str, tuple[str, str]] = {
    "not_beaten": ("‡", "does not beat the naive baseline"),
    "saturated": ("†", "MMD² out of the kernel's reach: moved far, not how far"),
    "degenerate": ("≈", "the shift's interval is not to be relied on"),
    "not_held_out": ("§", "no case was held out: descriptive"),
}
"""Sign of every mark, and what it says."""


def signs(marks: Marks) -> str:
    """The signs of a point's marks, in one string."""
    return "".join(sign for name, (sign, _) in MARKS.items() if getattr(marks, name))


def names(points: Sequence[Point], side: str) -> list[str]:
    """Models, or tasks, in order of the alphabet."""
    return sorted({getattr(point, side) for point in points})
