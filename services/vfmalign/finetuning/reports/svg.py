"""How every figure looks, and how it becomes an SVG that names nothing outside itself.

Knows matplotlib. Knows nothing of what is drawn. Equal figures give equal bytes.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, ACCENT = "#222222", "#bbbbbb", "#0072B2"
# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "svg.hashsalt": "vfmalign",
    "svg.fonttype": "path",
}

_drawing = threading.Lock()  # matplotlib's settings are the process's own


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; one at a time."""
    import matplotlib as mpl  # takes a second, and a service that waits for work draws nothing

    with _drawing, mpl.rc_context(_STYLE):
        yield


def empty(width_in: float, height_in: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure without axes, of a size in inches."""
    from matplotlib.figure import Figure  # as in `style`

    return Figure(figsize=(width_in, height_in), layout=layout)


def svg(figure: Figure) -> bytes:
    """The figure as SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # The prologue names a DTD by URL; nothing outside the file may be named.
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL).encode()
