"""Worker threads of the feature service, which all tenants share."""

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
    """One thread owns the device, one reads and prepares studies, one runs dataset extractions, and two read lists.

    Extractions submit their batches to the device's thread, where they alternate with studies. DICOM studies have their
    own threads and gate, so that studies that wait for a PACS do not delay other calls.

    Attributes:
        device, studies, datasets: queues of the threads.
        lists: reads pages of objects, which is slow for datasets with many cases.
        dicom: reads studies as DICOM.
        dicom_slots: held while the voxels of a study are in memory, until it is prepared.
        gate, dicom_gate: admit studies that are sent as volumes (`gate`) or as DICOM (`dicom_gate`).
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
        """Cancels waiting work; running work finishes."""
        for gate in (self.gate, self.dicom_gate):
            gate.close()
        for queue in (self.datasets, self.studies, self.device):
            queue.close()
        for threads in (self.lists, self.dicom):
            threads.shutdown(wait=False, cancel_futures=True)
