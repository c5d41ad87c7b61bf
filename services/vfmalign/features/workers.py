"""Worker threads of the feature service. All tenants share them."""

from __future__ import annotations

import asyncio

from vfmalign.core.runtime.fair_gate import FairGate
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.features.settings import FeaturesOptions

_STUDY_THREADS = 2
"""Threads per study: one prepares it, the other runs the encoder."""
_LISTS = 2
"""Maximum number of lists that are read at once; each has one dataset with its cases in memory."""


class Workers:
    """Worker threads of the feature service.

    One thread runs the encoder on the device, one reads and prepares studies, one runs dataset extractions, and two
    read lists. Extractions submit their batches to the device's thread, which alternates between batches and studies.
    DICOM studies have their own threads and gate, so that a slow PACS does not delay other calls.

    Attributes:
        device, studies, datasets: work queues of the three threads with these tasks.
        lists: threads that read pages of objects; reading is slow for datasets with many cases.
        dicom: threads that read DICOM studies.
        dicom_slots: limits how many DICOM studies can have unprepared voxels in memory at once.
        gate, dicom_gate: limits on the number of admitted studies: `gate` for volumes, `dicom_gate` for DICOM.
    """

    def __init__(self, options: FeaturesOptions) -> None:
        self.gate = FairGate(_STUDY_THREADS + 1, options.queue_size, "extract")
        self.dicom_gate = FairGate(options.dicom_readers + 1, options.dicom_queue_size, "extract-dicom")
        # Sized so that these queues are never full: all admitted studies, one cancelled study that still occupies the
        # worker, and one batch of a dataset. The gates and the queue of datasets reject excess calls.
        admitted = options.queue_size + options.dicom_queue_size
        self.device = WorkQueue(admitted + 2, "device")
        self.studies = WorkQueue(admitted + 1, "studies")
        self.datasets = WorkQueue(options.bulk_queue_size, "datasets")
        self.lists = Threads(_LISTS, "lists")
        self.dicom = Threads(options.dicom_readers, "dicom")
        self.dicom_slots = asyncio.Semaphore(options.dicom_readers)

    def close(self) -> None:
        """Cancels queued work. Running work still finishes."""
        for gate in (self.gate, self.dicom_gate):
            gate.close()
        for queue in (self.datasets, self.studies, self.device):
            queue.close()
        for threads in (self.lists, self.dicom):
            threads.shutdown(wait=False, cancel_futures=True)
