"""Erasures of patients in this service, and the checks that reject data of erased patients."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.storage.datasets import list_datasets, load_dataset
from vfmalign.core.storage.deletion import Deleted, delete_below, keep_sweeping
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.erasure.receipts import Erasures
from vfmalign.features.deletion import PREFIXES
from vfmalign.features.eraser import FeaturesEraser, list_cases, remove_unused_volumes


class FeaturesErasures(Erasures):
    """Erasures in this service. Also finds erased patients whom an interrupted publication has stored again."""

    def start(self) -> None:
        """Starts tasks that continue interrupted erasures and, every hour, look for erased patients in all datasets."""

        async def run() -> None:
            again = keep_sweeping(self.store, "erased patients", self.look_again)
            await asyncio.gather(self.keep_resuming(), again)

        self._sweep = asyncio.create_task(run())

    def look_again(self) -> Deleted:
        """Erases patients again if an interrupted publication has stored them in a dataset."""
        erasures = self.list()
        for name in list_datasets(self.store) if erasures else ():
            with suppress(NotFound, PreconditionFailed):
                dataset = load_dataset(self.store, name)
                for erasure in erasures:
                    if list_cases(dataset, erasure):
                        self.carry_out(erasure)
        return Deleted()


def make_erasures(store: ObjectStore) -> Erasures:
    """Returns the erasures of a tenant in this service."""
    return FeaturesErasures(store, "features", FeaturesEraser(store))


def check_not_erased(erasures: Erasures, dataset: DatasetManifest) -> None:
    """Checks that a dataset contains neither erased patients nor files of erased patients.

    Raises:
        PreconditionFailed: it has.
    """
    cases = {case.id: case for split in SPLITS for case in dataset.split(split)}.values()
    for erasure in erasures.list():
        erased = {case.id for case in list_cases(dataset, erasure)}
        erased |= {
            case.id
            for case in (cases if erasure.identifiers else ())
            if any(erasure.has_identifier(ref.sha256) for ref in dataset.images(case).values())
        }
        if erased:
            subject = f"dataset {dataset.id}: {', '.join(sorted(erased)[:3])}"
            raise erased_patient(subject, f"erasure {erasure.receipt.erasure_id}")


def discard(store: ObjectStore, dataset: DatasetManifest, *, is_new: bool) -> None:
    """Removes the objects that a publication has stored for a dataset with an erased patient.

    Args:
        store: objects of the tenant.
        dataset: the dataset as it was uploaded.
        is_new: whether this publication has created the dataset. If False, the publication has only restored volumes,
            and the erasure replaces the dataset.
    """
    try:
        is_own = is_new and load_dataset(store, dataset.id).digest() == dataset.digest()
    except NotFound:
        is_own = True
    if is_own:
        delete_below(store, PREFIXES["datasets"](dataset.id))
    else:
        remove_unused_volumes(store, dataset.id)


def check_group_not_erased(erasures: Erasures, group: str, subject: str) -> None:
    """Checks that a patient was not erased.

    Raises:
        PreconditionFailed: the patient was.
    """
    for erasure in erasures.list():
        if erasure.matches(group):
            raise erased_patient(subject, f"erasure {erasure.receipt.erasure_id}")


def erased_patient(subject: str, erasure: str) -> PreconditionFailed:
    """Returns the error for data of an erased patient."""
    return PreconditionFailed(
        f"it contains a patient who was erased ({erasure})",
        subject=subject,
        remedy="leave this patient out; for an import, private/mapping.csv in its folder .vfmalign names each case",
        reason="ERASED_PATIENT",
    )
