"""Scanning of a source: reads all file headers, and groups the files into studies, series and stacks.

Headers identify patients. Only the fields of `Frame` and `Segmentation` are kept, and only in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadDataset, VfmalignError
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.dicom.examinations import Segmentation, Series, Study
from vfmalign.imaging.dicom.frames import Frame, list_frames, read_time_of_day
from vfmalign.imaging.dicom.headers import find, silence_libraries
from vfmalign.imaging.dicom.instances import Header, has_preamble, is_zip, may_be_dicom, read_header, read_start
from vfmalign.imaging.dicom.labels import label_maps
from vfmalign.imaging.dicom.refusals import describe_refusals, is_image, list_refusals, name_kind
from vfmalign.imaging.dicom.screening import PrivateWords, list_private_words, screen_number
from vfmalign.imaging.dicom.sources import DicomSource, digest_file, place_file
from vfmalign.imaging.dicom.stacks import divide

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_EXPORT_AGAIN = "export the study again"
_MAX_IDENTITIES = 64
"""Maximum number of stored values of identifying attributes of a study; four are usual."""
_MAX_IDENTITY = 1_024
"""Maximum number of stored characters of such a value; a name has up to 5 × 64."""

ScanProgress = Callable[[str, int, int], None]
"""Called as `progress("scan", done, total)`, in files."""


@dataclass(frozen=True)
class UnusableFile:
    """A file that cannot be assigned to a study.

    Attributes:
        file: the file's name in the source; private.
        place: the file's number in the source, in order of name.
        problem: the file's problem and its remedy.
    """

    file: str
    place: str
    problem: str


@dataclass(frozen=True)
class Examinations:
    """Content of a source.

    Attributes:
        studies: the studies, in order of identifier.
        notes: notes on omitted files, without patients' names.
        unusable: files that look like DICOM but cannot be used.
    """

    studies: Sequence[Study]
    notes: tuple[str, ...]
    unusable: tuple[UnusableFile, ...] = ()


class _SeriesKey(NamedTuple):
    """Identifiers of a series; private."""

    study_uid: str
    series_uid: str


@dataclass(slots=True)
class _ScannedSeries:
    """Metadata of a series."""

    frames: list[Frame] = field(default_factory=list)
    segmentations: list[Segmentation] = field(default_factory=list)
    refusals: frozenset[str] = frozenset()
    problems: Counter[str] = field(default_factory=Counter)
    acquired_s: float | None = None
    places: dict[str, str] = field(default_factory=dict)

    def add_frame(self, frame: Frame) -> None:
        """Adds a frame.

        In most series, a frame has the same attributes as the previous frame. Both frames then share one copy.
        """
        if self.frames and frame.attributes == self.frames[-1].attributes:
            frame = replace(frame, attributes=self.frames[-1].attributes)
        self.frames.append(frame)

    def add_problem(self, text: str, place: str) -> None:
        """Adds an image's problem. `place` is stored only for the first image with this problem."""
        self.problems[text] += 1
        self.places.setdefault(text, place)

    def list_problems(self) -> list[str]:
        """Returns each distinct problem once, with the number of images that have it."""
        return [
            f"{pluralise(count, 'image')} ({'' if count == 1 else 'the first is '}{self.places[text]}): {text}"
            for text, count in sorted(self.problems.items())
        ]


@dataclass(slots=True)
class _ScannedStudy:
    """Metadata of a study."""

    series: dict[str, _ScannedSeries] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)
    issuers: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)


def scan(
    source: DicomSource,
    allowed: Collection[str] = (),
    progress: ScanProgress = lambda stage, done, total: None,
    *,
    show_text: bool = False,
) -> Examinations:
    """Reads the header of every file.

    Args:
        source: the files.
        allowed: names of the overridden refusals; see `refusals.REFUSALS`.
        progress: called after every file.
        show_text: whether header text may be printed unchanged; see `screening`.
    """
    scanner = _Scanner(source)
    total = len(source.files)
    silence_libraries()
    for number, file in enumerate(source.files):
        scanner.add(file, number)
        progress("scan", number + 1, total)
    return scanner.finish(frozenset(allowed), show_text=show_text)


