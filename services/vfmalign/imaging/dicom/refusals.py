"""Refusals: images whose pixels may contain a patient's name, and volumes whose relative positions are unknown.

De-identification does not change pixels, so text in the pixels remains. Each refusal can be overridden by an import
option. If a case was imported because of such an option, the dataset records the option with the case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import UID

from vfmalign.core.domain.errors import BadOption
from vfmalign.imaging.dicom.headers import find, list_texts, to_first_text

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."
_OVERLAY_DATA, _REPEATING_GROUPS = 0x60003000, 0xFF01FFFF


class Refusal(NamedTuple):
    """A reason to refuse an image or a study.

    Attributes:
        text: the problem of the series or study.
        applies: function that returns whether an image is refused, given its header. None for a problem that
            `selection.choose` finds.
    """

    text: str
    applies: Callable[[Dataset], bool] | None = None


def _is_burned_in(header: Dataset) -> bool:
    return "YES" in {text.upper() for text in list_texts([header], "BurnedInAnnotation")}


def _is_secondary_capture(header: Dataset) -> bool:
    return (_get_kind(header) + ".").startswith(_SECONDARY_CAPTURE + ".")


def _has_overlay(header: Dataset) -> bool:
    return _OVERLAY_DATA in {tag & _REPEATING_GROUPS for tag in header.keys()}  # noqa: SIM118


FRAMES_OF_REFERENCE = "frames_of_reference"
DEFECTIVE = "defective"
"""Recorded with cases that `--accept-defective` admits: a preferred series cannot be used."""
REFUSALS: Mapping[str, Refusal] = {
    "burned_in_annotation": Refusal("its pixels contain annotation (BurnedInAnnotation is YES)", _is_burned_in),
    "secondary_capture": Refusal("it is a secondary capture, such as a screenshot", _is_secondary_capture),
    "overlay": Refusal("it has overlays, which often hold text", _has_overlay),
    FRAMES_OF_REFERENCE: Refusal("its volumes are not known to lie in one frame of reference"),
}
"""Refusals by the name that lifts them."""


def check_allowed(names: Collection[str]) -> frozenset[str]:
    """Checks names of overridden refusals and returns them.

    Raises:
        BadOption: a name is not in `REFUSALS`.
    """
    if unknown := sorted(set(names) - REFUSALS.keys()):
        raise BadOption(
            f"{unknown[0][:64]!r} is not a refusal", field="--allow", remedy=f"choose from {', '.join(REFUSALS)}"
        )
    return frozenset(names)


def list_refusals(header: Dataset) -> frozenset[str]:
    """Returns the names of the refusals that apply to an image."""
    return frozenset(name for name, refusal in REFUSALS.items() if refusal.applies and refusal.applies(header))


def describe_refusals(names: Collection[str]) -> str:
    """Returns why a series is refused and which option overrides the refusal; empty if there are no refusals."""
    listed = sorted(names)
    if not listed:
        return ""
    reasons = " and ".join(REFUSALS[name].text for name in listed)
    return f"{reasons}; look at the images, and if they name nobody, allow them with --allow {','.join(listed)}"


def is_image(header: Dataset) -> bool:
    """Returns whether an instance is an image, rather than a report, a presentation state or a radiotherapy object."""
    if _get_kind(header).startswith(_RADIOTHERAPY):
        return False
    return ("Rows" in header and "Columns" in header) or name_kind(header).endswith("Image Storage")


def name_kind(header: Dataset) -> str:
    """Returns the standard's name for the type of an object, such as `RT Structure Set Storage`."""
    uid = _get_kind(header)
    name = UID(uid).name  # the identifier itself if it is not in the standard
    return name if name != uid else "an unknown kind"


def _get_kind(header: Dataset) -> str:
    return to_first_text(find([header], "SOPClassUID"))
