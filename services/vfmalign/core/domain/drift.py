"""What `vfmalign drift` asks of the process that observes a stream."""

from __future__ import annotations

from pydantic import Field

from vfmalign.core.domain.record import Record

DEFAULT_ALPHA = 0.01
DEFAULT_WINDOW_ROWS = 100
MIN_WINDOW_ROWS = 16
MAX_WINDOW_ROWS = 5000


class DriftRequest(Record):
    """A stream, its reference, and the options of the monitor.

    Attributes:
        reference: a .npy file, or a feature set as `ID` or `ID@SHA256`.
        streams: of the same kind, in the order of arrival.
        reference_table, stream_table: CSV files with a line for each row of .npy files; empty for none.
        layer: raises the alarm; empty for the first one of the reference.
        by: stratum, such as `scanner`; empty for none.
        alpha, run_length, patient_window_days, first_patients, seed: see `monitoring.sequential.MonitorOptions`.
        window_rows: rows of a window; 0 for no windows.
        state: file of the state, which is read if it exists and then written; empty for none.
    """

    reference: str
    streams: tuple[str, ...] = Field(min_length=1)
    reference_table: str = ""
    stream_table: str = ""
    layer: str = ""
    by: str = ""
    alpha: float = DEFAULT_ALPHA
    run_length: int | None = None
    patient_window_days: int | None = None
    first_patients: int | None = None
    seed: int = 0
    window_rows: int = DEFAULT_WINDOW_ROWS
    state: str = ""
