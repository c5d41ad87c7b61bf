"""Records of datasets: volumes, cases and splits."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from vfmalign.core.domain.declarations import DatasetDeclaration, Modality, VolumeKind, get_declaration
from vfmalign.core.domain.record import Id, Record, Sha256, canonical_json

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
        volumes: by the id of the modality or label map.
        classes: whether the case belongs to a class, by the class's id; without those that derive from a label map.
        numbers: numbers of the case, such as an age in years, by id.
        strata: how the case was acquired, such as `scanner`, `field_strength` or `site`, by id.
    """

    id: Id
    group: Id
    volumes: dict[VolumeKind, VolumeRef]
    classes: dict[VolumeKind, bool] = Field(default_factory=dict)
    numbers: dict[VolumeKind, float] = Field(default_factory=dict)
    strata: dict[VolumeKind, str] = Field(default_factory=dict)


class DatasetManifest(Record):
    """Cases by split.

    Attributes:
        declaration: what the cases hold; prostate mpMRI in datasets that were written without one.
        held_out: False where splits share cases on purpose, such as in a run with a single case.
        phantom: True where the cases are generated: results on them are a rehearsal, not evidence.
    """

    id: Id
    held_out: bool = True
    phantom: bool = False
    declaration: DatasetDeclaration = Field(default_factory=lambda: get_declaration("prostate_mpmri"))
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

        What earlier datasets lack is left out, so that they keep their digests: a false `phantom`, the declaration of
        prostate mpMRI, and empty classes, numbers and strata of cases.
        """
        content = self.model_dump(mode="json", exclude=set() if self.phantom else {"phantom"})
        if self.declaration == get_declaration("prostate_mpmri"):
            del content["declaration"]
        for case in (case for split in SPLITS for case in content[split]):
            for name in ("classes", "numbers", "strata"):
                if not case[name]:
                    del case[name]
        return hashlib.sha256(canonical_json(content)).hexdigest()
