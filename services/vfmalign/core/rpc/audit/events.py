"""Audit events of calls: one line when a call ends, and before it one when a call that changes data begins.

A line names the caller, the method, the objects and the outcome. It contains neither the text of an error nor an id of
a case, a group or an observation.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import Message

from vfmalign.core.rpc.access.authorisation import SERVICES
from vfmalign.core.rpc.access.identity import current_identity, current_tenant
from vfmalign.core.rpc.audit.objects import NamedObject, find_objects, is_changing
from vfmalign.core.rpc.audit.trail import AuditTrail
from vfmalign.core.runtime import logs

MAX_LINE_BYTES = 4_096
"""Maximum length of a line. POSIX writes this many bytes to a pipe at once."""
_UNSTATED = ("grpc.",)
"""Prefixes of the services whose calls have no events: health and reflection."""


@dataclass
class CallAudit:
    """The audit of one call.

    Args:
        trail: where lines go.
        service: full name of the service, such as `vfmalign.v1.MmdService`.
        method: name of the method.
        peer: address of the client, in gRPC's format.
    """

    trail: AuditTrail
    service: str
    method: str
    peer: str
    _id: str = field(default_factory=lambda: secrets.token_hex(8))
    _objects: dict[tuple[str, str], str] = field(default_factory=dict)
    _is_stated: bool = False

    def begin(self, request: Message) -> None:
        """Records the objects of a request, before the servicer runs.

        Raises:
            Unavailable: the call changes data, and the audit log cannot be written.
        """
        if self.service.startswith(_UNSTATED):
            return
        self._add(find_objects(request))
        if is_changing(self.method):
            self.trail.check()
            self._is_stated = True
            self._write("begin")

    def add_response(self, response: Message) -> None:
        """Records the digests that a response states, and the objects that a call that changes data has created."""
        if not self.service.startswith(_UNSTATED):
            named = find_objects(response)
            self._add(named if is_changing(self.method) else [one for one in named if one[:2] in self._objects])

    def end(self, outcome: str, reason: str) -> None:
        """Writes the line of a call that has ended.

        Args:
            outcome: name of the status code.
            reason: constant of the error; empty if there is none.
        """
        identity = current_identity.get()
        fields: dict[str, Any] = {"outcome": outcome, "reason": reason}
        if identity is None and not self.service.startswith(_UNSTATED):
            left_out = self.trail.admit_stranger()
            if left_out is None:
                return
            fields |= {"denials_left_out": left_out} if left_out else {}
        is_probe = identity is not None and identity.roles.issubset(SERVICES) and not self._objects
        if not self.service.startswith(_UNSTATED) and (self._is_stated or outcome != "OK" or not is_probe):
            self._write("end", **fields)

    def _add(self, named: list[NamedObject]) -> None:
        for kind, name, digest in named:
            self._objects[kind, name] = digest or self._objects.get((kind, name), "")

    def _write(self, phase: str, **fields: Any) -> None:
        identity = current_identity.get()
        line: dict[str, Any] = {
            "event": "audit",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self._id,
            "phase": phase,
            "subject": identity.subject if identity else "",
            "issuer": identity.issuer if identity else "",
            "tenant": current_tenant.get(""),
            "roles": sorted(identity.roles) if identity else [],
            "method": f"{self.service}/{self.method}",
            **fields,
            "request_id": logs.request_id.get(),
            "peer": unquote(self.peer.rpartition(":")[0]),
        }
        objects = [
            {"kind": kind, "id": name} | ({"digest": digest} if digest else {})
            for (kind, name), digest in self._objects.items()
        ]
        self.trail.write(_to_line(line, objects))


def _to_line(line: dict[str, Any], objects: list[dict[str, str]]) -> bytes:
    """Returns a line of at most `MAX_LINE_BYTES`, with as many objects as fit."""
    kept = len(objects)
    while True:
        content = line | {"objects": objects[:kept]}
        if kept < len(objects):
            content["objects_left_out"] = len(objects) - kept
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(data) <= MAX_LINE_BYTES or kept == 0:
            return data
        kept = kept * MAX_LINE_BYTES // (len(data) + MAX_LINE_BYTES // 8)
