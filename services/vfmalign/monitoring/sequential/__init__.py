"""Tests for drift that hold at every look: arrays in, evidence out.

`Monitor` is the whole of it: rows enter one after the other, and each changes four pieces of evidence that the row's
distribution is no longer that of the reference. `references` prepares what rows are compared with; `row_scores`,
`block_scores` and `strata` turn rows into ranks among those of one stratum; `betting` turns ranks into evidence,
`thresholds` says when it suffices, and `state` stores a monitor exactly. `channels` describes what moved.

docs/monitoring.md derives the guarantee and names the function of each step.
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
