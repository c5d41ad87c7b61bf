"""Metrics of API methods: started calls, finished calls, duration, and the party at fault for each failure.

The objectives of the services count only failures that are the server's fault. Callers that send invalid requests in a
loop or exceed their quotas must not use up the services' error budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import grpc
from prometheus_client import Counter, Histogram

from vfmalign.core.domain.errors import (
    MISCONFIGURED_STORE,
    BadPacsAnswer,
    PacsRefused,
    PacsUnavailable,
    VfmalignError,
)
from vfmalign.core.rpc.limits.admission import ShareExhausted
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.work_context import PACS, current_work

Fault = Literal["none", "server", "pacs", "caller"]
SHORT_DEADLINE_S = 2.0
"""If a call arrives with less time left and its deadline passes in a queue of the server, the caller is at fault."""

_OF_SERVER = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_REASONS_OF_SERVER = MISCONFIGURED_STORE | {"QUEUE_FULL", "REQUESTS_EXHAUSTED", "DISK_FULL", "DEVICE_MEMORY"}
"""Reasons that are the server's fault, although their status codes usually blame the request: a wrong setting of the
service, and RESOURCE_EXHAUSTED at a limit of the server rather than a quota of the caller or a size limit."""
_OF_PACS = (PacsUnavailable, PacsRefused, BadPacsAnswer)
_FROM_THE_START = (
    "INTERNAL", "UNAVAILABLE", "STORE_UNAVAILABLE", "STORE_FAILING", "STORE_REFUSED", "DATA_LOSS", "DEADLINE_EXCEEDED",
    "QUEUE_FULL", "REQUESTS_EXHAUSTED",
)  # fmt: skip
"""Reasons that are exported from 0 on, because a rate misses the first failures of a series that begins with them. The
objectives use counters without reasons, which all begin with 0."""
DENIALS = (
    "NO_TOKEN", "MALFORMED_TOKEN", "TOKEN_TOO_LONG", "TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID", "UNKNOWN_ISSUER",
    "UNKNOWN_KEY", "BAD_SIGNATURE", "UNSUPPORTED_ALGORITHM", "WRONG_AUDIENCE", "WRONG_TYPE", "MISSING_CLAIM",
    "INVALID_TOKEN", "WRONG_TENANT", "TENANT_REQUIRED", "MISSING_ROLE", "NOT_OWNER", "PROVIDER_UNAVAILABLE",
)  # fmt: skip
"""Every reason of a denied call."""


@dataclass(frozen=True)
class Method:
    """A method and its metrics, which are registered before the first call."""

    service: str
    name: str
    started: Counter
    seconds: Histogram
    handled: Mapping[grpc.StatusCode, Counter]
    ended: Mapping[Fault, Counter]

    @property
    def path(self) -> str:
        """Full name of the method on the wire: `/package.Service/Method`."""
        return f"/{self.service}/{self.name}"

    @classmethod
    def create(cls, service: str, name: str, kind: str) -> Method:
        """Registers the metrics of a method. `kind` is `unary`, `server_stream` or `bidi_stream`."""
        labels = (kind, service, name)
        for reason in _FROM_THE_START:
            metrics.calls_failed.labels(service, name, "server", reason)
        for reason in DENIALS:
            metrics.calls_denied.labels(service, name, reason)
        return cls(
            service,
            name,
            metrics.grpc_started.labels(*labels),
            metrics.grpc_handling_seconds.labels(*labels),
            {code: metrics.grpc_handled.labels(*labels, code.name) for code in grpc.StatusCode},
            {fault: metrics.calls_ended.labels(service, name, fault) for fault in get_args(Fault)},
        )

    def count_caller(self, tenant: str, role: str) -> None:
        """Counts a call under the role that allowed the call."""
        metrics.calls_by_role.labels(tenant, role, self.service, self.name).inc()

    def account(
        self, code: grpc.StatusCode, seconds: float, failure: VfmalignError | None, time_limit_s: float | None = None
    ) -> None:
        """Counts a finished call.

        Args:
            code: its status.
            seconds: its duration.
            failure: error with which the call ended; None if it succeeded.
            time_limit_s: seconds from the call's arrival to its deadline; None without a deadline.
        """
        self.handled[code].inc()
        self.seconds.observe(seconds)
        fault, reason = _get_fault(code, failure), code.name if failure is None else failure.reason
        is_late = fault == "server" and code is grpc.StatusCode.DEADLINE_EXCEEDED
        if is_late and time_limit_s is not None and time_limit_s < SHORT_DEADLINE_S:
            fault, reason = "caller", "SHORT_DEADLINE"
        self.ended[fault].inc()
        if fault != "none":
            metrics.calls_failed.labels(self.service, self.name, fault, reason).inc()


def register_methods(services: Mapping[str, list[tuple[str, bool]]]) -> None:
    """Registers the metrics of every method, so that they are exported before the first call.

    Args:
        services: maps the full name of each service to its methods. A method maps to True if it streams its response.
    """
    for service, methods in services.items():
        for name, streams in methods:
            Method.create(service, name, "server_stream" if streams else "unary")


def _get_fault(code: grpc.StatusCode, failure: VfmalignError | None) -> Fault:
    if code is grpc.StatusCode.OK:
        return "none"
    waits = current_work.get().waits if code is grpc.StatusCode.DEADLINE_EXCEEDED else []
    if isinstance(failure, _OF_PACS) or any(wait.startswith(PACS) for wait in waits):
        return "pacs"
    if isinstance(failure, ShareExhausted):
        return "caller"
    has_reason = failure is not None and failure.reason in _REASONS_OF_SERVER
    return "server" if code in _OF_SERVER or has_reason or waits else "caller"
