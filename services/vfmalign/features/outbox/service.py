"""The outboxes of all tenants with their sender, as the feature service starts and ends them."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.outbox.delivery import Outbox
from vfmalign.features.outbox.link import MonitoringLink
from vfmalign.features.outbox.sender import Sender
from vfmalign.features.outbox.waiting import Waiting
from vfmalign.features.settings import FeaturesSettings


class Outboxes:
    """Outboxes by tenant. Without an address of the monitoring service, they drop what they are given.

    Args:
        settings: of the feature service.
        stores: by tenant.

    Attributes:
        by_tenant: the outboxes.

    Raises:
        BadOption: the token of this service would leave this machine unencrypted.
    """

    def __init__(self, settings: FeaturesSettings, stores: Mapping[str, ObjectStore]) -> None:
        self._link = _open_link(settings, stores)
        options = settings.outbox
        self.by_tenant = {
            tenant: Outbox(store, self._link, Waiting(tenant, options), options) for tenant, store in stores.items()
        }
        self._sender = None if self._link is None else Sender(self._link, list(self.by_tenant.values()), options)

    def start(self) -> None:
        """Begins to send what waits."""
        if self._sender is not None:
            self._sender.start()

    async def close(self) -> None:
        """Ends the sender and the calls, after the writes that are under way."""
        for outbox in self.by_tenant.values():
            await outbox.close()
        if self._sender is not None:
            await self._sender.close()
        if self._link is not None:
            await self._link.close()


def _open_link(settings: FeaturesSettings, tenants: Mapping[str, ObjectStore]) -> MonitoringLink | None:
    if not settings.monitoring_address:
        return None
    token = BearerToken.from_settings(settings.auth)
    if token is not None:  # now, because a call would fail like one that the service refuses
        token.check_channel(settings.monitoring_address, encrypted=settings.ca_file is not None)
    return MonitoringLink({tenant: _open_client(settings, token, tenant) for tenant in tenants})


def _open_client(settings: FeaturesSettings, token: BearerToken | None, tenant: str) -> AsyncClient:
    return AsyncClient(
        monitoring_address=settings.monitoring_address,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        tenant=tenant,
        token=token,
        call_timeout_s=settings.outbox.call_timeout_s,
    )
