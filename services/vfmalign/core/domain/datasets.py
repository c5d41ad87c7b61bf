"""Records of datasets: volumes, cases and splits."""

from __future__ import annotations

import hashlib
from typing import Literal

from vfmalign.core.domain.record import Id, Record, Sha256, canonical_json

Modality = Literal["t2w", "dwi", "adc"]
VolumeKind = Literal["t2w", "dwi", "adc", "gland", "lesions"]
Split = Literal["pretrain", "train", "val", "test"]
MODALITIES: tuple[Modality, ...] = ("t2w", "dwi", "adc")
SPLITS: tuple[Split, ...] = ("pretrain", "train", "val", "test")


class VolumeRef(Record):
    """Key and digest of a stored object, such as a volume."""

    key: str
    sha256: Sha256


class Case(Record):
    """One examination of one patient.

    Attributes:
        id: generated on import; never a file or folder name, which could identify the patient.
        group: generated id of the patient, which is the sampling unit.
        volumes: by kind; `gland` and `lesions` are label maps.
    """

    id: Id
    group: Id
    volumes: dict[VolumeKind, VolumeRef]


class DatasetManifest(Record):
    """Cases by split.

    Attributes:
        held_out: False where splits share cases on purpose, such as in a run with a single case.
        phantom: True where the cases are generated: results on them are a rehearsal, not evidence.
    """

    id: Id
    held_out: bool = True
    phantom: bool = False
    pretrain: tuple[Case, ...] = ()
    train: tuple[Case, ...] = ()
    val: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()

    def split(self, name: Split) -> tuple[Case, ...]:
        """Returns the cases of one split, in the order of the rows of every feature set."""
        cases: tuple[Case, ...] = getattr(self, name)
        return cases

    def digest(self) -> str:
        """Returns the SHA-256 of the canonical JSON, in hex.

        A false `phantom` is left out, so that datasets written before the field existed keep their digests.
        """
        content = self.model_dump(mode="json", exclude=set() if self.phantom else {"phantom"})
        return hashlib.sha256(canonical_json(content)).hexdigest()
