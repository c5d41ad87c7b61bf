"""The monitoring service as this process sees it: its client for each tenant, and whether it is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.messages.monitors import ObservationResult
from vfmalign.core.domain.errors import (
    MISCONFIGURED_STORE,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Internal,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unavailable,
    VfmalignError,
)
from vfmalign.features.outbox.entries import Observed

REFUSALS = (Conflict, InvalidInput, NotFound, PreconditionFailed, TooLarge)
"""Errors of Observe that a repetition cannot solve."""
_AWAY = (Unavailable, DeadlineExceeded)


def is_refused(error: BaseException, *, is_promised: bool) -> bool:
    """Returns whether the monitoring service will never record an observation.

    Args:
        error: of Observe.
        is_promised: whether a caller was told that it is queued. It then waits where this service lacks a permission,
            until an operator has corrected that.
    """
    if isinstance(error, VfmalignError) and error.reason in MISCONFIGURED_STORE:
        return False  # of the service's settings, and says nothing about the observation
    return isinstance(error, REFUSALS) or (isinstance(error, Forbidden) and not is_promised)


class MonitoringLink:
    """Calls the monitoring service with the token of this service, for the tenant of an observation.

    Args:
        clients: by tenant.

    Attributes:
        is_away: whether the last call found no service, or waits for its answer. Calls of Extract do not wait for it
            then; the sender finds out when it is back.
    """

    def __init__(self, clients: Mapping[str, AsyncClient]) -> None:
        self._clients = clients
        self.is_away = False

    async def observe(self, tenant: str, batch: Sequence[Observed]) -> tuple[ObservationResult, ...]:
        """Records observations of one monitor and origin, in their order.

        Raises:
            VfmalignError: none of them is recorded, or nobody knows.
        """
        first = batch[0]
        try:
            results = await self._clients[tenant].monitors.observe(
                first.monitor, [one.observation for one in batch], first.origin
            )
        except _AWAY:
            self.is_away = True
            raise
        except REFUSALS:
            self.is_away = False
            raise
        self.is_away = False
        if len(results) != len(batch):
            raise Internal("the monitoring service has answered with another number of results", subject="Observe")
        return results

    async def close(self) -> None:
        """Closes the clients."""
        for client in self._clients.values():
            await client.close()


def get_reason(error: BaseException) -> str:
    """Returns the constant of an error for answers and metrics."""
    return error.reason if isinstance(error, VfmalignError) else Internal.reason
