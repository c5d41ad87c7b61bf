"""Storage quota: number of bytes that the objects of one tenant may use before uploads are rejected."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vfmalign.core.domain.errors import TooLarge, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import quota_used_ratio
from vfmalign.core.runtime.threads import STORE
from vfmalign.core.storage.store.object_store import ObjectStore

_MEASURED_FOR_S = 60.0
"""Age at which sizes are measured again: the store answers one request per thousand objects."""
_MAX_ANNOUNCED = 200_000
"""Files that may be announced at a time; they take 60 MB of memory."""
_NEARLY_USED, _REMEASURED_AFTER_S = 0.9, 180.0
"""Share above which VfmalignQuotaNearlyUsed fires, and the pause after which the quota is then measured again."""
_LOG = logs.get("quota")


@dataclass(frozen=True, slots=True)
class _Announcement:
    """A file that may arrive any number of times until its URLs expire; its size is the largest announced one."""

    size_bytes: int
    expire_s: float


@dataclass
class StorageQuota:
    """Counts the bytes of a tenant's objects and of announced uploads.

    Until a URL expires, clients can upload its file again, even if the file was published or deleted. During this time,
    the quota counts the file's largest announced size or its stored size, whichever is larger.

    Each process counts only the announcements that it received. Several processes together may therefore exceed the
    quota by the size of the files that are announced within one hour. Methods may be called from any thread.

    Attributes:
        store: objects of the tenant.
        limit_bytes: quota in bytes; 0 for no quota.
        setting: name of the quota's setting, for the remedy of errors.
        uploads: prefix of the keys of uploaded files.
        counted: prefix of the keys that the quota counts. By default, all keys count.
        name: label of the quota in `vfmalign_quota_used_ratio`.
    """

    store: ObjectStore
    limit_bytes: int
    setting: str
    uploads: str
    counted: str = ""
    name: str = "storage"
    _used_bytes: int = 0
    _uploaded: Mapping[str, int] = field(default_factory=dict)
    _measured_s: float | None = None
    _announced: dict[str, _Announcement] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def announce(self, files: Iterable[tuple[str, int]], valid_s: float) -> None:
        """Reserves room for uploads.

        Args:
            files: key and size in bytes of each file. Files that are already announced or stored do not count again.
            valid_s: number of seconds during which the files may be uploaded.

        Raises:
            TooLarge: the files exceed the remaining quota, or too many files are announced. Nothing is reserved.
        """
        if not self.limit_bytes:
            return
        with self._lock:
            now = time.monotonic()
            if self._measured_s is None or now - self._measured_s >= _MEASURED_FOR_S:
                self._measure(now)
            sizes: dict[str, int] = {}
            for key, size in files:
                sizes[key] = max(size, sizes.get(key, self._get_room(key)))
            added = sum(size - self._get_room(key) for key, size in sizes.items())
            self._check(added, sum(key not in self._announced for key in sizes))
            for key, size in sizes.items():
                earlier = self._announced.get(key)
                expire_s = now + valid_s if earlier is None else max(now + valid_s, earlier.expire_s)
                self._announced[key] = _Announcement(size, expire_s)
            self._used_bytes += added
            self._export()

    async def keep_measured(self) -> None:
        """Measures the used bytes regularly while the quota is nearly used up, until the task is cancelled.

        Without these measurements, the metric would stay the same if objects are deleted but nobody uploads.
        """
        logs.bind(tenant=self.store.tenant)
        while self.limit_bytes:
            await asyncio.sleep(_REMEASURED_AFTER_S)
            if self._used_bytes > _NEARLY_USED * self.limit_bytes:
                try:
                    await STORE.run(self._remeasure)
                except VfmalignError as error:
                    _LOG.warning("quota_not_measured", error=error)

    def _remeasure(self) -> None:
        with self._lock:
            self._measure(time.monotonic())

    def _check(self, added_bytes: int, added_files: int) -> None:
        subject = f"tenant {self.store.tenant}"
        if self._used_bytes + added_bytes > self.limit_bytes:
            below = f" below {self.counted}" if self.counted else ""
            raise TooLarge(
                f"with announced uploads, the tenant uses {self._used_bytes:,} of {self.limit_bytes:,} bytes{below}, "
                f"and the upload adds {added_bytes:,}",
                subject=subject,
                remedy="delete objects (this counts after a minute), wait until the URLs of earlier uploads have "
                f"expired, or ask an operator to raise {self.setting}",
                reason="STORAGE_QUOTA_EXCEEDED",
            )
        if len(self._announced) + added_files > _MAX_ANNOUNCED:
            raise TooLarge(
                f"the tenant has announced {len(self._announced):,} of at most {_MAX_ANNOUNCED:,} files at a time, "
                f"and the upload adds {added_files:,}",
                subject=subject,
                remedy="try again when the URLs of earlier uploads have expired",
                reason="TOO_MANY_UPLOADS",
            )

    def _get_room(self, key: str) -> int:
        """Returns the bytes that are counted for an upload."""
        announced = self._announced.get(key)
        return max(self._uploaded.get(key, 0), 0 if announced is None else announced.size_bytes)

    def _measure(self, now: float) -> None:
        """Lists the objects, and forgets the announcements that expired before: their files are listed."""
        sizes = self.store.sizes_bytes(self.counted)
        self._announced = {key: item for key, item in self._announced.items() if item.expire_s > now}
        self._uploaded = {key: size for key, size in sizes.items() if key.startswith(self.uploads)}
        to_come = sum(self._get_room(key) - self._uploaded.get(key, 0) for key in self._announced)
        self._used_bytes = sum(sizes.values()) + to_come
        self._measured_s = now
        self._export()

    def _export(self) -> None:
        quota_used_ratio.labels(self.store.tenant, self.name).set(self._used_bytes / self.limit_bytes)
