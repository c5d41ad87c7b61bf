"""Request of `vfmalign drift` to monitor a stream, and the comparisons that the monitor requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from vfmalign.core.domain.record import Record

DEFAULT_ALPHA = 0.01
DEFAULT_WINDOW_ROWS = 100
MIN_WINDOW_ROWS = 16
MAX_WINDOW_ROWS = 5000


class DriftRequest(Record):
    """A stream, its reference, and the options of the monitor (see `monitoring.sequential.MonitorOptions`)."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # the command line lists fields with their meanings

    reference: str
    """A .npy file, or a feature set as `ID` or `ID@SHA256`."""
    streams: tuple[str, ...] = Field(min_length=1)
    """Of the same kind, in the order of arrival."""
    reference_table: str = ""
    """CSV file with a line for each row of a .npy file; empty for none."""
    stream_table: str = ""
    """CSV file with a line for each row of the .npy files; empty for none."""
    layer: str = ""
    """Layer that raises the alarm; empty for the first layer of the reference."""
    by: str = ""
    """Stratum, such as `scanner`; empty for none."""
    alpha: float = DEFAULT_ALPHA
    """Largest probability of ever raising a false alarm."""
    run_length: int | None = None
    """Number of rows A, 100 to 10⁹, in place of alpha: a false alarm within T rows has a probability of at most T/A."""
    patient_window_days: int | None = None
    """Days after which a patient may enter again, which assumes that both observations are independent; none for
    never.
    """
    first_patients: int | None = None
    """Number of first patients that one test compares with the reference; None for no such test."""
    seed: int = 0
    """Seed of all random numbers, 0 to 2⁶³ − 1."""
    window_rows: int = DEFAULT_WINDOW_ROWS
    """Rows of a window of MMD², which only describes, 16 to 5,000; 0 for no windows."""
    state: str = ""
    """File of the state, which is read if it exists and then written; empty for none."""


Layers = Mapping[str, NDArray[Any]]
"""Features by layer, of shape (rows, channels)."""


@dataclass(frozen=True)
class WindowComparison:
    """Comparison of rows of a stream with rows of its reference.

    Attributes:
        stratum: stratum of the rows; empty for all strata.
        layers: layers that the stream and the reference have in common.
        first_row, last_row: numbers of the window's first and last row, counted from 1. For an empty window, both
            numbers are 0.
        rows, reference_rows: numbers of rows of the stream and of the reference.
        absent_reason: why the rows cannot be compared; empty if they can be compared.
        x, y, scale: each maps layers to feature rows. `x` contains rows of the reference, and `y` rows of the stream.
            `scale` contains the other rows of the reference, from which scale and bandwidth are computed. Layers with
            non-finite values are omitted.
    """

    stratum: str
    layers: Sequence[str]
    first_row: int
    last_row: int
    rows: int
    reference_rows: int
    absent_reason: str
    x: Layers
    y: Layers
    scale: Layers
