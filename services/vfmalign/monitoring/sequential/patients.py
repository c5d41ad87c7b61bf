"""Decides which observations the evidence includes: one per patient, but none of a patient of the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.records import Outcome

_RECENT_PATIENTS = 4096


class PatientRegister:
    """Patients that the evidence includes (16 bytes per patient), and patients of the references.

    Args:
        window_days: number of days after which the evidence may include the same patient again; None for never.
        digests: digests of the patients that the evidence includes, in ascending order.
        days: day of the last included observation of each of these patients.
        reference: digests of the patients of the current and all earlier references.
    """

    def __init__(
        self,
        window_days: int | None,
        digests: NDArray[np.uint64] | None = None,
        days: NDArray[np.int64] | None = None,
        reference: frozenset[int] = frozenset(),
    ) -> None:
        self._window_days = window_days
        self._digests = np.empty(0, np.uint64) if digests is None else digests
        self._days = np.empty(0, np.int64) if days is None else days
        self._recent: dict[int, int] = {}
        self.reference = reference

    def enter(self, digest: int, day: int) -> Outcome:
        """Returns whether the evidence may include an observation of a patient. If so, registers the patient."""
        if digest in self.reference:
            return Outcome.REFERENCE_PATIENT
        last = self._get_last_day(digest)
        if last is not None and (self._window_days is None or day - last < self._window_days):
            return Outcome.REPEATED_PATIENT
        self._recent[digest] = day
        if len(self._recent) == _RECENT_PATIENTS:
            self._digests, self._days = self.to_arrays()
            self._recent = {}
        return Outcome.ENTERED

    def list_digests(self) -> set[int]:
        """Returns the digests of the patients that the evidence includes or that belong to a reference."""
        return {*map(int, self._digests), *self._recent, *self.reference}

    def forget(self, patients: frozenset[int]) -> None:
        """Removes patients, so that the evidence may include their next observations."""
        digests, days = self.to_arrays()
        stays = ~np.isin(digests, np.array(sorted(patients), np.uint64))
        self._digests, self._days, self._recent = digests[stays], days[stays], {}
        self.reference -= patients

    def count_seen(self, digests: frozenset[int]) -> int:
        """Returns how many of these patients are in the evidence or in a reference."""
        return sum(one in self.reference or self._get_last_day(one) is not None for one in digests)

    def to_arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Returns the digests in ascending order, and the day of each patient's last included observation."""
        digests = np.concatenate([np.array(list(self._recent), np.uint64), self._digests])
        days = np.concatenate([np.array(list(self._recent.values()), np.int64), self._days])
        unique, first = np.unique(digests, return_index=True)  # a recent day replaces an earlier one
        return unique, days[first]

    def _get_last_day(self, digest: int) -> int | None:
        if digest in self._recent:
            return self._recent[digest]
        place = int(np.searchsorted(self._digests, np.uint64(digest)))
        return int(self._days[place]) if place < len(self._digests) and self._digests[place] == digest else None
