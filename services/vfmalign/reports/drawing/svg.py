"""Style of the figures, and their export as self-contained SVG. Equal figures give equal bytes."""

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
# The palette of Okabe and Ito, which is distinguishable for colour-blind readers.
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

_style_lock = threading.Lock()  # matplotlib's rc settings are global to the process


@contextmanager
def figure_style() -> Iterator[None]:
    """Applies the style of the figures. A lock ensures that only one figure is drawn at a time."""
    import matplotlib as mpl  # deferred: the import takes about a second and an idle service draws nothing

    with _style_lock, mpl.rc_context(_STYLE):
        yield


def new_figure(width_in: float, height_in: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Creates a figure without axes. All sizes are in inches."""
    from matplotlib.figure import Figure  # deferred, as in `figure_style`

    return Figure(figsize=(width_in, height_in), layout=layout)


def to_svg(figure: Figure) -> bytes:
    """Exports a figure as SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Remove the prologue, because its DTD is an external URL.
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL).encode()
