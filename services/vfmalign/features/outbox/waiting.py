"""What waits in the outbox of a tenant, as far as this process knows: keys in order, and the bound on them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.keys import is_outbox_key, outbox_key
from vfmalign.features import metrics
from vfmalign.features.settings import OutboxOptions

_END_NS = 9 * 10**18
"""A time in the year 2255. No clock has written a later one, after which there might be no further key."""


class Waiting:
    """Keys of one tenant's observations that wait. It belongs to the event loop.

    It is a copy of what the store lists: own writes and deletions change it at once, those of other processes with the
    next list. Until the first survey is complete, something may wait for every monitor.

    Args:
        tenant: for metrics.
        options: bounds.

    Attributes:
        is_surveyed: whether the last survey has shown everything.
    """

    def __init__(self, tenant: str, options: OutboxOptions) -> None:
        self._tenant, self._options = tenant, options
        self._sizes: dict[str, dict[str, int]] = {}
        self._count, self._bytes = 0, 0
        self._writing: set[str] = set()
        self._writer = uuid.uuid4().hex[:8]
        self._latest_ns = 0
        self.is_surveyed = False
        self._show()

    @property
    def limit(self) -> int:
        """Most keys that a survey reads: one more than may wait."""
        return self._options.max_observations + 1

    def has(self, monitor: str) -> bool:
        """Returns whether something may wait for a monitor."""
        return not self.is_surveyed or monitor in self._sizes

    def begin(self, monitor: str, size_bytes: int, sha256: str) -> str:
        """Returns the key under which an observation is to be written, after all others of its monitor.

        Raises:
            TooLarge: the outbox is full.
        """
        if self._count >= self._options.max_observations or self._bytes + size_bytes > self._options.max_bytes:
            raise TooLarge(
                f"{self._count:,} observations with {self._bytes:,} bytes wait already",
                subject="outbox",
                remedy="ask the operator to check the monitoring service, or to raise "
                "VFMALIGN_OUTBOX__MAX_OBSERVATIONS and VFMALIGN_OUTBOX__MAX_BYTES",
                reason="OUTBOX_FULL",
            )
        self._latest_ns = max(time.time_ns(), self._latest_ns + 1)
        key = outbox_key(monitor, self._latest_ns, self._writer, sha256)
        self._add(key, size_bytes)
        self._writing.add(key)
        self._show()
        return key

    def end(self, key: str, *, is_written: bool) -> None:
        """Records how the write of an observation ended."""
        self._writing.discard(key)
        if not is_written:
            self.remove(key)

    def remove(self, *keys: str) -> None:
        """Records that observations are no longer in the store."""
        for key in keys:
            monitor = _get_monitor(key)
            sizes = self._sizes.get(monitor, {})
            if key in sizes:
                self._count, self._bytes = self._count - 1, self._bytes - sizes.pop(key)
            if not sizes:
                self._sizes.pop(monitor, None)
        self._show()

    def get_monitors(self) -> list[str]:
        """Returns the monitors for which observations are stored."""
        return [monitor for monitor, sizes in self._sizes.items() if not sizes.keys() <= self._writing]

    def add(self, listed: Mapping[str, int]) -> None:
        """Records observations that the store has listed, by key with their sizes."""
        for key in listed:
            if is_outbox_key(key) and key not in self._sizes.get(_get_monitor(key), {}):
                self._add(key, listed[key])
        self._show()

    def begin_survey(self) -> frozenset[str]:
        """Returns the keys that a list of the store from now on shows, unless another process deletes them."""
        return frozenset(key for sizes in self._sizes.values() for key in sizes) - self._writing

    def end_survey(self, listed: Mapping[str, int], before: frozenset[str]) -> None:
        """Takes over what the store has listed.

        Args:
            listed: sizes by key, of at most `limit` observations.
            before: what `begin_survey` returned before the list.
        """
        # A list that was cut off may hide any monitor; the outbox is full then.
        self.is_surveyed = len(listed) < self.limit
        known = {key: size for sizes in self._sizes.values() for key, size in sizes.items() if key not in before}
        known |= listed
        self._sizes, self._count, self._bytes = {}, 0, 0
        for key in sorted(known):
            self._add(key, known[key])
        self._show()

    def end_page(self, monitor: str, listed: Mapping[str, int], before: frozenset[str], *, is_last: bool) -> None:
        """Takes over what the store has listed of one monitor.

        Args:
            monitor: the monitor.
            listed: sizes by key, of the first objects.
            before: what `begin_survey` returned before the list.
            is_last: whether there is nothing beyond them.
        """
        last = max(listed, default="")
        self.remove(
            *(
                key
                for key in list(self._sizes.get(monitor, {}))
                if key in before and key not in listed and (is_last or key < last)
            )
        )
        self.add(listed)

    def _add(self, key: str, size_bytes: int) -> None:
        self._sizes.setdefault(_get_monitor(key), {})[key] = size_bytes
        if (time_ns := _get_time_ns(key)) < _END_NS:
            self._latest_ns = max(self._latest_ns, time_ns)
        self._count, self._bytes = self._count + 1, self._bytes + size_bytes

    def _show(self) -> None:
        oldest_ns = min((_get_time_ns(min(sizes)) for sizes in self._sizes.values()), default=0)
        metrics.outbox_observations.labels(self._tenant).set(self._count)
        metrics.outbox_bytes.labels(self._tenant).set(self._bytes)
        metrics.outbox_oldest.labels(self._tenant).set(oldest_ns / 1e9)


def _get_monitor(key: str) -> str:
    return key.split("/")[1]


def _get_time_ns(key: str) -> int:
    return int(key.rsplit("/", 1)[1].partition("-")[0])
