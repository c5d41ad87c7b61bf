"""Checks label maps against the declaration of the dataset."""

from __future__ import annotations

from vfmalign.core.domain.declarations import LabelMap
from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.volumes import Volume


def check_label_map(volume: Volume, label: LabelMap, name: str) -> None:
    """Rejects undeclared values. Also rejects an empty map, unless it is declared with `may_be_empty`."""
    values = volume.list_values()
    if undeclared := sorted(values - set(label.values)):
        raise BadVolume(
            f"the values {', '.join(map(str, undeclared))} are not declared",
            subject=name,
            remedy=f"declare them, or correct the file; declared values: {', '.join(map(str, sorted(label.values)))}",
        )
    if not values and not label.may_be_empty:
        what = f"the {label.name} mask" if len(label.structures) == 1 else f"the label map {label.name}"
        raise BadVolume(
            f"{what} is empty", subject=name, remedy="remove or redraw it, or declare it with `may_be_empty`"
        )
