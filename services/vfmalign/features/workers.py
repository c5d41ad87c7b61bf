"""Worker threads of the feature service, which all tenants share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_queue import WorkQueue
from vfmalign.features.settings import FeaturesOptions

_LISTS = 2
"""Lists that are read at the same time; each holds one dataset with its cases in memory."""


class Workers:
    """One thread owns the device, one reads and prepares studies, one runs dataset extractions, and two read lists.

    Extractions submit their batches to the device's thread, where they alternate with studies.

    Attributes:
        device, studies, datasets: queues of the threads.
        lists: reads pages of objects, which takes a while where datasets have many cases.
    """

    def __init__(self, options: FeaturesOptions) -> None:
        self._most = options.queue_size
        self._admitted = 0
        # Sized so that these queues are never full: every admitted study, one that was cancelled while it ran and still
        # occupies the worker, and one batch of a dataset. `admit` and the queue of datasets reject excess calls.
        self.device = WorkQueue(options.queue_size + 2, "device")
        self.studies = WorkQueue(options.queue_size + 1, "studies")
        self.datasets = WorkQueue(options.bulk_queue_size, "datasets")
        self.lists = Threads(_LISTS, "lists")

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admits a study for the whole call.

        Raises:
            Exhausted: too many are running or waiting.
        """
        if self._admitted >= self._most:
            raise Exhausted(
                f"{self._admitted} studies are being processed already",
                subject="Extract",
                remedy="repeat the call later",
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def close(self) -> None:
        """Cancels waiting work; running work finishes."""
        for queue in (self.datasets, self.studies, self.device):
            queue.close()
        self.lists.shutdown(wait=False, cancel_futures=True)
