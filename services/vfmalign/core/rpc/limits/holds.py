"""Resources that a call occupies until gRPC has finished it: one place of its caller, and memory for the answer.

Callers of the RPC that needs no identity share a small part of the calls and of the memory. The other calls and the
rest of the memory are reserved for callers with an identity.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from vfmalign.core.rpc.access.authorisation import SERVICES, needs_identity
from vfmalign.core.rpc.access.identity import current_identity, current_tenant
from vfmalign.core.rpc.limits.admission import Admission, Context
from vfmalign.core.rpc.limits.connections import Connections
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.fair_gate import Caller, current_caller

_ANONYMOUS = Caller("", "callers without identity")
_LOG = logs.get("rpc")


@dataclass(eq=False)
class Hold:
    """Resources that one call holds.

    Attributes:
        caller: who calls.
        admission: limits of the caller's calls and memory.
        path: the RPC.
        peer: the connection.
        connections: closes the connections of callers that do not read their answers.
        resources: resources to release when gRPC has finished the call.
    """

    caller: Caller
    admission: Admission
    path: str
    peer: str
    connections: Connections
    resources: ExitStack = field(default_factory=ExitStack)
    _free_answer: Callable[[], None] | None = None

    async def send(self, answer: bytes) -> None:
        """Reserves memory for an answer until the caller has read it or the call has ended.

        Raises:
            Exhausted: not enough memory became free in time.
        """
        self._free_answer = await self.admission.send(self.caller, len(answer), self._give_up)

    def taken(self) -> None:
        """Frees the memory of the answer."""
        if self._free_answer is not None:
            self._free_answer()
            self._free_answer = None

    def close(self) -> None:
        """Releases everything."""
        self.taken()
        self.resources.close()

    def _give_up(self) -> None:
        metrics.answers_not_taken.inc()
        closes = self.connections.close(self.peer)
        _LOG.warning("answer_not_taken", method=self.path, connection="closed" if closes else "shared")


@dataclass(frozen=True)
class Holds:
    """Calls, memory and connections of one server.

    Attributes:
        identified: calls and memory of callers with an identity.
        anonymous: calls and memory of all callers of RPCs that need no identity.
        connections: open connections.
    """

    identified: Admission
    anonymous: Admission
    connections: Connections

    def begin(self, context: Context, path: str) -> Hold:
        """Counts a caller's call until gRPC has finished the call.

        Services call on behalf of all users and therefore have no limit.

        Raises:
            Exhausted: the caller has its maximum number of concurrent calls.
        """
        identity, peer = current_identity.get(), context.peer()
        if not needs_identity(path):
            hold = Hold(_ANONYMOUS, self.anonymous, path, peer, self.connections)
        else:  # in mode `off`, all calls from one address count as one caller
            key = identity.key if identity is not None and identity.issuer else peer.rpartition(":")[0]
            hold = Hold(Caller(current_tenant.get(), key), self.identified, path, peer, self.connections)
        current_caller.set(hold.caller)
        if identity is None or identity.roles.isdisjoint(SERVICES):
            hold.resources.enter_context(hold.admission.count(hold.caller))
        hold.resources.enter_context(self.connections.joined(peer, hold.caller.key))
        close: Any = lambda _: hold.close()  # noqa: E731 - its stub names a class that callbacks cannot have
        context.add_done_callback(close)
        return hold