class _Scanner:
    """Collects the metadata of files, one after the other."""

    def __init__(self, source: DicomSource) -> None:
        self._source = source
        self._studies: dict[str, _ScannedStudy] = {}
        self._first_files: dict[tuple[str, str], int] = {}
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._unusable: list[UnusableFile] = []

    def add(self, file: str, number: int) -> None:
        """Reads the file with this index, from 0."""
        place = place_file(self._source, number)
        start = b""
        try:
            with self._source.open(file) as opened:
                start = read_start(opened)
                if is_zip(start):
                    self._left_out["zip", "inside the source; not opened"] += 1
                elif may_be_dicom(start):
                    self._add_header(read_header(opened), file, number)
                else:
                    self._left_out["file", "not DICOM"] += 1
        except VfmalignError as error:
            if has_preamble(start):
                self._unusable.append(UnusableFile(file, place, f"the file {error.message}; {error.remedy}"))
            else:
                self._left_out["file", "not DICOM"] += 1
        except Exception:  # of many types, with names and values in their messages
            self._unusable.append(
                UnusableFile(file, place, "the file cannot be read; replace it, or allow this account to read it")
            )

    def _add_header(self, read: Header, file: str, number: int) -> None:
        header = read.dataset
        kind = str(header.SOPClassUID)
        is_segmentation = kind in label_maps.SOP_CLASSES
        if kind == _DICOMDIR_CLASS:
            return
        if not is_segmentation and not is_image(header):
            self._left_out["object", f"not an image: {name_kind(header)}"] += 1
            return
        key = _SeriesKey(str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or ""))
        if not all(key) or not header.get("SOPInstanceUID"):
            raise BadDataset(
                "is cut off, or states no identifier of its study, series or instance", remedy="export it again"
            )
        study = self._studies.setdefault(key.study_uid, _ScannedStudy())
        series = study.series.setdefault(key.series_uid, _ScannedSeries())
        if self._is_repeated(key.series_uid, str(header.SOPInstanceUID), number, series):
            return
        self._add_identity(header, study)
        is_cut_off = read.pixels is None and (not is_segmentation or label_maps.has_pixels(header))
        if is_cut_off:
            series.add_problem("cut off before its pixels", place_file(self._source, number))
        if is_segmentation and not is_cut_off:
            self._add_segmentation(header, file, series)
        elif not is_segmentation:  # even the frames of a truncated image show which rules choose the series
            self._add_image(header, number, series)

    def _add_identity(self, header: Dataset, study: _ScannedStudy) -> None:
        # An object may lack some of them, such as a segmentation from another program, and does not contradict others.
        patient, issuer = (str(header.get(keyword) or "").strip() for keyword in ("PatientID", "IssuerOfPatientID"))
        study.patients.update(filter(None, [patient]))
        study.issuers.update(filter(None, [issuer]))
        if len(study.identities) < _MAX_IDENTITIES:
            named = [find([header], keyword) or "" for keyword in ("PatientName", "InstitutionName")]
            study.identities |= {str(value)[:_MAX_IDENTITY] for value in (patient, issuer, *named)}

    def _add_segmentation(self, header: Dataset, file: str, series: _ScannedSeries) -> None:
        try:
            series.segmentations.append(label_maps.read_segmentation(header, file, ""))
        except VfmalignError as error:
            self._left_out["segmentation", error.message] += 1

    def _add_image(self, header: Dataset, number: int, series: _ScannedSeries) -> None:
        if refusals := list_refusals(header):
            series.refusals |= refusals
        if (time := read_time_of_day(header)) is not None:
            series.acquired_s = time if series.acquired_s is None else min(series.acquired_s, time)
        try:
            for frame in list_frames(header, self._source.files[number]):
                series.add_frame(frame)
        except VfmalignError as error:
            series.add_problem(error.message, place_file(self._source, number))

    def _is_repeated(self, series_uid: str, instance_uid: str, number: int, series: _ScannedSeries) -> bool:
        """Whether the instance was read before. Adds a problem to the series if its content was different."""
        first = self._first_files.setdefault((series_uid, instance_uid), number)
        if first == number:
            return False
        if len({digest_file(self._source, self._source.files[place]) for place in (first, number)}) == 1:
            self._left_out["file", "copy of another"] += 1
        else:
            text = "same identifier (SOPInstanceUID) as another image, but different content"
            series.add_problem(text, place_file(self._source, number))
        return True

    def finish(self, allowed: frozenset[str], *, show_text: bool) -> Examinations:
        """Groups the metadata into studies."""
        owners = Counter(uid for study in self._studies.values() for uid in study.series)
        shared = {uid for uid, count in owners.items() if count > 1}
        studies = [
            _to_study(uid, study, shared, allowed, None if show_text else list_private_words(study.identities))
            for uid, study in sorted(self._studies.items())
        ]
        notes = [f"left out: {pluralise(n, noun)} ({why})" for (noun, why), n in sorted(self._left_out.items())]
        return Examinations(studies, (*self._source.notes, *notes), tuple(self._unusable))


def _to_study(
    uid: str, study: _ScannedStudy, shared: Collection[str], allowed: frozenset[str], private_words: PrivateWords
) -> Study:
    """Builds a study from its metadata; `shared` are series of several studies."""
    numbers = {key: _get_number(scanned) for key, scanned in study.series.items()}
    labels = _name_series(numbers, private_words)
    ordered = sorted(labels, key=lambda key: (numbers[key], labels[key]))
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
    problems = scanned.list_problems()
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
        acquired_s=scanned.acquired_s,
    )


def _name_series(numbers: Mapping[str, float], private_words: PrivateWords) -> dict[str, str]:
    """Names each series for problems and tables; a second number distinguishes series with the same number."""
    keys_by_number: dict[float, list[str]] = {}
    for key in sorted(numbers):
        keys_by_number.setdefault(numbers[key], []).append(key)
    labels: dict[str, str] = {}
    for number, keys in keys_by_number.items():
        is_hidden = math.isinf(number) or screen_number(number, private_words)
        name = "unnumbered series" if is_hidden else f"series {number:.15g}"
        labels |= {key: f"{name}.{place}" if len(keys) > 1 else name for place, key in enumerate(keys, start=1)}
    return labels


def _get_number(scanned: _ScannedSeries) -> float:
    """The number of a series; infinite if it has none."""
    stated = [frame.attributes for frame in scanned.frames[:1]]
    stated += [item.attributes for item in scanned.segmentations[:1]]
    number = stated[0].get("SeriesNumber") if stated else None
    return number if isinstance(number, float) and number >= 0 else math.inf
