"""Sequential tests for drift.

The tests take arrays and return evidence. You may look at the evidence as often as you want.

`Monitor` is the entry point. A monitor observes one row after the other. Each row updates four measures of the evidence
that rows no longer follow the distribution of the reference. `references` prepares the reference. `row_scores`,
`block_scores` and `strata` rank rows within one stratum. `betting` converts ranks to evidence. `thresholds` decides
whether the evidence is sufficient for an alarm. `state` stores the exact state of a monitor. `channels` describes which
channels moved.

docs/monitoring-mathematics.md derives the guarantee and names the function that implements each step.
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
from vfmalign.monitoring.sequential.references import Reference, get_patient_digest, prepare_reference
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
    "get_patient_digest",
    "prepare_epoch",
    "prepare_reference",
    "to_bytes",
]
