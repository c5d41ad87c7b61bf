"""Quota of storage: what objects of one tenant may take before uploads are refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.object_store import ObjectStore

_MEASURED_FOR_S = 60.0
"""Age at which sizes are measured again: the store answers one request per thousand objects."""


@dataclass(frozen=True)
class _Usage:
    """The counted objects of a tenant as they were listed, and those among them that were uploaded."""

    total_bytes: int
    uploaded_bytes: Mapping[str, int]
    listed_s: float


@dataclass(frozen=True)
class _Announcement:
    """A file that may arrive until its URL expires."""

    size_bytes: int
    expire_s: float


@dataclass
class StorageQuota:
    """Counts objects of a tenant, and the uploads that were announced and have not arrived.

    Each process counts the announcements that it received, so that several of them may together exceed the quota by
    those of one hour. Methods may be called from any thread.

    Attributes:
        store: objects of the tenant.
        limit_bytes: the quota; 0 for none.
        setting: the setting that holds it, for the error's remedy.
        uploads: prefix of the keys of uploads.
        counted: prefix of the keys that the quota counts; all by default.
    """

    store: ObjectStore
    limit_bytes: int
    setting: str
    uploads: str
    counted: str = ""
    _usage: _Usage | None = None
    _announced: dict[str, _Announcement] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def announce(self, files: Mapping[str, int], valid_s: float) -> None:
        """Reserves room for uploads.

        Args:
            files: size in bytes by key. A file that was announced before, or has arrived, takes no more room.
            valid_s: time in seconds for which the files may be uploaded.

        Raises:
            TooLarge: the quota has no room for them. Nothing is reserved.
        """
        if not self.limit_bytes:
            return
        with self._lock:
            now = time.monotonic()
            usage = self._measure(now)
            arriving = {key: size for key, size in files.items() if usage.uploaded_bytes.get(key) != size}
            others = sum(item.size_bytes for key, item in self._announced.items() if key not in arriving)
            used, added = usage.total_bytes + others, sum(arriving.values())
            if used + added > self.limit_bytes:
                below = f" below {self.counted}" if self.counted else ""
                raise TooLarge(
                    f"the tenant uses {used:,} of {self.limit_bytes:,} bytes{below}, and the upload adds {added:,}",
                    subject=f"tenant {self.store.tenant}",
                    remedy=f"delete objects, which counts after a minute, or ask an operator to raise {self.setting}",
                    reason="STORAGE_QUOTA_EXCEEDED",
                )
            self._announced |= {key: _Announcement(size, now + valid_s) for key, size in arriving.items()}

    def release(self, prefix: str) -> None:
        """Gives back what was announced below a prefix, whose files were published."""
        with self._lock:
            self._announced = {key: item for key, item in self._announced.items() if not key.startswith(prefix)}
            self._usage = None  # what was published is counted at once, so that a minute of imports has no free room

    def _measure(self, now: float) -> _Usage:
        usage = self._usage
        if usage is None or now - usage.listed_s >= _MEASURED_FOR_S:
            sizes = self.store.sizes_bytes(self.counted)
            uploaded = {key: size for key, size in sizes.items() if key.startswith(self.uploads)}
            usage = self._usage = _Usage(sum(sizes.values()), uploaded, now)
            self._announced = {
                key: item for key, item in self._announced.items() if item.expire_s > now and key not in uploaded
            }
        return usage
