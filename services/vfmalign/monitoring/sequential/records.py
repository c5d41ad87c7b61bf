"""Options and results of a monitor."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vfmalign.core.domain.errors import BadOption


class Component(StrEnum):
    """A component of the evidence. Each component has its own ranks."""

    ROWS = "rows"
    BLOCKS_OF_4 = "blocks_of_4"
    BLOCKS_OF_16 = "blocks_of_16"
    CHANNELS = "channels"
    FIRST_PATIENTS = "first_patients"
    """The first rows of the first epoch at once, if `MonitorOptions.first_patients` is set."""


SEQUENTIAL = (Component.ROWS, Component.BLOCKS_OF_4, Component.BLOCKS_OF_16, Component.CHANNELS)
"""Components that grow with every row."""


class Outcome(StrEnum):
    """Outcome of an observation."""

    ENTERED = "entered"
    """The evidence includes the observation."""
    REPEATED_PATIENT = "repeated_patient"
    """The evidence already includes this patient. With `patient_window_days`, only this period counts."""
    REFERENCE_PATIENT = "reference_patient"
    """Its patient has a row in a reference of this monitor."""
    NOT_FINITE = "not_finite"
    """It has a value that is NaN or infinite. A later observation of its patient may enter."""


class EpochStart(StrEnum):
    """Why an epoch begins. The reason determines whether the guarantee of the epoch holds."""

    FIXED = "fixed"
    """At a time that does not depend on the rows, such as a new model or an exchanged scanner."""
    UNSEEN_REFERENCE = "unseen_reference"
    """At any time, with a reference of patients that no earlier epoch has seen."""
    RESET = "reset"
    """At any time with any reference: no guarantee."""


@dataclass(frozen=True)
class MonitorOptions:
    """Options of a monitor. The options are fixed before the first row of the monitor.

    Attributes:
        alpha: maximum probability that the monitor ever raises an alarm without drift, in (0, 0.5].
        run_length: number of rows A that replaces α, from 100 to 10⁹. Without drift, an epoch raises an alarm within T
            rows with a probability of at most T/A. Without drift, the mean number of rows until the first alarm is
            therefore at least A/2.
        patient_window_days: number of days after which the evidence may include the same patient again; None for never.
        first_patients: number N of first rows, from 20 to 500. One test compares these rows with the reference. None
            if there is no such test. The test uses 0.1 of α, requires an α of at least 0.001, and cannot be combined
            with `run_length`.
        seed: seed of all random numbers, 0 to 2⁶³ − 1.

    Raises:
        BadOption: an option is outside its range.
    """

    alpha: float = 0.01
    run_length: int | None = None
    patient_window_days: int | None = None
    first_patients: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check("alpha", self.alpha, 0.0 < self.alpha <= 0.5, "a number above 0 and up to 0.5")
        if self.run_length is not None:
            _check("run_length", self.run_length, 100 <= self.run_length <= 10**9, "100 to 1,000,000,000 rows")
        if self.patient_window_days is not None:
            _check("patient_window_days", self.patient_window_days, self.patient_window_days >= 1, "at least 1 day")
        if self.first_patients is not None:
            _check("first_patients", self.first_patients, 20 <= self.first_patients <= 500, "20 to 500 patients")
            if self.run_length is not None or self.alpha < 0.001:
                problem = "the test of the first patients needs an alpha of at least 0.001, and no run length"
                raise BadOption(problem, field="first_patients", remedy="give such an alpha, or leave it out")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "0 to 2⁶³ − 1")


@dataclass(frozen=True)
class Alarm:
    """The first alarm of an epoch.

    Attributes:
        row: number of the row in the epoch, starting at 1.
        observation: id of the row's observation.
        components: components whose evidence had reached their threshold.
    """

    row: int
    observation: str
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Observation:
    """Result of one observation.

    Attributes:
        id: id of the observation.
        outcome: whether the evidence includes the observation, or why it does not.
        row: number of the row in the epoch, starting at 1; 0 if the evidence does not include the row.
        p_value: p-value of the row among the calibration rows and earlier rows of its stratum; None if the evidence
            does not include the row.
        log_evidence: natural logarithm of each component's statistic after this observation.
        raised_alarm: whether the observation raised the alarm of its epoch.
    """

    id: str
    outcome: Outcome
    row: int
    p_value: float | None
    log_evidence: dict[Component, float]
    raised_alarm: bool


@dataclass(frozen=True, order=True)
class ExtremeRow:
    """A row that is far from the reference.

    Attributes:
        score: −ln Σ exp(−d²/h) over the scoring rows.
        row: number of the row in the epoch, starting at 1.
        observation: id of its observation.
        p_value: p-value of the row when it arrived.
    """

    score: float
    row: int
    observation: str
    p_value: float


@dataclass(frozen=True)
class EpochSummary:
    """An epoch that has ended.

    Attributes:
        start: why it began.
        rows: number of rows that the evidence includes.
        alarm: the first alarm.
    """

    start: EpochStart
    rows: int
    alarm: Alarm | None


@dataclass(frozen=True)
class MonitorStatus:
    """State of a monitor.

    Attributes:
        epoch: number of the current epoch, starting at 1.
        start: why it began.
        has_guarantee: whether the bound on false alarms covers this epoch.
        rows: number of rows of the epoch that the evidence includes.
        outcomes: maps each outcome to its number of observations in all epochs.
        log_evidence: natural logarithm of each component's martingale M. For channels, the value is that of the largest
            martingale. If `run_length` is set, the value is ln R, which is −∞ before the first cell. For the first
            patients, the value is −ln p, which is 0 until all of these patients have been observed.
        log_threshold: natural logarithm of each component's threshold.
        blocks_are_active: whether blocks are still scored. After 20,000 rows of an epoch, blocks are no longer scored.
        alarm: first alarm of the epoch.
        strata: maps each stratum to its number of rows in the epoch; empty if the reference has no strata.
        reference_strata: maps each stratum to its number of calibration rows. Rows of a stratum without calibration
            rows are ranked among earlier rows of the stratum.
        extreme_rows: most extreme rows of the epoch, in descending order.
        earlier: summaries of the earlier epochs.
    """

    epoch: int
    start: EpochStart
    has_guarantee: bool
    rows: int
    outcomes: dict[Outcome, int]
    log_evidence: dict[Component, float]
    log_threshold: dict[Component, float]
    blocks_are_active: bool
    alarm: Alarm | None
    strata: dict[str, int]
    reference_strata: dict[str, int]
    extreme_rows: list[ExtremeRow]
    earlier: list[EpochSummary] = field(default_factory=list)


def _check(name: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise BadOption(f"{name} is {value}", field=name, remedy=f"use {expected}")
