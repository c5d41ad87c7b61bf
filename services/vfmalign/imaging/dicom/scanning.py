"""Scanning of a source: the header of every file, sorted into studies, series and stacks.

Nothing of a header is kept but what `Frame` and `Segmentation` have. What frames share is stored once, so that a frame
costs about 1 KiB, with the name of its file: 400 studies of 300 slices take 120 MiB.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadDataset, VfmalignError
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.dicom.examinations import Segmentation, Series, Study
from vfmalign.imaging.dicom.frames import Frame, FrameGeometry, list_frames
from vfmalign.imaging.dicom.headers import silence_libraries
from vfmalign.imaging.dicom.instances import Header, has_preamble, is_zip, may_be_dicom, read_header, read_start
from vfmalign.imaging.dicom.labels import label_maps
from vfmalign.imaging.dicom.refusals import describe_refusals, is_image, list_refusals, name_kind
from vfmalign.imaging.dicom.screening import MAX_PRIVATE_WORDS, PrivateWords, list_private_words, screen_number
from vfmalign.imaging.dicom.sources import DicomSource, digest_file
from vfmalign.imaging.dicom.stacks import divide

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_EXPORT_AGAIN = "export the study again"

ScanProgress = Callable[[str, int, int], None]
"""Called as `progress("scan", done, total)`, in files."""


@dataclass(frozen=True)
class UnusableFile:
    """A file that belongs to a study that nobody can tell.

    Attributes:
        file: its name in the source; private.
        place: its number among the files of the source, in order of name.
        problem: what is wrong with it, and a remedy.
    """

    file: str
    place: str
    problem: str


@dataclass(frozen=True)
class Examinations:
    """What a source holds.

    Attributes:
        studies: in order of their identifier.
        notes: what was left out, in sentences without names.
        unusable: files that look like DICOM and cannot be used.
    """

    studies: tuple[Study, ...]
    notes: tuple[str, ...]
    unusable: tuple[UnusableFile, ...] = ()


class _SeriesKey(NamedTuple):
    """Identifiers of a series; private."""

    study_uid: str
    series_uid: str


@dataclass
class _ScannedSeries:
    """What was read of a series."""

    frames: list[Frame] = field(default_factory=list)
    segmentations: list[Segmentation] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    problems: Counter[str] = field(default_factory=Counter)


@dataclass
class _ScannedStudy:
    """What was read of a study."""

    series: dict[str, _ScannedSeries] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)
    issuers: set[str] = field(default_factory=set)
    private_words: set[str] = field(default_factory=set)


def scan(
    source: DicomSource,
    allowed: Collection[str] = (),
    progress: ScanProgress = lambda stage, done, total: None,
    *,
    show_names: bool = False,
) -> Examinations:
    """Reads the header of every file.

    Args:
        source: the files.
        allowed: names of `refusals.REFUSALS` that are lifted.
        progress: called after every file.
        show_names: whether what the studies say may be printed as it is; see `screening`.
    """
    scanner = _Scanner(source)
    total = len(source.files)
    silence_libraries()
    for done, file in enumerate(source.files, start=1):
        scanner.add(file, f"file {done} of {total}")
        progress("scan", done, total)
    return scanner.finish(frozenset(allowed), show_names=show_names)


T = TypeVar("T", bound=Hashable)


class _Scanner:
    """Collects what files say, one after the other."""

    def __init__(self, source: DicomSource) -> None:
        self._source = source
        self._studies: dict[str, _ScannedStudy] = {}
        self._files_by_instance: dict[tuple[str, str], str] = {}
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._unusable: list[UnusableFile] = []
        self._shared: dict[Hashable, Any] = {}

    def add(self, file: str, place: str) -> None:
        """Reads one file."""
        start = b""
        try:
            with self._source.open(file) as opened:
                start = read_start(opened)
                if is_zip(start):
                    self._left_out["zip", "inside the source; not opened"] += 1
                elif may_be_dicom(start):
                    self._add_header(read_header(opened), file)
                else:
                    self._left_out["file", "not DICOM"] += 1
        except VfmalignError as error:
            if has_preamble(start):
                self._unusable.append(UnusableFile(file, place, f"the file {error.message}; {error.remedy}"))
            else:
                self._left_out["file", "not DICOM"] += 1
        except Exception:  # damaged zips and headers raise many types, whose messages quote names and values
            self._unusable.append(
                UnusableFile(file, place, "the file cannot be read; replace it, or allow this account to read it")
            )

    def _add_header(self, read: Header, file: str) -> None:
        header = read.dataset
        kind = str(header.SOPClassUID)
        is_segmentation = kind in label_maps.SOP_CLASSES
        if kind == _DICOMDIR_CLASS:
            return
        if not is_segmentation and not is_image(header):
            self._left_out["object", f"no image: {name_kind(header)}"] += 1
            return
        key = _SeriesKey(str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or ""))
        if not all(key) or not header.get("SOPInstanceUID"):
            raise BadDataset(
                "is cut off, or states no identifier of its study, series or instance", remedy="export it again"
            )
        study = self._studies.setdefault(self._share(key.study_uid), _ScannedStudy())
        series = study.series.setdefault(self._share(key.series_uid), _ScannedSeries())
        if self._is_repeated(key, str(header.SOPInstanceUID), file, series):
            return
        self._add_identity(header, study)
        if not read.has_pixels and (not is_segmentation or label_maps.has_pixels(header)):
            series.problems["cut off before its pixels"] += 1
        elif is_segmentation:
            self._add_segmentation(header, file, series)
        else:
            self._add_image(header, file, series)

    def _add_identity(self, header: Dataset, study: _ScannedStudy) -> None:
        # An object that leaves one of them out, such as a segmentation made elsewhere, contradicts no other.
        for values, keyword in ((study.patients, "PatientID"), (study.issuers, "IssuerOfPatientID")):
            if value := str(header.get(keyword) or "").strip():
                values.add(value)
        if len(study.private_words) <= MAX_PRIVATE_WORDS:
            study.private_words |= set(map(self._share, list_private_words(header)))

    def _add_segmentation(self, header: Dataset, file: str, series: _ScannedSeries) -> None:
        try:
            series.segmentations.append(label_maps.read_segmentation(header, file, ""))
        except VfmalignError as error:
            self._left_out["segmentation", error.message] += 1

    def _add_image(self, header: Dataset, file: str, series: _ScannedSeries) -> None:
        series.refusals |= list_refusals(header)
        try:
            series.frames += map(self._compact, list_frames(header, file))
        except VfmalignError as error:
            series.problems[error.message] += 1

    def _is_repeated(self, key: _SeriesKey, instance_uid: str, file: str, series: _ScannedSeries) -> bool:
        """Whether the instance was read before; a problem of its series where it was another one."""
        first = self._files_by_instance.setdefault((self._share(key.series_uid), instance_uid), file)
        if first == file:
            return False
        if digest_file(self._source, first) == digest_file(self._source, file):
            self._left_out["file", "copy of another"] += 1
        else:
            series.problems["same identifier (SOPInstanceUID) as another image, and other content"] += 1
        return True

    def _compact(self, frame: Frame) -> Frame:
        """The frame, with one object for each value that it has in common with others."""
        geometry = frame.geometry
        if geometry is not None:
            orientation = self._shared.setdefault(geometry.orientation.tobytes(), geometry.orientation)
            geometry = FrameGeometry(geometry.position_mm, orientation, self._share(geometry.spacing_mm))
        return replace(
            frame,
            series_uid=self._share(frame.series_uid),
            frame_of_reference_uid=self._share(frame.frame_of_reference_uid),
            geometry=geometry,
            attributes=self._shared.setdefault(tuple(frame.attributes.items()), frame.attributes),
        )

    def _share(self, value: T) -> T:
        shared: T = self._shared.setdefault(value, value)
        return shared

    def finish(self, allowed: frozenset[str], *, show_names: bool) -> Examinations:
        """Sorts what was read."""
        owners = Counter(uid for study in self._studies.values() for uid in study.series)
        shared = {uid for uid, count in owners.items() if count > 1}
        studies = tuple(
            _to_study(uid, study, shared, allowed, None if show_names else frozenset(study.private_words))
            for uid, study in sorted(self._studies.items())
        )
        notes = [f"left out: {pluralise(n, noun)} ({why})" for (noun, why), n in sorted(self._left_out.items())]
        return Examinations(studies, (*self._source.notes, *notes), tuple(self._unusable))


def _to_study(
    uid: str, study: _ScannedStudy, shared: Collection[str], allowed: frozenset[str], private_words: PrivateWords
) -> Study:
    labels = _name_series(study.series, private_words)
    ordered = sorted(study.series, key=lambda key: (_get_number(study.series[key]), labels[key]))
    problems = [
        f"{labels[key]} has images of other studies as well; {_EXPORT_AGAIN}" for key in ordered if key in shared
    ]
    for keyword, values in (("PatientID", study.patients), ("IssuerOfPatientID", study.issuers)):
        if len(values) > 1:
            problems.append(f"its images state {len(values)} different patients ({keyword}); {_EXPORT_AGAIN}")
    patient, issuer = max(study.patients, default=""), max(study.issuers, default="")
    return Study(
        patient=f"{patient}^^^{issuer}" if patient and issuer else patient,
        uid=uid,
        series=tuple(
            _to_series(labels[key], key, study.series[key], allowed)
            for key in ordered
            if study.series[key].frames or study.series[key].problems
        ),
        segmentations=tuple(
            replace(item, label=labels[key] if number == 1 else f"{labels[key]}, object {number}")
            for key in ordered
            for number, item in enumerate(study.series[key].segmentations, start=1)
        ),
        private_words=private_words,
        problems=tuple(problems),
    )


def _to_series(label: str, uid: str, scanned: _ScannedSeries, allowed: frozenset[str]) -> Series:
    problems = [f"{pluralise(count, 'image')}: {text}" for text, count in sorted(scanned.problems.items())]
    if refused := scanned.refusals - allowed:
        problems.append(describe_refusals(refused))
    try:
        stacks = divide(scanned.frames)
    except VfmalignError as error:
        stacks = []
        problems.append(f"{error.message}; export the series again")
    return Series(
        label=label,
        uid=uid,
        stacks=tuple(stacks),
        problem="; ".join(problems),
        allowed=tuple(sorted(scanned.refusals & allowed)),
    )


def _name_series(series: Mapping[str, _ScannedSeries], private_words: PrivateWords) -> dict[str, str]:
    """What problems and tables call each series; those of one number are told apart by a second one."""
    keys_by_number: dict[float, list[str]] = {}
    for key in sorted(series):
        keys_by_number.setdefault(_get_number(series[key]), []).append(key)
    labels: dict[str, str] = {}
    for number, keys in keys_by_number.items():
        is_hidden = math.isinf(number) or screen_number(number, private_words)
        name = "unnumbered series" if is_hidden else f"series {number:.15g}"
        labels |= {key: f"{name}.{place}" if len(keys) > 1 else name for place, key in enumerate(keys, start=1)}
    return labels


def _get_number(scanned: _ScannedSeries) -> float:
    """The number of a series; infinite where it has none."""
    numbers = [item.attributes.get("SeriesNumber") for item in scanned.frames[:1]]
    numbers += [item.attributes.get("SeriesNumber") for item in scanned.segmentations[:1]]
    number = next(iter(numbers), None)
    return number if isinstance(number, float) and number >= 0 else math.inf
