"""Worker threads of the feature service, which all tenants share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.features.settings import FeaturesOptions

_LISTS = 2
"""Lists that are read at the same time; each holds one dataset with its cases in memory."""


@dataclass
class Admission:
    """Bounds the studies of one kind that are processed at a time.

    Attributes:
        limit: most of them.
        kind: what they are called.
    """

    limit: int
    kind: str
    _admitted: int = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admits a study for the whole call.

        Raises:
            Exhausted: too many are running or waiting.
        """
        if self._admitted >= self.limit:
            raise Exhausted(
                f"{self._admitted} {self.kind} are being processed already",
                subject="Extract",
                remedy="repeat the call later",
                reason="QUEUE_FULL",
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1


class Workers:
    """One thread owns the device, one reads and prepares studies, one runs dataset extractions, and two read lists.

    Extractions submit their batches to the device's thread, where they alternate with studies. Studies as DICOM have
    threads and an admission of their own, so that those that wait for a PACS keep no other call waiting.

    Attributes:
        device, studies, datasets: queues of the threads.
        lists: reads pages of objects, which takes a while where datasets have many cases.
        dicom: reads studies as DICOM.
        dicom_slots: held while a study's voxels are in memory: until it is prepared.
        admission, dicom_admission: admit studies as volumes and as DICOM.
    """

    def __init__(self, options: FeaturesOptions) -> None:
        self.admission = Admission(options.queue_size, "studies")
        self.dicom_admission = Admission(options.dicom_queue_size, "studies as DICOM")
        # Sized so that these queues are never full: every admitted study, one that was cancelled while it ran and still
        # occupies the worker, and one batch of a dataset. Admissions and the queue of datasets reject excess calls.
        admitted = options.queue_size + options.dicom_queue_size
        self.device = WorkQueue(admitted + 2, "device")
        self.studies = WorkQueue(admitted + 1, "studies")
        self.datasets = WorkQueue(options.bulk_queue_size, "datasets")
        self.lists = Threads(_LISTS, "lists")
        self.dicom = Threads(options.dicom_readers, "dicom")
        self.dicom_slots = asyncio.Semaphore(options.dicom_readers)

    def close(self) -> None:
        """Cancels waiting work; running work finishes."""
        for queue in (self.datasets, self.studies, self.device):
            queue.close()
        for threads in (self.lists, self.dicom):
            threads.shutdown(wait=False, cancel_futures=True)
