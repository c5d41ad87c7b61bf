"""Studies as a scan would return them, made of attributes alone, and what selections take of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.imaging.dicom.examinations import Segmentation, Series, Study
from vfmalign.imaging.dicom.frames import AttributeValue, Frame
from vfmalign.imaging.dicom.rules import get_selections
from vfmalign.imaging.dicom.selection import Choice, choose
from vfmalign.imaging.dicom.stacks import Stack

Attributes = Mapping[str, AttributeValue]
T2W: Attributes = {
    "Modality": "MR",
    "ImageType": ("ORIGINAL", "PRIMARY", "M"),
    "ScanningSequence": "SE",
    "SeriesDescription": "t2_tse_tra",
    "MRAcquisitionType": "2D",
    "EchoTime": 104.0,
    "RepetitionTime": 5660.0,
    "orientation": "transverse",
    "slices": 19.0,
}
DWI: Attributes = T2W | {
    "ImageType": ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"),
    "ScanningSequence": "EP",
    "SeriesDescription": "ep2d_diff_tra",
    "b_value": 800.0,
    "diffusion": "trace",
}
ADC: Attributes = {name: value for name, value in DWI.items() if name != "b_value"} | {"diffusion": "adc"}
SAGITTAL: Attributes = T2W | {"orientation": "sagittal"}


def make_stack(
    attributes: Attributes,
    uid: str = "1.2",
    divided_by: tuple[str, ...] = (),
    problem: str = "",
    frame_of_reference_uid: str = "1.9",
) -> Stack:
    frame = Frame("secret.dcm", 0, uid, f"{uid}.1", None, attributes, frame_of_reference_uid)
    return Stack((frame,), attributes, None if problem else np.eye(4), divided_by, problem)


def make_series(number: int, *volumes: Attributes | Stack, problem: str = "") -> Series:
    stacks = [
        make_stack(volume, f"1.2.{number}", ("b_value",) if len(volumes) > 1 else ())
        if isinstance(volume, Mapping)
        else volume
        for volume in volumes
    ]
    return Series(f"series {number}", f"1.2.{number}", tuple(stacks), problem)


def make_study(*series: Series, segmentations: Sequence[Segmentation] = (), words: Sequence[str] = ()) -> Study:
    return Study("patient", "1.1", series, tuple(segmentations), frozenset(words))


def choose_built_in(name: str, *series: Series) -> Choice:
    declaration = get_declaration(name)
    return choose(make_study(*series), declaration, get_selections(declaration))


def list_taken(choice: Choice) -> dict[str, list[str]]:
    return {
        name: [label for label, reason in reasons.items() if not reason] for name, reasons in choice.reasons.items()
    }
