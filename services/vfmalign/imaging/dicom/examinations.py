"""Examinations: what a source holds, as studies, series and stacks.

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
        label: how problems and tables name it, such as `series 6`; unique in its study.
        uid: private.
        stacks: the volumes that it holds or was meant to hold; each says why it is none.
        problem: why nothing of the series is used, such as annotation in the pixels; empty otherwise.
        allowed: refusals that would apply to its images, and that the user lifted; see `refusals`.
        acquired_s: time of day of its first image, in seconds; None where the images state none. Private: only
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
    """One segment of a segmentation, or region of interest of a structure set.

    Attributes:
        number: from 1; those of regions may begin at 0.
        label: free text; it may hold a name.
        codes: concepts of its category and type, each as `scheme:value`, such as `SCT:41216001`.
    """

    number: int
    label: str
    codes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An object that shows structures: a segmentation (DICOM SEG), or a structure set (RTSTRUCT) with its contours.

    Attributes:
        label: as of a series.
        file: its file in the source; private.
        attributes: of its header.
        references: identifiers of the series that it was drawn on; private.
        segments: what its segments are called, in order of number.
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
        patient: identifier of the patient with its issuer; private. Empty where the files state none, and one of them
            where they state several, which is a problem.
        uid: private.
        series: in order of number.
        segmentations: in order of number.
        private_words: words of names, identifiers and places in the headers; text that contains one is not printed.
            Private.
        problems: why the study cannot be used, such as a series that belongs to several studies.
    """

    patient: str
    uid: str
    series: tuple[Series, ...]
    segmentations: tuple[Segmentation, ...] = ()
    private_words: PrivateWords = frozenset()
    problems: tuple[str, ...] = ()
