"""`private/erasures.jsonl`: lists the erasures of this state folder, which are repeated after a restore.

Each line names the patient by a digest. Keep a copy outside of the backups: a restored folder has an older file.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from vfmalign.cli.private_files import write_private
from vfmalign.client.erasure import ErasingService, digest_identifier
from vfmalign.client.messages.erasure import Erasure, ModelPolicy, PatientDigest
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Id, Record


class LoggedErasure(Record):
    """The part of one service in an erasure: the erasure's id, the patient's digests, and what was done with models."""

    erasure_id: Id
    service: ErasingService
    patient: PatientDigest
    models: ModelPolicy

    @classmethod
    def of(cls, receipt: Erasure) -> LoggedErasure:
        """Returns the entry of a receipt."""
        service = next(one for one in get_args(ErasingService) if one == receipt.service)
        return cls(erasure_id=receipt.erasure_id, service=service, patient=receipt.patient, models=receipt.models)


class ErasureLog:
    """The file of a folder `private`."""

    def __init__(self, private: Path) -> None:
        self._path = private / "erasures.jsonl"

    def add(self, erasure: LoggedErasure) -> None:
        """Adds an entry, or replaces the entry of the same service: a repeated erasure may have found more data."""
        known = ErasureLog.read(self._path) if self._path.exists() else []
        if erasure not in known:
            key = erasure.erasure_id, erasure.service
            known = [one for one in known if (one.erasure_id, one.service) != key]
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._path, b"".join(one.to_json() + b"\n" for one in (*known, erasure)))

    def has(self, erasure_id: str) -> bool:
        """Returns whether the file has an erasure."""
        return self._path.exists() and any(one.erasure_id == erasure_id for one in ErasureLog.read(self._path))

    def find(self, group: str, models: ModelPolicy) -> str:
        """Returns the id of the last erasure of a patient with this choice for models; empty if no erasure exists."""
        if not group or not self._path.exists():
            return ""
        for one in reversed(ErasureLog.read(self._path)):
            if one.patient.hmac and (digest_identifier(one.patient.key, group), models) == (
                one.patient.hmac,
                one.models,
            ):
                return one.erasure_id
        return ""

    @classmethod
    def read(cls, path: Path) -> list[LoggedErasure]:
        """Reads the erasures of a file.

        Raises:
            BadOption: the file cannot be read, or is not a list of erasures.
        """
        try:
            lines = path.read_bytes().splitlines()
            return [LoggedErasure.model_validate_json(line) for line in lines]
        except OSError as error:
            raise BadOption(
                f"the file cannot be read ({error.strerror})", field=str(path), remedy="check its path"
            ) from None
        except ValidationError:
            raise BadOption(
                "the file is not a list of erasures", field=str(path), remedy="name a file private/erasures.jsonl"
            ) from None
