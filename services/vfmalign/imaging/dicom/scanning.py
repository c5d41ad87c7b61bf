"""Scanning of a source: the header of every file, sorted into studies, series and stacks.

Nothing of a header is kept but what `Frame` and `Segmentation` have. Frames are packed, and unpacked for one study at a
time.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, overload

from pydicom.dataset import Dataset

from vfmalign.core.domain.errors import BadDataset, VfmalignError
from vfmalign.core.formats.documents import pluralise
from vfmalign.imaging.dicom.examinations import Segmentation, Series, Study
from vfmalign.imaging.dicom.frames import Frame, list_frames, read_time_of_day
from vfmalign.imaging.dicom.headers import silence_libraries
from vfmalign.imaging.dicom.instances import Header, has_preamble, is_zip, may_be_dicom, read_header, read_start
from vfmalign.imaging.dicom.labels import label_maps
from vfmalign.imaging.dicom.packing import PackedFrame, PackedList, pack_frame, unpack_frames
from vfmalign.imaging.dicom.refusals import describe_refusals, is_image, list_refusals, name_kind
from vfmalign.imaging.dicom.screening import (
    MAX_PRIVATE_WORDS,
    PrivateWords,
    hide_every_word,
    list_private_words,
    screen_number,
)
from vfmalign.imaging.dicom.sources import DicomSource, digest_file, place_file
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
        studies: in order of their identifier; each is made whenever it is read, with its frames unpacked.
        notes: what was left out, in sentences without names.
        unusable: files that look like DICOM and cannot be used.
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
    """What was read of a series, beside its frames."""

    segmentations: list[Segmentation] = field(default_factory=list)
    refusals: frozenset[str] = frozenset()
    problems: Counter[str] = field(default_factory=Counter)
    acquired_s: float | None = None
    places: dict[str, str] = field(default_factory=dict)

    def add_problem(self, text: str, place: str) -> None:
        """Adds a problem of an image; `place` is kept of the first file that has it."""
        self.problems[text] += 1
        self.places.setdefault(text, place)

    def list_problems(self) -> list[str]:
        """Returns each problem once, with its images."""
        return [
            f"{pluralise(count, 'image')} ({'' if count == 1 else 'the first is '}{self.places[text]}): {text}"
            for text, count in sorted(self.problems.items())
        ]


@dataclass(slots=True)
class _ScannedStudy:
    """What was read of a study; `frames` are their numbers among those of the source."""

    frames: array[int] = field(default_factory=lambda: array("I"))
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
    hide_text: bool = False,
) -> Examinations:
    """Reads the header of every file.

    Args:
        source: the files.
        allowed: names of `refusals.REFUSALS` that are lifted.
        progress: called after every file.
        show_names: whether what the studies say may be printed as it is; see `screening`.
        hide_text: whether no text of headers is printed, so that their names are not collected.
    """
    scanner = _Scanner(source, hide_text=hide_text)
    total = len(source.files)
    silence_libraries()
    for number, file in enumerate(source.files):
        scanner.add(file, number)
        progress("scan", number + 1, total)
    return scanner.finish(frozenset(allowed), show_names=show_names)


class _FirstFiles:
    """The number of every instance's first file, in 12 bytes for each: they stand in order of the instances' hashes.

    Two of a million instances have the same hash of 64 bits with a probability of 3e-8; one of them would be refused.
    """

    def __init__(self) -> None:
        self._hashes, self._files = array("q"), array("I")

    def find_or_add(self, series_uid: str, instance_uid: str, file: int) -> int:
        """Returns the first file of an instance, which is this one if there is none yet."""
        key = hash((series_uid, instance_uid))
        place = bisect_left(self._hashes, key)
        if place == len(self._hashes) or self._hashes[place] != key:
            self._hashes.insert(place, key)
            self._files.insert(place, file)
        return self._files[place]


class _Scanner:
    """Collects what files say, one after the other."""

    def __init__(self, source: DicomSource, *, hide_text: bool) -> None:
        self._source, self._hide_text = source, hide_text
        self._frames: PackedList[PackedFrame] = PackedList()
        self._studies: dict[str, _ScannedStudy] = {}
        self._first_files = _FirstFiles()
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._unusable: list[UnusableFile] = []

    def add(self, file: str, number: int) -> None:
        """Reads one file, whose number counts from 0."""
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
        except Exception:  # damaged zips and headers raise many types, whose messages quote names and values
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
            self._left_out["object", f"no image: {name_kind(header)}"] += 1
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
        elif not is_segmentation:  # the frames of a cut-off image say which rules would take the series
            self._add_image(header, number, study, series)

    def _add_identity(self, header: Dataset, study: _ScannedStudy) -> None:
        # An object that leaves one of them out, such as a segmentation made elsewhere, contradicts no other.
        identifiers = [str(header.get(keyword) or "").strip() for keyword in ("PatientID", "IssuerOfPatientID")]
        study.patients.update(filter(None, identifiers[:1]))
        study.issuers.update(filter(None, identifiers[1:]))
        if len(study.private_words) <= MAX_PRIVATE_WORDS:
            words = hide_every_word(identifiers) if self._hide_text else list_private_words(header)
            study.private_words |= words

    def _add_segmentation(self, header: Dataset, file: str, series: _ScannedSeries) -> None:
        try:
            series.segmentations.append(label_maps.read_segmentation(header, file, ""))
        except VfmalignError as error:
            self._left_out["segmentation", error.message] += 1

    def _add_image(self, header: Dataset, number: int, study: _ScannedStudy, series: _ScannedSeries) -> None:
        if refusals := list_refusals(header):
            series.refusals |= refusals
        if (time := read_time_of_day(header)) is not None:
            series.acquired_s = time if series.acquired_s is None else min(series.acquired_s, time)
        try:
            for frame in list_frames(header, self._source.files[number]):
                study.frames.append(len(self._frames))
                self._frames.append(pack_frame(frame))
        except VfmalignError as error:
            series.add_problem(error.message, place_file(self._source, number))

    def _is_repeated(self, series_uid: str, instance_uid: str, number: int, series: _ScannedSeries) -> bool:
        """Whether the instance was read before; a problem of its series where it was another one."""
        first = self._first_files.find_or_add(series_uid, instance_uid, number)
        if first == number:
            return False
        if len({digest_file(self._source, self._source.files[place]) for place in (first, number)}) == 1:
            self._left_out["file", "copy of another"] += 1
        else:
            text = "same identifier (SOPInstanceUID) as another image, and other content"
            series.add_problem(text, place_file(self._source, number))
        return True

    def finish(self, allowed: frozenset[str], *, show_names: bool) -> Examinations:
        """Sorts what was read."""
        studies = _Studies(self._studies, self._frames, allowed, show_names=show_names)
        notes = [f"left out: {pluralise(n, noun)} ({why})" for (noun, why), n in sorted(self._left_out.items())]
        return Examinations(studies, (*self._source.notes, *notes), tuple(self._unusable))


class _Studies(Sequence[Study]):
    """Studies in order of their identifier, each of which is made whenever it is read."""

    def __init__(
        self,
        studies: Mapping[str, _ScannedStudy],
        frames: PackedList[PackedFrame],
        allowed: frozenset[str],
        *,
        show_names: bool,
    ) -> None:
        self._uids = sorted(studies)
        self._studies, self._frames, self._allowed, self._show_names = studies, frames, allowed, show_names
        owners = Counter(uid for study in studies.values() for uid in study.series)
        self._shared = {uid for uid, count in owners.items() if count > 1}

    def __len__(self) -> int:
        return len(self._uids)

    def __iter__(self) -> Iterator[Study]:
        return map(self._make, self._uids)

    @overload
    def __getitem__(self, index: int) -> Study: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Study]: ...

    def __getitem__(self, index: int | slice) -> Study | Sequence[Study]:
        uids = self._uids[index]
        return self._make(uids) if isinstance(uids, str) else [self._make(uid) for uid in uids]

    def _make(self, uid: str) -> Study:
        study = self._studies[uid]
        private_words = None if self._show_names else frozenset(study.private_words)
        frames: dict[str, list[Frame]] = {key: [] for key in study.series}
        for frame in unpack_frames(self._frames[number] for number in study.frames):
            frames[frame.series_uid].append(frame)
        numbers = {key: _get_number(frames[key], scanned.segmentations) for key, scanned in study.series.items()}
        labels = _name_series(numbers, private_words)
        ordered = sorted(labels, key=lambda key: (numbers[key], labels[key]))
        problems = [
            f"{labels[key]} has images of other studies as well; {_EXPORT_AGAIN}"
            for key in ordered
            if key in self._shared
        ]
        for keyword, values in (("PatientID", study.patients), ("IssuerOfPatientID", study.issuers)):
            if len(values) > 1:
                problems.append(f"its images state {len(values)} different patients ({keyword}); {_EXPORT_AGAIN}")
        patient, issuer = max(study.patients, default=""), max(study.issuers, default="")
        return Study(
            patient=f"{patient}^^^{issuer}" if patient and issuer else patient,
            uid=uid,
            series=tuple(
                _to_series(labels[key], key, study.series[key], frames[key], self._allowed)
                for key in ordered
                if frames[key] or study.series[key].problems
            ),
            segmentations=tuple(
                replace(item, label=labels[key] if number == 1 else f"{labels[key]}, object {number}")
                for key in ordered
                for number, item in enumerate(study.series[key].segmentations, start=1)
            ),
            private_words=private_words,
            problems=tuple(problems),
        )


def _to_series(
    label: str, uid: str, scanned: _ScannedSeries, frames: Sequence[Frame], allowed: frozenset[str]
) -> Series:
    problems = scanned.list_problems()
    if refused := scanned.refusals - allowed:
        problems.append(describe_refusals(refused))
    try:
        stacks = divide(frames)
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
    """What problems and tables call each series; those of one number are told apart by a second one."""
    keys_by_number: dict[float, list[str]] = {}
    for key in sorted(numbers):
        keys_by_number.setdefault(numbers[key], []).append(key)
    labels: dict[str, str] = {}
    for number, keys in keys_by_number.items():
        is_hidden = math.isinf(number) or screen_number(number, private_words)
        name = "unnumbered series" if is_hidden else f"series {number:.15g}"
        labels |= {key: f"{name}.{place}" if len(keys) > 1 else name for place, key in enumerate(keys, start=1)}
    return labels


def _get_number(frames: Sequence[Frame], segmentations: Sequence[Segmentation]) -> float:
    """The number of a series; infinite where it has none."""
    numbers = [frame.attributes.get("SeriesNumber") for frame in frames[:1]]
    numbers += [item.attributes.get("SeriesNumber") for item in segmentations[:1]]
    number = next(iter(numbers), None)
    return number if isinstance(number, float) and number >= 0 else math.inf
