"""Receipts of one service's erasures, which also mark the erased patients.

A receipt is stored below `erasures/<service>/` before anything is removed. The receipt contains all data that an
interrupted erasure needs to continue. A mark below `running/` exists until the erasure is complete. The receipt
identifies the patient by an HMAC of the group. A service reuses the key of its earlier HMACs. A search for erased
patients therefore computes few HMACs: one per patient and key.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

from vfmalign.client.erasure import ErasingService, digest_identifier
from vfmalign.client.messages.erasure import ErasedDataset, ErasedObject, ErasePatientRequest, Erasure, PatientDigest
from vfmalign.core.domain.errors import BadOption, Conflict, NotFound, Unavailable, VfmalignError
from vfmalign.core.domain.record import Sha256
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.deletion import Deleted, keep_sweeping
from vfmalign.core.storage.keys import erasures_prefix
from vfmalign.core.storage.store.object_store import ObjectStore

_PARALLEL_REQUESTS = 8
_RESUME_PAUSE_S = 60.0
_SAVE_ATTEMPTS = 20
_log = logs.get(__name__)


@dataclass(frozen=True)
class StoredErasure:
    """A receipt, and functions that recognise its patient."""

    receipt: Erasure

    @property
    def identifiers(self) -> tuple[Sha256, ...]:
        """HMACs of further identifiers of the patient: digests of volumes, or ids of observations."""
        return self.receipt.patient.identifiers

    def matches(self, group: str) -> bool:
        """Returns whether a group is the patient's group."""
        patient = self.receipt.patient
        return bool(patient.key) and digest_identifier(patient.key, group) == patient.hmac

    def has_identifier(self, identifier: str) -> bool:
        """Returns whether an identifier is one of the patient's further identifiers."""
        return bool(self._known) and digest_identifier(self.receipt.patient.key, identifier) in self._known

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.identifiers)

    def digest_all(self, identifiers: Iterable[str]) -> tuple[Sha256, ...]:
        """Returns the HMACs of identifiers, in the form of `identifiers`."""
        return tuple(sorted({digest_identifier(self.receipt.patient.key, one) for one in identifiers}))

    def ended(self, complete_time: datetime | None) -> StoredErasure:
        """Returns the erasure with another time of completion; None marks the erasure as not complete."""
        return StoredErasure(self.receipt.model_copy(update={"complete_time": complete_time}))

    def is_of(self, other: StoredErasure, group: str) -> bool:
        """Returns whether another erasure has the same patient, by the group or by the digest with the same key."""
        mine, others = self.receipt.patient, other.receipt.patient
        return (bool(group) and other.matches(group)) or (
            bool(mine.hmac) and (mine.key, mine.hmac) == (others.key, others.hmac)
        )

    def joined(self, plan: Plan) -> StoredErasure:
        """Returns the erasure with the objects, datasets and identifiers of a plan added.

        The count and size of an object from an earlier plan stay the same, because a later plan measures only the rest
        of the object. If the erasure was complete, the object was stored again later. The plan's numbers are then added
        to the earlier numbers.
        """
        objects = {(one.kind, one.id): one for one in self.receipt.objects}
        for one in plan.objects:
            known = objects.get((one.kind, one.id))
            if known is None or "kept" in {known.outcome, one.outcome}:
                objects[one.kind, one.id] = one
            elif self.receipt.complete_time is not None:
                numbers = {"count": known.count + one.count, "size_bytes": known.size_bytes + one.size_bytes}
                objects[one.kind, one.id] = known.model_copy(update=numbers)
        datasets = dict.fromkeys((*self.receipt.datasets, *plan.datasets))
        patient = self.receipt.patient
        identifiers = tuple(sorted({*patient.identifiers, *plan.identifiers}))
        changes = {
            "patient": patient.model_copy(update={"identifiers": identifiers}),
            "objects": tuple(objects.values()),
            "datasets": tuple(datasets),
        }
        return StoredErasure(self.receipt.model_copy(update=changes))


