"""Examinations: the content of a source as studies, series and stacks.

A study is one case. Everything that identifies a patient stays in the fields that are marked as private.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfmalign.imaging.dicom.frames import AttributeValue
from vfmalign.imaging.dicom.screening import PrivateWords
from vfmalign.imaging.dicom.stacks import Stack


@dataclass(frozen=True, eq=False)
class Series:
    """One series.

    Attributes:
        label: name in problems and tables, such as `series 6`; unique in its study.
        uid: private.
        stacks: the volumes of the series; a stack that does not form a volume states its problem.
        problem: reason why the series cannot be used, such as annotation in the pixels; empty otherwise.
        allowed: refusals that apply to its images, but that the user lifted; see `refusals`.
        acquired_s: time of day of its first image, in seconds; None if the images state none. Private: only
            differences are printed.
    """

    label: str
    uid: str
    stacks: tuple[Stack, ...]
    problem: str = ""
    allowed: tuple[str, ...] = ()
    acquired_s: float | None = None


@dataclass(frozen=True)
class Segment:
    """One segment of a segmentation, or one region of interest of a structure set.

    Attributes:
        number: number of the segment, from 1, or of the region, which may be 0.
        label: free text; it may contain a patient's name.
        codes: concepts of its category and type, each as `scheme:value`, such as `SCT:41216001`.
    """

    number: int
    label: str
    codes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An object that shows structures: a segmentation (DICOM SEG), or a structure set (RTSTRUCT) with its contours.

    Attributes:
        label: see `Series`.
        file: its file in the source; private.
        attributes: attributes in its header.
        references: identifiers of the series that it was drawn on; private.
        segments: its segments, in order of number.
    """

    label: str
    file: str
    attributes: Mapping[str, AttributeValue]
    references: tuple[str, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """One examination of one patient.

    Attributes:
        patient: identifier of the patient with its issuer; private. Empty if the files state none. If they state
            several patients, this is a problem of the study, and the field contains one of them.
        uid: private.
        series: in order of number.
        segmentations: in order of number.
        private_words: see `screening`. Private.
        problems: reasons why the study cannot be used, such as a series that belongs to several studies.
    """

    patient: str
    uid: str
    series: tuple[Series, ...]
    segmentations: tuple[Segmentation, ...] = ()
    private_words: PrivateWords = frozenset()
    problems: tuple[str, ...] = ()
