"""Identity of a caller, which the token proves. The interceptor, servicers and logs use this identity."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """A caller.

    Attributes:
        subject: identifier of the caller, unique within its issuer.
        issuer: issuer of the caller's token.
        tenants: tenants of the deployment for which the caller may act.
        roles: roles that permit the caller's RPCs (`core.rpc.access.authorisation`).
    """

    subject: str
    issuer: str
    tenants: frozenset[str]
    roles: frozenset[str]

    @property
    def key(self) -> str:
        """Caller identifier, unique across issuers."""
        return f"{self.issuer}#{self.subject}"


current_identity: ContextVar[Identity | None] = ContextVar("vfmalign_identity", default=None)
"""The caller that the running context serves; None outside a request and in calls that need no identity."""

current_tenant: ContextVar[str] = ContextVar("vfmalign_tenant")
"""The tenant for which the running call acts; without a value outside a request and in calls that need no identity."""
