"""Points of an experiment, and the quantities to compare between them. A point is the mean of cells over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vfmalign.analysis.checks.records import MEASURE_TITLES
from vfmalign.analysis.experiments.cells import Cell, Flags

CENSORED = math.inf
"""Represents a value beyond the largest observed one. Only its rank is used: the last."""

GetNumber = Callable[[Cell], float | None]
"""Reads a number from a cell; None where absent."""


@dataclass(frozen=True)
class Quantity:
    """A number of a cell that can be compared between points.

    Attributes:
        name: name in JSON and CSV.
        label: name in print.
        expected_sign: sign of ρ with the gain according to the paper's claim, or to the measure's own rationale.
        note: text that states the expected direction.
        get: reads the number from a cell.
    """

    name: str
    label: str
    expected_sign: int
    note: str
    get: GetNumber


@dataclass(frozen=True)
class Point:
    """The cells of one model and task: one cell per seed, sorted by seed."""

    model_id: str
    task: str
    cells: tuple[Cell, ...]

    def mean(self, get: GetNumber) -> float | None:
        """Mean over the seeds that have a value.

        The mean is infinite if a value is censored, and None if no seed has a value.
        """
        values = [value for value in map(get, self.cells) if value is not None]
        return fmean(values) if values else None

    def count_absent(self, get: GetNumber) -> int:
        """Number of seeds without a value."""
        return sum(get(cell) is None for cell in self.cells)

    @property
    def flags(self) -> Flags:
        """Flags that are set for at least one seed."""
        return Flags(
            **{name: any(getattr(cell.flags, name) for cell in self.cells) for name in Flags.model_fields},
        )


def make_points(cells: Iterable[Cell]) -> list[Point]:
    """Groups cells by model and task, sorted by task and model."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.task, cell.model_id, cell.seed)):
        groups.setdefault((cell.model_id, cell.task), []).append(cell)
    return [Point(model, task, tuple(group)) for (model, task), group in groups.items()]


def get_gain(cell: Cell) -> float | None:
    """Returns the gain over the specialised network, in per cent."""
    return cell.gain.value


def get_step_share(cell: Cell) -> float | None:
    """Returns the share of all steps until 95 % of the rise was reached.

    The share is infinite if the number of steps is censored.
    """
    steps = cell.steps_to_95
    if steps.censored:
        return CENSORED
    return None if steps.value is None or not cell.budget else steps.value / cell.budget


def measure_getter(name: str) -> GetNumber:
    """Creates a function that reads one of the measures other than MMD²."""

    def get_measure(cell: Cell) -> float | None:
        measure = cell.measures.get(name)
        return None if measure is None else measure.value

    return get_measure


SHIFT = Quantity("mmd2_std", "MMD²", -1, "less shift, more gain", lambda cell: cell.shift.value)
RATIO = Quantity(
    "shift_ratio",
    "shift ratio",
    -1,
    "less shift relative to random weights, more gain",
    lambda cell: cell.shift_ratio.value,
)
ENERGY = Quantity("energy", MEASURE_TITLES["energy"], -1, "less distance, more gain", measure_getter("energy"))
SHIFT_MEASURES: tuple[Quantity, ...] = (SHIFT, RATIO, ENERGY)
"""Measures of the shift for evaluating the claims; only the first has verdicts. The energy distance, unlike MMD², does
not saturate."""
PREDICTORS: tuple[Quantity, ...] = (
    SHIFT,
    RATIO,
    Quantity(
        "weight_change", "weight change", -1, "smaller change of the weights, more gain", lambda c: c.weight_change
    ),
    Quantity("cka", MEASURE_TITLES["cka"], 1, "a similarity: more similar features, more gain", measure_getter("cka")),
    Quantity("frechet", MEASURE_TITLES["frechet"], -1, "less distance, more gain", measure_getter("frechet")),
    ENERGY,
    Quantity(
        "logme", MEASURE_TITLES["logme"], 1, "more evidence before fine-tuning, more gain", measure_getter("logme")
    ),
    Quantity(
        "h_score",
        MEASURE_TITLES["h_score"],
        1,
        "better separated classes before fine-tuning, more gain",
        measure_getter("h_score"),
    ),
)
FLAG_SYMBOLS: Mapping[str, tuple[str, str]] = {
    "not_beaten": ("‡", "does not beat the naive baseline"),
    "saturated": ("†", "saturated: MMD² no longer grows with distance"),
    "degenerate": ("≈", "the interval of the shift is unreliable"),
    "not_held_out": ("§", "no case was held out: descriptive only"),
}
"""Symbol and meaning of every flag."""


def flag_symbols(flags: Flags) -> str:
    """The symbols of the flags that are set, as one string."""
    return "".join(symbol for name, (symbol, _) in FLAG_SYMBOLS.items() if getattr(flags, name))


def list_tasks(points: Sequence[Point]) -> list[str]:
    """The tasks of all points, sorted."""
    return sorted({point.task for point in points})
