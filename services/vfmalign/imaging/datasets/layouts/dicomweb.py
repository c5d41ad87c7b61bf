"""Imports from a PACS.

While one study is read, the next study is downloaded. Series are chosen by the same rules as in imports of files.

The staging folder keeps only the volumes of each study. Memory and temporary files therefore do not grow with the
number of studies. A study that cannot be fetched becomes a case with a problem, and the import continues.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from vfmalign.core.domain.declarations import DatasetDeclaration, VolumeKind
from vfmalign.core.domain.errors import (
    BadDataset,
    BadPacsAnswer,
    PacsRefused,
    PacsUnavailable,
    StudyNotFound,
    StudyTooLarge,
    VfmalignError,
)
from vfmalign.core.domain.record import canonical_json
from vfmalign.core.formats.documents import pluralise
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.imaging.datasets.layouts.dicom import (
    Rules,
    StudyOutcome,
    describe_outcome,
    get_rules,
    list_volumes,
    to_dataset,
)
from vfmalign.imaging.datasets.layouts.sources import DicomOptions, SourceDataset, VolumeSource, describe_unreadable
from vfmalign.imaging.datasets.layouts.staging import StagedStudy, StagingFolder
from vfmalign.imaging.dicom.pacs.client import ByteProgress, FoundStudy, PacsClient
from vfmalign.imaging.dicom.pacs.downloads import get_file_name
from vfmalign.imaging.dicom.pacs.servers import PacsServer
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.sources import open_source
from vfmalign.imaging.volumes import encode

MAX_FAILURES = 3
"""Number of consecutive studies that cannot be fetched because the server is unavailable or rejects the credentials,
after which the import stops: repeated attempts may lock an account.
"""
_FORMAT = 2
"""Format version of a staging folder; folders of other versions are not read."""


@dataclass(frozen=True)
class PacsStudies:
    """Studies to import.

    Attributes:
        client: client of the server.
        query: conditions on the studies; see `PacsClient.find_studies`. Ignored if `study_uids` is set.
        study_uids: identifiers of the studies; empty to use the query.
    """

    client: PacsClient
    query: Mapping[str, str]
    study_uids: Sequence[str] = ()

    def list_studies(self, context: WorkContext = UNLIMITED) -> list[FoundStudy]:
        """Returns the studies, in order of identifier.

        Raises:
            BadDataset: no study matches.
        """
        named = (FoundStudy(uid, "") for uid in self.study_uids)
        studies = sorted(named if self.study_uids else self.client.find_studies(self.query, context))
        if not studies:
            raise BadDataset("no study matches the query", field="--query", remedy="check its keys and values")
        return studies


def make_staging_name(server: PacsServer, declaration: DatasetDeclaration | None, options: DicomOptions) -> str:
    """Returns the name of the staging folder. All imports from one server by the same rules share this folder."""
    rules = get_rules(declaration, options)
    selections = [selection.model_dump(mode="json") for selection in rules.selections]
    declared = rules.declaration.model_dump(mode="json")
    key = [_FORMAT, server.name, server.url, declared, selections, list(rules.allowed)]
    return hashlib.sha256(canonical_json(key)).hexdigest()[:16]


def read(
    studies: PacsStudies,
    declaration: DatasetDeclaration | None,
    options: DicomOptions,
    staging: StagingFolder,
) -> SourceDataset:
    """Finds the cases and reads their volumes into the staging folder, which must already be open.

    `options.progress` receives the stages `searching PACS NAME` and `download`, which count studies, and the stage
    `receive`, which counts bytes.

    Raises:
        BadOption: as in `get_rules`, or the staging folder is full or cannot be written.
        BadDataset: no study matches.
        PacsUnavailable, PacsRefused, BadPacsAnswer: the server cannot be searched, is unavailable or rejects the
            credentials.
    """
    rules = get_rules(declaration, options)
    ended = threading.Event()
    context = WorkContext(is_cancelled=ended.is_set)
    search = f"searching {studies.client.subject}"
    options.progress(search, 0, 0)
    found = studies.list_studies(context)
    options.progress(search, len(found), len(found))
    staged: list[StagedStudy] = []
    notes: Counter[str] = Counter()
    failures = 0
    reader = _PacsReader(studies.client, rules, staging, context, _count_bytes(options))
    with ThreadPoolExecutor(1, "download") as downloads:
        try:
            for done, (study, fetched) in enumerate(_fetch_ahead(reader, found, downloads), start=1):
                try:
                    number = 1 + sum(one.outcome is not None for one in staged)
                    read_study = reader.read(study, fetched.result(), number)
                    failures = 0
                    notes.update(read_study.notes)
                except (PacsUnavailable, PacsRefused, StudyNotFound, StudyTooLarge, BadPacsAnswer) as error:
                    failures = failures + 1 if _concerns_all(error) else 0
                    if failures == MAX_FAILURES:
                        _add_progress(error, sum(bool(study.listing) for study in staged), len(found), staging)
                        raise
                    read_study = _to_unfetched(study, error)
                staged.append(read_study)
                options.progress("download", done, len(found))
        except OSError as error:
            raise BadDataset(
                f"the staging folder {describe_unreadable(error)}",
                subject="--home",
                remedy="free space for it, or allow this account to write it; a repeated import continues",
            ) from None
        finally:
            ended.set()
    return _to_dataset(rules, staged, staging, notes)


@dataclass(frozen=True)
class _PacsReader:
    """Fetches studies in one thread, and reads them in another."""

    client: PacsClient
    rules: Rules
    staging: StagingFolder
    context: WorkContext
    received: ByteProgress

    def fetch(self, study: FoundStudy) -> str:
        """Downloads a study's instances unless they are already staged.

        Returns a digest of the server's list of instances.
        """
        instances = self.client.list_instances(study.study_uid, (), self.context)
        listing = hashlib.sha256(canonical_json(instances)).hexdigest()
        if self.staging.read(study.study_uid, listing) is None:
            folder = self.staging.get_download_folder(study.study_uid)
            self.client.download(study.study_uid, instances, folder, self.context, self.received)
            names = {get_file_name(instance.instance_uid) for instance in instances}
            for file in folder.iterdir():
                if file.name not in names:  # from an earlier import; no longer on the server
                    file.unlink()
        return listing

    def read(self, study: FoundStudy, listing: str, number: int) -> StagedStudy:
        """Reads a fetched study and stages its volumes, unless it is already staged."""
        staged = self.staging.read(study.study_uid, listing)
        chosen = self.rules.choices.get(number, {})
        if staged is not None and staged.outcome is not None and staged.outcome.chosen != chosen:
            self.staging.forget([study.study_uid])
            listing, staged = self.fetch(study), None
        if staged is None:
            staged = self._read_instances(study, listing, number)
            self.staging.write(study.study_uid, staged)
        return staged

    def _read_instances(self, found: FoundStudy, listing: str, number: int) -> StagedStudy:
        with closing(open_source(self.staging.get_download_folder(found.study_uid))) as source:
            examinations = scan(source, self.rules.allowed)
            studies = list(examinations.studies)
            if any(study.uid != found.study_uid for study in studies):
                self.staging.discard_instances(found.study_uid)
                raise self.client.to_bad_answer("images of a study that was not requested")
            count = pluralise(len(examinations.unusable), "instance")
            damaged = [f"{count} of the study: {file.problem}" for file in examinations.unusable[:1]]
            if not studies:
                patient = found.patient or found.study_uid
                outcome = StudyOutcome(study_uid=found.study_uid, patient=patient, problems=tuple(damaged))
                return StagedStudy(listing=listing, outcome=outcome if damaged else None, notes=examinations.notes)
            (study,) = studies
            choice = self.rules.choose(study, number)
            outcome = describe_outcome(study, choice, self.rules, number)
            problems = [*outcome.problems, *damaged]
            if not problems:
                problems += self._stage_volumes(
                    found.study_uid, list_volumes(source, choice, self.rules.declaration.units)
                )
        return StagedStudy(
            listing=listing,
            outcome=outcome.model_copy(update={"problems": tuple(problems)}),
            series={series.uid: series.label for series in study.series},
            notes=examinations.notes,
        )

    def _stage_volumes(self, study_uid: str, sources: Mapping[VolumeKind, VolumeSource]) -> list[str]:
        """Writes volumes in the encoding of datasets, one by one; returns the problem of the first unusable volume."""
        for kind, source in sorted(sources.items()):
            try:
                volume = source.read("case", [kind], self.rules.declaration.label_names)[kind]
            except VfmalignError as error:
                return [f"{kind}: {error.message}; {error.remedy}"]
            self.staging.write_volume(study_uid, kind, encode(volume))
        return []


def _fetch_ahead(
    reader: _PacsReader, studies: Sequence[FoundStudy], downloads: ThreadPoolExecutor
) -> Iterator[tuple[FoundStudy, Future[str]]]:
    """Yields each study when the download of the next one has started."""
    ahead = downloads.submit(reader.fetch, studies[0])
    for index, study in enumerate(studies):
        fetched = ahead
        if index + 1 < len(studies):
            ahead = downloads.submit(reader.fetch, studies[index + 1])
        yield study, fetched


def _count_bytes(options: DicomOptions) -> ByteProgress:
    received = 0

    def count(size_bytes: int) -> None:
        nonlocal received
        received += size_bytes
        options.progress("receive", received, 0)

    return count


def _concerns_all(error: VfmalignError) -> bool:
    """Whether the error prevents fetching other studies as well."""
    return isinstance(error, PacsUnavailable) or (isinstance(error, PacsRefused) and not error.may_permit_others)


def _add_progress(error: VfmalignError, count: int, total: int, staging: StagingFolder) -> None:
    """Adds the progress to the remedy of an import that stops, if a repeated import continues from there."""
    if staging.is_kept:
        error.remedy += f"; {count} of {total} studies are staged, and the same command continues with the others"


def _to_unfetched(study: FoundStudy, error: VfmalignError) -> StagedStudy:
    problem = f"{error.subject}: {error.message}; {error.remedy}"
    patient = study.patient or study.study_uid
    return StagedStudy(
        listing="", outcome=StudyOutcome(study_uid=study.study_uid, patient=patient, problems=(problem,))
    )


def _to_dataset(
    rules: Rules, studies: Sequence[StagedStudy], staging: StagingFolder, counted: Mapping[str, int]
) -> SourceDataset:
    owners = Counter(uid for study in studies for uid in study.series)
    outcomes: list[StudyOutcome] = []
    for study in studies:
        if study.outcome is not None:
            shared = [
                f"{label} has images of other studies as well; export the study again"
                for uid, label in study.series.items()
                if owners[uid] > 1
            ]
            outcomes.append(study.outcome.model_copy(update={"problems": (*shared, *study.outcome.problems)}))
    notes = [text if count == 1 else f"{text}, in {count} studies" for text, count in sorted(counted.items())]
    if empty := len(studies) - len(outcomes):
        notes.append(f"left out: {pluralise(empty, 'examination')} without images")
    return to_dataset(rules, outcomes, [staging.list_files(outcome) for outcome in outcomes], notes)
