"""Reads one DICOM study as NIfTI volumes. An import with the same rules would store the same volumes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from vfmalign.client.messages.features import PacsReference
from vfmalign.core.domain.datasets import TakenSeries
from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.errors import BadDataset, BadPacsAnswer, BadVolume, InvalidInput
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import WorkContext, work_within
from vfmalign.features.extraction.study import Source
from vfmalign.imaging.datasets.layouts.derivation import DeclarationFile
from vfmalign.imaging.datasets.layouts.dicom import Rules, describe_outcome, list_volumes
from vfmalign.imaging.dicom.examinations import Study
from vfmalign.imaging.dicom.scanning import scan
from vfmalign.imaging.dicom.selection import Choice, choose
from vfmalign.imaging.dicom.sources import DicomSource, OversizedZip
from vfmalign.imaging.dicom.strata import get_b_values
from vfmalign.imaging.volumes import check_study_size, encode

FIELD = "study.dicom"
_ZIP_AGAIN = "zip the DICOM files of the study, without a password, and upload the zip"


class ReadStudy(NamedTuple):
    """Volumes and metadata of a study.

    Attributes:
        sources: volumes and gland mask, as NIfTI bytes.
        series: series from which the modalities were read.
        b_values: maps strata to b-values; see `strata.get_b_values`.
    """

    sources: list[Source]
    series: tuple[TakenSeries, ...]
    b_values: Mapping[VolumeKind, str]


class InlineSource:
    """DICOM files from a message; see `DicomSource`."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = {f"{number:05d}": content for number, content in enumerate(contents, start=1)}
        self.files: Sequence[str] = list(self._contents)
        self.notes: tuple[str, ...] = ()

    def open(self, name: str) -> BinaryIO:
        """See `DicomSource`."""
        return io.BytesIO(self._contents[name])

    def close(self) -> None:
        """See `DicomSource`."""


def read_study(
    source: DicomSource,
    rules: DeclarationFile,
    kinds: Sequence[VolumeKind],
    stages: Stages,
    context: WorkContext,
    *,
    expected: PacsReference | None = None,
) -> ReadStudy:
    """Reads the volumes of a study.

    Args:
        source: files of the study.
        rules: rules that select the series of each modality.
        kinds: modalities and label maps to read.
        stages: records the time of each stage in seconds.
        context: checked after every file and before every frame.
        expected: study that was requested from a PACS; None if the files have another source.

    Raises:
        BadVolume: the files do not belong to exactly one study, or a volume cannot be chosen or read, or the volumes
            together are too large.
        BadPacsAnswer: the PACS sent the files of another study.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    with about_study(), work_within(context):
        with stages.stage("scan"):
            study = _scan(source, context)
            if expected is not None and study.uid != expected.study_uid:
                raise BadPacsAnswer(
                    "it answers with images of another study",
                    subject=f"PACS {expected.server}",
                    remedy="ask the operator of the PACS",
                )
            choice = _choose(study, rules, kinds)
        files, volumes, sizes_bytes = list_volumes(source, choice, rules.declaration.units), [], []
        for kind in kinds:
            with stages.stage("decode_dicom"):
                volume = files[kind].read(FIELD, [kind], rules.declaration.label_names)[kind]
            sizes_bytes.append(volume.size_bytes)
            check_study_size(sizes_bytes, FIELD)
            # Encoded as in an import, with less compression: features must not depend on how a study arrives.
            unit = rules.declaration.units.get(kind, "")
            volumes.append(Source(kind, FIELD, encode(volume, level=0), unit))
        outcome = describe_outcome(study, choice, Rules(*rules, allowed=(), is_default=False))
        series = tuple(taken for taken in outcome.series if taken.modality in kinds)
        return ReadStudy(volumes, series, get_b_values(outcome.classes, kinds))


def _scan(source: DicomSource, context: WorkContext) -> Study:
    """Returns the study that the files contain."""
    examinations = scan(source, progress=lambda stage, done, total: context.checkpoint())
    if examinations.unusable:
        unusable = examinations.unusable[0]
        raise _refuse(f"{unusable.place}: {unusable.problem}")
    if len(examinations.studies) != 1:
        count, notes = len(examinations.studies), "; ".join(examinations.notes)
        raise BadVolume(
            f"expected the images of one study, got {count}" + (f" ({notes})" if notes else ""),
            remedy="send the DICOM files of one examination",
        )
    (study,) = examinations.studies
    if study.problems:
        raise _refuse(study.problems[0])
    return study


def _choose(study: Study, rules: DeclarationFile, kinds: Sequence[VolumeKind]) -> Choice:
    """Returns the volumes that an import would choose; raises for problems of the needed volumes only."""
    names = {*kinds}
    if not names.issubset(rules.declaration.modalities):
        names.add(rules.declaration.modalities[0])  # label maps are aligned with it
    read = [selection for selection in rules.selections if selection.name in names]
    if problems := choose(study, rules.declaration, read).problems:
        raise _refuse(problems[0])
    choice = choose(study, *rules)  # choose all volumes, because a label map may be on the grid of another image
    for kind in kinds:
        if kind not in choice.stacks and kind not in choice.label_maps:
            raise BadVolume(
                f"the study has no segmentation that matches the rules for {kind}",
                remedy="send the segmentation with the images, or choose a model that does not need it",
            )
    return choice


def _refuse(problem: str) -> BadVolume:
    """Returns the error for a problem in the form of imports: the cause, a semicolon, and the remedy."""
    cause, _, remedy = problem.rpartition("; ")
    return BadVolume(cause or remedy, remedy=remedy if cause else "export the study again")


@contextmanager
def about_study() -> Iterator[None]:
    """Adds the field of the request to errors. Raises BadVolume if the zip file is unusable."""
    try:
        yield
    except OversizedZip:
        raise
    except BadDataset as error:  # the original remedy is for imports
        raise BadVolume(error.message, field=FIELD, remedy=_ZIP_AGAIN) from None
    except InvalidInput as error:
        error.field = error.subject = error.subject if error.subject.startswith(FIELD) else FIELD
        raise
    except (zipfile.BadZipFile, EOFError, OSError):
        raise BadVolume("a file cannot be read", field=FIELD, remedy=_ZIP_AGAIN) from None
