"""A monitor of one layer. The monitor takes observations and returns evidence and alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from vfmalign.core.domain.errors import BadTensor, InvalidInput
from vfmalign.monitoring.sequential.draws import Draws
from vfmalign.monitoring.sequential.epoch import Epoch
from vfmalign.monitoring.sequential.patients import PatientRegister
from vfmalign.monitoring.sequential.records import (
    Alarm,
    Component,
    EpochStart,
    EpochSummary,
    MonitorOptions,
    MonitorStatus,
    Observation,
    Outcome,
)
from vfmalign.monitoring.sequential.references import (
    Reference,
    check_names,
    check_rows,
    get_patient_digest,
    prepare_reference,
)
from vfmalign.monitoring.sequential.thresholds import (
    FIRST_PATIENTS_SHARE,
    get_log_run_length_thresholds,
    get_log_thresholds,
)


class Monitor:
    """Evidence that rows no longer come from the distribution of the reference.

    A bound holds if there is no drift and patients are exchangeable with the patients of the reference. The probability
    that any epoch with a guarantee ever raises an alarm is then at most α (docs/monitoring-mathematics.md). The result
    is the same however the observations are divided into calls.

    Args:
        options: options of the monitor, which never change.
        rows_ND: features of the first reference. Only the first row of each patient is used.
        patients: patient of each row.
        strata: stratum of each row, such as the scanner; empty if it is unknown.

    Raises:
        BadTensor, InvalidInput: the reference cannot be used; see `prepare_reference`.
    """

    def __init__(
        self,
        options: MonitorOptions,
        rows_ND: ArrayLike,
        patients: Sequence[str],
        strata: Sequence[str] | None = None,
    ) -> None:
        self.options = options
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.earlier: list[EpochSummary] = []
        self.epoch = prepare_epoch(options, 1, EpochStart.FIXED, rows_ND, patients, strata=strata)
        self.patients = PatientRegister(options.patient_window_days, reference=self.reference.patients)

    @property
    def reference(self) -> Reference:
        """The reference of the current epoch."""
        return self.epoch.reference

    @property
    def status(self) -> MonitorStatus:
        """Current status of the monitor."""
        epoch = self.epoch
        calibration, stream = epoch.count_strata()
        return MonitorStatus(
            epoch=epoch.draws.epoch,
            start=epoch.start,
            has_guarantee=epoch.start is not EpochStart.RESET,
            rows=epoch.rows,
            outcomes=dict(self.outcomes),
            log_evidence=self._get_log_evidence(),
            log_threshold=self._get_thresholds(),
            blocks_are_active=epoch.blocks_are_active,
            alarm=epoch.alarm,
            strata=stream,
            reference_strata=calibration,
            extreme_rows=sorted(epoch.extreme_rows, reverse=True),
            earlier=list(self.earlier),
        )

    def start_epoch(
        self, start: EpochStart, rows_ND: ArrayLike, patients: Sequence[str], strata: Sequence[str] | None = None
    ) -> None:
        """Begins a new epoch with a new reference. The evidence is reset. The new epoch uses its own share of α.

        Args:
            start: why it begins. `EpochStart.RESET` has no guarantee.
            rows_ND: features of the new reference. Only the first row of each patient is used.
            patients: patient of each row.
            strata: stratum of each row.

        Raises:
            InvalidInput: the guarantee of the monitor would not hold; see `begin_epoch`.
            BadTensor, InvalidInput: the reference cannot be used.
        """
        number = self.epoch.draws.epoch + 1
        self.begin_epoch(prepare_epoch(self.options, number, start, rows_ND, patients, strata=strata))

    def begin_epoch(self, epoch: Epoch) -> None:
        """Begins an epoch that was prepared with `prepare_epoch`; see `start_epoch`.

        Raises:
            InvalidInput: an earlier epoch has seen a patient of the reference. A seen patient is an error for
                `EpochStart.UNSEEN_REFERENCE`. A seen patient is also an error for `EpochStart.FIXED`, if the rows may
                have caused the start of an earlier epoch. The monitor is unchanged.
        """
        patients = epoch.reference.patients
        if seen := self._count_seen(epoch.start, patients):
            raise InvalidInput(
                f"an earlier epoch has seen patients of the reference: {seen:,} of {len(patients):,}",
                field="reference.patients",
                remedy="leave these patients out, or reset the monitor without a guarantee",
            )
        self.earlier.append(EpochSummary(self.epoch.start, self.epoch.rows, self.epoch.alarm))
        self.epoch = epoch
        self.patients.reference |= patients

    def observe(
        self,
        rows_ND: ArrayLike,
        observations: Sequence[str],
        patients: Sequence[str],
        strata: Sequence[str] | None = None,
        days: Sequence[int] | None = None,
    ) -> list[Observation]:
        """Processes observations in the order of their arrival. Returns one result per observation.

        Args:
            rows_ND: features.
            observations: id of each row. Callers must never repeat an id.
            patients: patient of each row.
            strata: stratum of each row; empty if it is unknown.
            days: day of each row, counted from any fixed day. Required if `patient_window_days` is set.

        Raises:
            BadTensor: the number of channels differs from the reference. No observation is taken.
            InvalidInput: the number of ids, patients, strata or days differs from the number of rows, or required days
                are missing.
        """
        rows_ND = check_rows(rows_ND, "rows")
        channels = len(self.reference.scorer.mean_D)
        if rows_ND.shape[1] != channels:
            raise BadTensor(
                f"expected {channels} channels as in the reference, got {rows_ND.shape[1]}",
                subject="rows",
                remedy="observe features of the same model and layer",
            )
        if days is None and self.options.patient_window_days is not None:
            raise InvalidInput("days are missing", field="days", remedy="pass the day of each row")
        strata = [""] * len(rows_ND) if strata is None else strata
        days = [0] * len(rows_ND) if days is None else days
        named = {"observations": observations, "patients": patients, "strata": strata, "days": days}
        for field, values in named.items():
            check_names(len(rows_ND), values, field)
        columns = zip(rows_ND, observations, patients, strata, days, strict=True)
        return [self._observe(*column) for column in columns]

    def list_named(self) -> list[tuple[int, str]]:
        """Returns the row and the id of each observation that the state names; the row is 0 in an earlier epoch."""
        named = [(one.row, one.observation) for one in self.epoch.extreme_rows]
        if self.epoch.alarm is not None:
            named.append((self.epoch.alarm.row, self.epoch.alarm.observation))
        return named + [(0, one.alarm.observation) for one in self.earlier if one.alarm is not None]

    def forget(self, patients: frozenset[int], ids: Mapping[str, str]) -> None:
        """Removes patients and the ids of their observations from the state. The evidence stays.

        The evidence may then include the next observations of these patients, but not those of patients of the
        reference.

        Args:
            patients: digests of the patients.
            ids: maps the id of each observation of these patients to its new id.
        """
        self.patients.forget(patients - self.reference.patients)
        self.epoch.extreme_rows = sorted(one for one in self.epoch.extreme_rows if one.observation not in ids)
        self.epoch.alarm = _rename(self.epoch.alarm, ids)
        self.earlier = [replace(one, alarm=_rename(one.alarm, ids)) for one in self.earlier]

    def _count_seen(self, start: EpochStart, patients: frozenset[int]) -> int:
        """Returns how many patients of a new reference are not allowed, because an epoch has seen them.

        An epoch with a fixed start may have any reference that was chosen independently of the rows. If rows may have
        caused the start of an epoch, earlier patients are no longer independent after it. This does not apply to
        patients of a reference that no epoch had seen when it began.
        """
        if start is EpochStart.RESET:
            return 0
        starts = [*(one.start for one in self.earlier), self.epoch.start]
        caused = [one for one in starts if one is not EpochStart.FIXED]
        if start is EpochStart.FIXED and not caused:
            return 0
        if start is EpochStart.FIXED and caused[-1] is EpochStart.UNSEEN_REFERENCE:
            patients = patients - self.reference.patients
        return self.patients.count_seen(patients)

    def _observe(self, row_D: np.ndarray, observation: str, patient: str, stratum: str, day: int) -> Observation:
        """Takes one observation."""
        is_finite = bool(np.isfinite(row_D).all())
        outcome = self.patients.enter(get_patient_digest(patient), day) if is_finite else Outcome.NOT_FINITE
        self.outcomes[outcome] += 1
        if outcome is not Outcome.ENTERED:
            return Observation(observation, outcome, 0, None, self._get_log_evidence(), False)
        p_value = self.epoch.add(row_D, observation, stratum)
        if self._compares_first and self.epoch.rows == self.options.first_patients:
            self.epoch.compare_first(self.options.alpha * FIRST_PATIENTS_SHARE)
        log_evidence = self._get_log_evidence()
        limits = self._get_thresholds()
        reached = tuple(component for component, value in log_evidence.items() if value >= limits[component])
        raised_alarm = bool(reached) and self.epoch.alarm is None
        if raised_alarm:
            self.epoch.alarm = Alarm(self.epoch.rows, observation, reached)
        return Observation(observation, outcome, self.epoch.rows, p_value, log_evidence, raised_alarm)

    @property
    def _compares_first(self) -> bool:
        return self.options.first_patients is not None and self.epoch.draws.epoch == 1

    def _get_log_evidence(self) -> dict[Component, float]:
        log_evidence = {component: one.log_value for component, one in self.epoch.evidence.items()}
        if self._compares_first:
            log_evidence[Component.FIRST_PATIENTS] = -math.log(self.epoch.first_p_value or 1.0)
        return log_evidence

    def _get_thresholds(self) -> dict[Component, float]:
        options, channels = self.options, len(self.reference.scorer.mean_D)
        if options.run_length is not None:
            return get_log_run_length_thresholds(options.run_length, channels)
        epoch = self.epoch.draws.epoch
        return get_log_thresholds(options.alpha, epoch, channels, compares_first=self._compares_first)


def _rename(alarm: Alarm | None, ids: Mapping[str, str]) -> Alarm | None:
    return None if alarm is None else replace(alarm, observation=ids.get(alarm.observation, alarm.observation))


def prepare_epoch(
    options: MonitorOptions,
    number: int,
    start: EpochStart,
    rows_ND: ArrayLike,
    patients: Sequence[str],
    *,
    strata: Sequence[str] | None = None,
) -> Epoch:
    """Prepares an epoch without access to the monitor. Preparing a reference is slow.

    Args:
        options: options of the monitor.
        number: number of the epoch, starting at 1.
        start: why it begins.
        rows_ND: features of the reference.
        patients: patient of each row.
        strata: stratum of each row.

    Raises:
        BadTensor, InvalidInput: the reference cannot be used; see `prepare_reference`.
    """
    draws = Draws(options.seed, number)
    reference = prepare_reference(rows_ND, patients, draws, strata)
    return Epoch(draws, start, reference, by_run_length=options.run_length is not None)
