"""Examinations: the studies, series and stacks of a source.

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
        label: name in problem messages and tables, such as `series 6`; unique in its study.
        uid: private.
        stacks: the volumes of the series. A stack that does not form a volume has a problem.
        problem: reason why the series cannot be used, such as text burned into the pixels; empty otherwise.
        allowed: refusals that apply to its images but that the user overrode; see `refusals`.
        acquired_s: time of day of the first image in seconds; None if the images state no time. Private: only
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
        number: number of the segment (from 1) or of the region (from 0).
        label: free text; it may contain a patient's name.
        codes: coded concepts of the segment's category and type, each as `scheme:value`, such as `SCT:41216001`.
    """

    number: int
    label: str
    codes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A DICOM object that shows structures: a segmentation (SEG) or a structure set with contours (RTSTRUCT).

    Attributes:
        label: see `Series`.
        file: name of the file in the source; private.
        attributes: attributes in its header.
        references: identifiers of the series on which the structures were drawn; private.
        segments: the object's segments, in order of number.
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
        patient: identifier of the patient with its issuer; private. Empty if the files state no patient. If the files
            state several patients, the study has a problem, and the value is one of these patients.
        uid: private.
        series: in order of number.
        segmentations: in order of number.
        private_words: see `screening`. Private.
        problems: reasons why the study cannot be used, for example that a series belongs to several studies.
    """

    patient: str
    uid: str
    series: tuple[Series, ...]
    segmentations: tuple[Segmentation, ...] = ()
    private_words: PrivateWords = frozenset()
    problems: tuple[str, ...] = ()
