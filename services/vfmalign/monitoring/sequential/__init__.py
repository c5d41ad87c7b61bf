"""Sequential tests for drift, valid at every look: they take arrays and return evidence.

`Monitor` is the entry point. Rows enter one after the other. Each row updates four pieces of evidence that the rows no
longer follow the distribution of the reference. `references` prepares the reference; `row_scores`, `block_scores` and
`strata` rank rows within one stratum; `betting` turns ranks into evidence, `thresholds` decides when the evidence
suffices for an alarm, and `state` stores a monitor exactly. `channels` describes which channels moved.

docs/monitoring-mathematics.md derives the guarantee and names the function of each step.
"""

from vfmalign.monitoring.sequential.channels import ChannelShift, get_channel_shifts
from vfmalign.monitoring.sequential.monitor import Monitor, prepare_epoch
from vfmalign.monitoring.sequential.records import (
    SEQUENTIAL,
    Alarm,
    Component,
    EpochStart,
    ExtremeRow,
    MonitorOptions,
    MonitorStatus,
    Observation,
    Outcome,
)
from vfmalign.monitoring.sequential.references import Reference, prepare_reference
from vfmalign.monitoring.sequential.state import OutdatedState, from_bytes, to_bytes

__all__ = [
    "SEQUENTIAL",
    "Alarm",
    "ChannelShift",
    "Component",
    "EpochStart",
    "ExtremeRow",
    "Monitor",
    "MonitorOptions",
    "MonitorStatus",
    "Observation",
    "Outcome",
    "OutdatedState",
    "Reference",
    "from_bytes",
    "get_channel_shifts",
    "prepare_epoch",
    "prepare_reference",
    "to_bytes",
]
