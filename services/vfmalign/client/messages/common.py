"""Messages that several services share; fields and units are documented in `common.proto`."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from google.protobuf.message import Message

from vfmalign.client.messages.base import ApiMessage
from vfmalign.v1 import common_pb2, finetuning_pb2

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""State of a check or experiment; the labels of `CheckState` and `ExperimentState`."""
STATES: tuple[State, ...] = get_args(State)
JobState = Literal["queued", "pending", "running", "succeeded", "failed", "cancelled"]
"""State of a job; the labels of `JobState`."""
JOB_STATES: tuple[JobState, ...] = get_args(JobState)
TERMINAL_STATES: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
"""States that no other state follows."""


class ObjectRef(ApiMessage):
    """An object in the deployment's object storage.

    Attributes:
        uri: `s3://<bucket>/<key>`.
        sha256: of the object's bytes, hex.
        size_bytes: 0 where unknown.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.ObjectRef

    uri: str
    sha256: str
    size_bytes: int = 0


class Interval(ApiMessage):
    """A confidence interval.

    Attributes:
        lower, upper: ends, in the unit of the estimate.
        level: nominal coverage, in (0, 1).
        method: how it was computed.
        degenerate: True where the coverage is unreliable; never without a test.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.Interval

    lower: float
    upper: float
    level: float
    method: str
    degenerate: bool = False


class Estimate(ApiMessage):
    """A value with its interval; `absent_reason` explains in one sentence why either is missing."""

    PROTO: ClassVar[type[Message]] = common_pb2.Estimate

    value: float | None = None
    interval: Interval | None = None
    absent_reason: str = ""

    @property
    def degenerate(self) -> bool:
        """Whether there is an interval, and its coverage is unreliable."""
        return self.interval is not None and self.interval.degenerate


def absent(reason: str) -> Estimate:
    """An estimate without value or interval."""
    return Estimate(absent_reason=reason)


class StageTiming(ApiMessage):
    """Wall time of one stage of the work, in seconds."""

    PROTO: ClassVar[type[Message]] = common_pb2.StageTiming

    stage: str
    seconds: float


class Cost(ApiMessage):
    """What a response cost.

    Attributes:
        stages: in order of first use.
        device: `cpu` or `cuda:<index> <name>`.
        peak_device_memory_bytes: 0 on a CPU.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.Cost

    stages: tuple[StageTiming, ...] = ()
    device: str = ""
    peak_device_memory_bytes: int = 0


class Progress(ApiMessage):
    """Progress of a long operation.

    Attributes:
        phase: name of the running phase, such as `features_before`; for programs.
        done, total: finished units and all units; a total of 0 is unknown.
        unit: what is counted, such as `case` or `epoch`.
        elapsed_seconds: wall time since the phase began.
        detail: one sentence for people.
        reason: UPPER_SNAKE_CASE constant where the operation waits, such as `SERVICE_UNAVAILABLE`; else empty.
    """

    PROTO: ClassVar[type[Message]] = common_pb2.Progress

    phase: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    elapsed_seconds: float = 0.0
    detail: str = ""
    reason: str = ""


class Failure(ApiMessage):
    """Why a job, check or experiment failed.

    Attributes:
        reason: UPPER_SNAKE_CASE constant.
        message: one sentence with the object and the remedy.
        exit_code: of the training process, where there was one.
    """

    PROTO: ClassVar[type[Message]] = finetuning_pb2.Failure

    reason: str
    message: str
    exit_code: int | None = None


class SoftwareVersion(ApiMessage):
    """A distribution, such as `torch`, and its version."""

    PROTO: ClassVar[type[Message]] = common_pb2.SoftwareVersion

    name: str
    version: str
