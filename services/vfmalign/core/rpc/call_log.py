"""Log of calls: one line for each successful call, and a bounded number of lines for failed calls.

Without this bound, one client that fails in a loop would fill the disk and hide other clients' failures. The metrics
count every call by its status code.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.work_context import current_work

LINES_PER_MINUTE = 20
"""Lines for failures of one method, caller and reason."""
_MINUTE_S = 60.0
_MAX_KINDS = 10_000
_NOBODY = Identity("", "", frozenset(), frozenset())
_LOG = logs.get("rpc")


@dataclass
class _Lines:
    """Lines about one kind of failure since `began_s`."""

    began_s: float
    written: int = 0
    left_out: int = 0


@dataclass
class CallLog:
    """Writes the log lines for the calls of one server, on the server's event loop.

    Lines identify callers by the subjects of their tokens. The claims of an invalid token are not logged.
    """

    _lines: dict[tuple[str, str, str], _Lines] = field(default_factory=dict)

    def log_call(self, method: str, code: str, seconds: float, failure: VfmalignError | None) -> None:
        """Logs a call that has ended or that its caller has cancelled."""
        fields: dict[str, Any] = {"method": method, "code": code, "seconds": round(seconds, 4)}
        if failure is not None:
            fields |= {"reason": failure.reason, "error": failure}
        elif code != "OK":
            fields |= {"reason": code, "waited_for": list(current_work.get().waits)}
        if code in {"OK", "CANCELLED"}:
            _LOG.info("call", **fields)
        else:
            self._warn("call", (current_identity.get() or _NOBODY).subject, fields)

    def log_denial(self, method: str, denial: VfmalignError, peer: str = "", key_id: str = "") -> None:
        """Logs a denied call.

        Args:
            method: the RPC.
            denial: why.
            peer: address and port of the client, in gRPC's format.
            key_id: key id in the token. The id is not verified.
        """
        identity = current_identity.get() or _NOBODY
        fields = {
            "method": method,
            "reason": denial.reason,
            "peer": unquote(peer.rpartition(":")[0]),
            "key_id": key_id,
            "issuer": identity.issuer,
            "roles": sorted(identity.roles),
        }
        self._warn("call_denied", identity.subject, fields)

    def _warn(self, event: str, subject: str, fields: dict[str, Any]) -> None:
        kind, now = (event + fields["method"], subject, fields["reason"]), time.monotonic()
        if len(self._lines) >= _MAX_KINDS:
            self._lines.clear()
        lines = self._lines.setdefault(kind, _Lines(now))
        if lines.written >= LINES_PER_MINUTE and now - lines.began_s < _MINUTE_S:
            lines.left_out += 1
            return
        if lines.left_out:
            fields = fields | {"lines_left_out": lines.left_out}
        if now - lines.began_s >= _MINUTE_S:
            self._lines[kind] = lines = _Lines(now)
        lines.written += 1
        _LOG.warning(event, subject=subject, **fields)
