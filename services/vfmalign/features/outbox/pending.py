"""Keys of the observations in a tenant's outbox that this process knows, and limits on their number and size."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.keys import is_outbox_key, outbox_key
from vfmalign.features import metrics
from vfmalign.features.settings import OutboxOptions

_END_NS = 9 * 10**18
"""A time in the year 2255. Later times are not from a real clock, and could leave no room for a later key."""


class PendingKeys:
    """Keys of the waiting observations of one tenant. Use this class only in the event loop.

    The keys mirror the objects in the store. Writes and deletions by this process change the keys at once. Changes by
    other processes appear with the next listing.

    Args:
        tenant: name of the tenant, for metrics.
        options: options with the limits.

    Attributes:
        is_surveyed: whether the last survey was complete.
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
        """Maximum number of keys that a survey reads: one more than the maximum number of waiting observations."""
        return self._options.max_observations + 1

    def begin(self, monitor: str, size_bytes: int, sha256: str) -> str:
        """Returns the key for a new observation. The key sorts after all other keys of the monitor.

        Raises:
            TooLarge: the outbox is full.
        """
        if self._count >= self._options.max_observations or self._bytes + size_bytes > self._options.max_bytes:
            raise TooLarge(
                f"the outbox is full: {self._count:,} observations with {self._bytes:,} bytes are waiting",
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
        """Records whether an observation was written."""
        self._writing.discard(key)
        if not is_written:
            self.remove(key)

    def remove(self, *keys: str) -> None:
        """Records that observations were removed from the store."""
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

    def begin_survey(self) -> frozenset[str]:
        """Returns the keys that a listing from now on must contain, unless another process deletes their objects."""
        return frozenset(key for sizes in self._sizes.values() for key in sizes) - self._writing

    def end_survey(self, listed: Mapping[str, int], before: frozenset[str]) -> None:
        """Updates the keys from a listing of the store.

        Args:
            listed: maps the keys of at most `limit` observations to their sizes.
            before: result of the `begin_survey` call before the listing.
        """
        # A truncated listing may hide any monitor; the outbox is then full.
        self.is_surveyed = len(listed) < self.limit
        known = {key: size for sizes in self._sizes.values() for key, size in sizes.items() if key not in before}
        known |= listed
        self._sizes, self._count, self._bytes = {}, 0, 0
        for key in sorted(known):
            self._add(key, known[key])
        self._show()

    def end_page(self, monitor: str, listed: Mapping[str, int], before: frozenset[str], *, is_last: bool) -> None:
        """Updates the keys of one monitor from a listing of the store.

        Args:
            monitor: the monitor.
            listed: maps the keys of the first objects to their sizes.
            before: result of the `begin_survey` call before the listing.
            is_last: whether the listing is complete.
        """
        last = max(listed, default="")
        self.remove(
            *(
                key
                for key in list(self._sizes.get(monitor, {}))
                if key in before and key not in listed and (is_last or key < last)
            )
        )
        for key in listed:
            if is_outbox_key(key) and key not in self._sizes.get(monitor, {}):
                self._add(key, listed[key])
        self._show()

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
