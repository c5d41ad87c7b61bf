"""Import of a dataset from disk under pseudonyms. These steps run on the client before the upload.

Volumes are decoded, checked and encoded again. All text fields of their headers are removed. Nothing is uploaded until
every case has passed validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vfmalign.core.domain.datasets import SPLITS, DatasetManifest
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.field_of_view import CaseInside
from vfmalign.imaging.datasets.discovery import DiscoveredDataset, ImportOptions, discover
from vfmalign.imaging.datasets.identities import add_to_mapping
from vfmalign.imaging.datasets.layouts.sources import ProgressCallback, ignore_progress
from vfmalign.imaging.datasets.preparation import prepare, read_volumes
from vfmalign.imaging.datasets.problems import UnusableCases
from vfmalign.imaging.volumes import encode


@dataclass(frozen=True)
class DatasetToImport:
    """A checked dataset on disk.

    Attributes:
        dataset: manifest to store.
        discovered: cases of the dataset, with patients' names.
        notes, inside: see `preparation.PreparedDataset`.
    """

    dataset: DatasetManifest
    discovered: DiscoveredDataset
    notes: tuple[str, ...]
    inside: tuple[CaseInside, ...] = ()

    def encode_cases(self) -> Iterator[list[bytes]]:
        """Reads the files again and yields the volumes of each case in their stored form.

        Raises:
            BadDataset: a file has changed since it was checked.
        """
        cases = (case for name in SPLITS for case in self.dataset.split(name))
        expected = {(case.id, kind): ref.sha256 for case in cases for kind, ref in case.volumes.items()}
        for case in self.discovered.cases:
            volumes = []
            for kind, volume in read_volumes(case, self.dataset.declaration).items():
                volumes.append(encode(volume))
                if hashlib.sha256(volumes[-1]).hexdigest() != expected[case.id, kind]:
                    raise BadDataset(
                        "a file changed during the import", subject=f"{case.id}/{kind}", remedy="run the import again"
                    )
            yield volumes


def prepare_import(
    path: Path,
    dataset_id: str,
    options: ImportOptions | None = None,
    *,
    mapping_path: Path,
    salt: bytes,
    progress: ProgressCallback | None = None,
) -> DatasetToImport:
    """Reads and checks a dataset in a folder, a CSV file or a zip of DICOM files.

    Args:
        path: see `layouts.LAYOUTS`.
        dataset_id: id of the new dataset.
        options: layout, declaration, splits and patients.
        mapping_path: local file that maps ids to patients (mode 0600). Rows are added to it.
        salt: this machine's secret; see `identities.load_salt`.
        progress: called after every scanned DICOM file and after every case.

    Returns:
        The dataset. If there is only one patient, the splits train, val and test contain the same cases, and no case is
        held out.

    Raises:
        UnusableCases: cases cannot be used.
        BadDataset: no case can be found, or the splits cannot be made.
    """
    chosen = options or ImportOptions()
    discovered = discover(path, dataset_id, salt, chosen, progress or ignore_progress)
    return prepare_discovered(discovered, dataset_id, chosen, mapping_path=mapping_path, progress=progress)


def prepare_discovered(
    discovered: DiscoveredDataset,
    dataset_id: str,
    options: ImportOptions,
    *,
    mapping_path: Path,
    progress: ProgressCallback | None = None,
) -> DatasetToImport:
    """Reads and checks cases that have already been discovered; see `prepare_import`."""
    cases = (*discovered.cases, *discovered.left_out)
    rows = [(dataset_id, case.id, case.group, case.source.name, case.patient) for case in cases]
    # Written before validation, because problems name cases by id and the user looks up the folder in this file.
    add_to_mapping(mapping_path, rows)
    prepared = prepare(discovered, dataset_id, options, progress or ignore_progress)
    if prepared.problems:
        raise UnusableCases(dataset_id, prepared.problems)
    used = tuple(case for case in discovered.cases if case.id not in prepared.dataset.curation.unusable)
    return DatasetToImport(prepared.dataset, replace(discovered, cases=used), prepared.notes, prepared.inside)
