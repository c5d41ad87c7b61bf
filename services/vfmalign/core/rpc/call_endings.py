"""How calls end that fail: with which status, and after which delay."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import NoReturn

import grpc

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.audit.events import CallAudit
from vfmalign.core.rpc.limits.admission import Context
from vfmalign.core.runtime.fair_gate import QueueFull

# A client cancels at its own deadline, a moment before the server notices its own. A call that is cancelled this close
# to the deadline is counted as DEADLINE_EXCEEDED.
_DEADLINE_SLACK_S = 0.1
_REFUSAL_S = 1.0
"""Seconds to hold a call that found no place before it ends, so that callers who repeat it at once cost little time."""
_LONGEST_REFUSAL_S = 10.0
"""Maximum of these seconds for a call that is repeated before its stated delay has passed."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Ending:
    """How a failed call is aborted: after its handler has ended, and without a reference to its error.

    gRPC keeps the frames through which an abort passes until the garbage collector runs, which may be minutes later.
    These frames must refer neither to the request nor to an error, which would refer to the frames of the handler.

    Attributes:
        code, message, trailers: parts of the status.
        delay_s: seconds until the call ends.
        identifying: whether the caller is being identified.
        audit: audit of the call.
    """

    audit: CallAudit
    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    message: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    delay_s: float = 0.0
    identifying: bool = False

    async def abort(self, context: Context) -> NoReturn:
        """Ends the call."""
        await asyncio.sleep(self.delay_s)
        await context.abort(self.code, self.message, self.trailers)


def get_refusal_s(failure: VfmalignError, context: Context) -> float:
    """Returns the seconds to hold a rejected call: about its stated delay if the call was repeated too early.

    The delay is randomised, so that calls that were rejected together do not come again together.
    """
    delay_s = _REFUSAL_S
    if isinstance(failure, QueueFull) and failure.is_early:
        spread = random.uniform(0.5, 1.5)  # noqa: S311
        delay_s = min(max((failure.retry_after_s or 0.0) * spread, delay_s), _LONGEST_REFUSAL_S)
    left_s = context.time_remaining()
    return delay_s if left_s is None else min(delay_s, max(0.0, left_s - _DEADLINE_SLACK_S))


def is_late(context: Context) -> bool:
    """Returns whether the deadline of a call has passed, or is about to."""
    left_s = context.time_remaining()
    return left_s is not None and left_s <= _DEADLINE_SLACK_S


def get_code(context: Context) -> grpc.StatusCode:
    """Returns the status code with which a handler has aborted its call."""
    code: grpc.StatusCode | int = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)
