"""Panels of image slices, drawn as PNG.

Axes: H rows, W columns of a slice.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

_COLOURS = ("#19c3c3", "#ff5a36", "#f2c53d", "#8f7ee7", "#6cc644", "#e86eb7")


@dataclass(frozen=True)
class Panel:
    """One image in a row of images.

    Attributes:
        title: title above the image.
        image_HW: grey values.
        limits: grey values shown as black and white; None for the image's 1st and 99th percentile.
        outlines: masks to outline, such as gland and lesion, each in its own colour.
        aspect: height of a voxel divided by its width.
    """

    title: str
    image_HW: NDArray[np.float32]
    limits: tuple[float, float] | None = None
    outlines: tuple[NDArray[np.bool_], ...] = ()
    aspect: float = 1.0


def draw_panels(panels: Sequence[Panel], title: str) -> bytes:
    """Draws panels side by side. Equal panels give equal bytes."""
    # Imported here: it takes half a second, and only a job that ends draws figures. The Figure class without pyplot,
    # which keeps global state and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(panels), 2.9), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        low, high = panel.limits or grey_limits(panel.image_HW)
        axes.imshow(panel.image_HW, cmap="gray", vmin=low, vmax=high, aspect=panel.aspect, interpolation="nearest")
        for mask_HW, colour in zip(panel.outlines, cycle(_COLOURS), strict=False):
            if mask_HW.any():
                axes.contour(mask_HW.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.2)
        # With an explicit height matplotlib does not measure the ticks, which are hidden: half of the time.
        axes.set_title(panel.title, fontsize=8, y=1.0)
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def grey_limits(image_HW: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the 1st and 99th percentile. Use these values as common grey limits of images that readers compare."""
    low, high = np.percentile(image_HW, (1, 99))
    return float(low), float(high) if high > low else float(low) + 1.0