@dataclass(frozen=True)
class Plan:
    """Objects that an erasure would remove now.

    Attributes:
        objects: entries of the receipt.
        datasets: versions of datasets that contain the patient.
        identifiers: HMACs of further identifiers; see `StoredErasure`.
    """

    objects: Sequence[ErasedObject] = ()
    datasets: Sequence[ErasedDataset] = ()
    identifiers: Sequence[Sha256] = ()


class Eraser(Protocol):
    """Finds and removes all that one service stores about a patient. Both methods may be repeated at any time."""

    def plan(self, erasure: StoredErasure) -> Plan:
        """Returns the objects that `remove` would remove now. Changes nothing."""
        ...

    def remove(self, erasure: StoredErasure) -> bool:
        """Removes the planned objects. Returns True if all are removed, and False if some must be removed later."""
        ...


@dataclass
class Erasures:
    """Erasures of one tenant in one service.

    Attributes:
        store: objects of the tenant.
        service: the service.
        eraser: finds and removes the patient's data in the service.
        identify: returns the further identifiers that belong to a group; see `StoredErasure`.
    """

    store: ObjectStore
    service: ErasingService
    eraser: Eraser
    identify: Callable[[str], tuple[str, ...]] = lambda group: ()
    _sweep: asyncio.Task[None] | None = field(default=None, init=False)

    def start(self) -> None:
        """Starts a task that continues interrupted erasures, at once and then every minute."""
        self._sweep = asyncio.create_task(self.keep_resuming())

    def close(self) -> None:
        """Ends what `start` began."""
        if self._sweep is not None:
            self._sweep.cancel()

    def erase(self, request: ErasePatientRequest, requested_by: str) -> Erasure:
        """Erases a patient, or continues the erasure with this id. Returns the receipt.

        Args:
            request: the request.
            requested_by: who calls.

        Raises:
            BadOption: the request names no patient, or names the patient in two ways or in part.
            Conflict: the id belongs to the erasure of another patient.
        """
        _check_names_patient(request)
        known = self._find(request.erasure_id)
        erasure = self._create(request, requested_by) if known is None else known
        if known is not None and not _is_continued_by(known, request):
            raise Conflict(
                "the erasure has another patient or another choice for models",
                subject=f"erasure {request.erasure_id}",
                remedy="choose another erasure id, or repeat the same request",
            )
        identifiers = (*request.observation_ids, *(self.identify(request.group) if request.group else ()))
        digests = (*request.patient.identifiers, *erasure.digest_all(identifiers))
        erasure = erasure.joined(Plan(datasets=request.datasets, identifiers=digests))
        for other in self.list():  # of a call that its caller has not seen end, or of another choice for models
            if erasure.is_of(other, request.group):
                erasure = erasure.joined(Plan(datasets=other.receipt.datasets))
        if request.dry_run:
            return erasure.joined(self.eraser.plan(erasure)).receipt
        return self.carry_out(erasure)

    def get(self, erasure_id: str) -> Erasure:
        """Returns the receipt of an erasure.

        Raises:
            NotFound: the service has none of this id.
        """
        erasure = self._find(erasure_id)
        if erasure is None:
            raise NotFound(
                f"{self.service} has no such erasure",
                subject=f"erasure {erasure_id}",
                remedy="check the id; private/erasures.jsonl lists the erasures of `vfmalign erase`",
            )
        return erasure.receipt

    def resume(self) -> Deleted:
        """Continues all incomplete erasures. Returns empty counts, because the eraser counts the deleted objects."""
        running, failures = self._get_mark(""), []
        for key in self.store.list(running):
            try:
                if (erasure := self._find(key.removeprefix(running))) is not None:
                    self.carry_out(erasure)
            except VfmalignError as error:  # the others go on
                failures.append(error)
        if failures:
            raise failures[0]
        return Deleted()

    async def keep_resuming(self) -> None:
        """Continues interrupted erasures, at once and then every minute, until the task is cancelled."""
        await keep_sweeping(self.store, "erasures", self.resume, _RESUME_PAUSE_S)

    def list(self) -> list[StoredErasure]:
        """Returns all erasures."""
        with Threads(_PARALLEL_REQUESTS, "erasures") as threads:
            keys = self.store.list(erasures_prefix(self.service))
            return list(threads.map(self._read, [key for key in keys if not key.startswith(self._get_mark(""))]))

    def carry_out(self, erasure: StoredErasure) -> Erasure:
        """Plans an erasure, stores the receipt, removes the planned objects, and returns the receipt."""
        mark = self._get_mark(erasure.receipt.erasure_id)
        self.store.put(mark, b"")
        known = self._find(erasure.receipt.erasure_id)
        self._save(erasure)  # a plan may take minutes, and the process may end meanwhile
        plan = self.eraser.plan(erasure)
        erasure = erasure.joined(plan)
        if any(one.outcome != "kept" for one in plan.objects):
            erasure = erasure.ended(None)
        erasure = self._save(erasure)
        self.store.put(mark, b"")  # another process may have completed the erasure meanwhile
        is_complete = self.eraser.remove(erasure)
        complete_time = datetime.now(UTC) if is_complete else None
        if is_complete and known is not None and known.receipt.objects == erasure.receipt.objects:
            complete_time = known.receipt.complete_time or complete_time  # a repeated call found nothing new
        saved = self._save(erasure.ended(complete_time))
        if saved.receipt.complete_time is not None:
            self.store.delete(mark)
        else:
            self.store.put(mark, b"")
        _log.info("erased", id=saved.receipt.erasure_id, complete=is_complete, objects=len(saved.receipt.objects))
        return saved.receipt

    def _create(self, request: ErasePatientRequest, requested_by: str) -> StoredErasure:
        patient = request.patient
        if not patient.key:
            keys = (erasure.receipt.patient.key for erasure in self.list())
            key = next(keys, "") or secrets.token_hex(32)
            patient = PatientDigest(key=key, hmac=digest_identifier(key, request.group) if request.group else "")
        receipt = Erasure(
            erasure_id=request.erasure_id,
            service=self.service,
            patient=patient,
            models=request.models,
            requested_by=requested_by,
            create_time=datetime.now(UTC),
        )
        return StoredErasure(receipt)

    def _find(self, erasure_id: str) -> StoredErasure | None:
        with suppress(NotFound):
            return self._read(self._key(erasure_id))
        return None

    def _read(self, key: str) -> StoredErasure:
        return StoredErasure(self.store.read(key, Erasure))

    def _save(self, erasure: StoredErasure) -> StoredErasure:
        """Stores a receipt, merged with the additions of other processes, and returns the merged receipt.

        If another process has added a dataset meanwhile, the erasure is not complete.
        """
        key = self._key(erasure.receipt.erasure_id)
        for _ in range(_SAVE_ATTEMPTS):
            etag = self.store.get_etag(key)
            if etag is None:
                if self.store.put_if_absent(key, erasure.receipt.to_json()):
                    return erasure
                continue
            stored = self._read(key)
            both = erasure.joined(Plan(datasets=stored.receipt.datasets, identifiers=stored.identifiers))
            has_more = len(both.receipt.datasets) > len(erasure.receipt.datasets)
            erasure = both.ended(None) if has_more else both
            if self.store.replace(key, etag, erasure.receipt.to_json()):
                return erasure
        raise Unavailable("its receipt changes continuously", subject=key, remedy="try again")

    def _get_mark(self, erasure_id: str) -> str:
        return f"{erasures_prefix(self.service)}running/{erasure_id}"

    def _key(self, erasure_id: str) -> str:
        return f"{erasures_prefix(self.service)}{erasure_id}.json"


def _check_names_patient(request: ErasePatientRequest) -> None:
    patient = request.patient
    has_digest = bool(patient.key and (patient.hmac or patient.identifiers))
    if has_digest != bool(patient.key or patient.hmac or patient.identifiers) or (has_digest and request.group):
        raise BadOption(
            "the patient is named in two ways, or in part",
            field="patient",
            remedy="set `group`, or both fields of `patient`",
        )
    if not (request.group or has_digest or request.observation_ids):
        raise BadOption("no patient is named", field="group", remedy="set `group`, `patient` or `observation_ids`")


def _is_continued_by(erasure: StoredErasure, request: ErasePatientRequest) -> bool:
    receipt = erasure.receipt
    if request.models != receipt.models:
        return False
    if request.group:
        return erasure.matches(request.group)
    return request.patient.hmac in {"", receipt.patient.hmac}
