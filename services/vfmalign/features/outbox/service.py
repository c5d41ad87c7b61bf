"""The outboxes of all tenants, and their sender. The feature service starts and stops the outboxes and the sender."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.client.async_client import AsyncClient
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.features.outbox.delivery import Outbox
from vfmalign.features.outbox.pending import PendingKeys
from vfmalign.features.outbox.sender import Sender
from vfmalign.features.settings import FeaturesSettings


class Outboxes:
    """Outboxes by tenant. If the address of the monitoring service is not set, all observations are dropped.

    Args:
        settings: settings of the feature service.
        stores: object stores by tenant.

    Attributes:
        by_tenant: outboxes by tenant.

    Raises:
        BadOption: the token of this service would be sent unencrypted to another machine.
    """

    def __init__(self, settings: FeaturesSettings, stores: Mapping[str, ObjectStore]) -> None:
        self._clients = _open_clients(settings, stores)
        options = settings.outbox
        self.by_tenant = {
            tenant: Outbox(store, self._clients.get(tenant), PendingKeys(tenant, options), options)
            for tenant, store in stores.items()
        }
        self._sender = Sender(self._clients, list(self.by_tenant.values()), options) if self._clients else None

    def start(self) -> None:
        """Starts sending waiting observations."""
        if self._sender is not None:
            self._sender.start()

    async def close(self) -> None:
        """Stops the sender and its calls after running writes have ended."""
        for outbox in self.by_tenant.values():
            await outbox.close()
        if self._sender is not None:
            await self._sender.close()
        for client in self._clients.values():
            await client.close()


def _open_clients(settings: FeaturesSettings, tenants: Mapping[str, ObjectStore]) -> dict[str, AsyncClient]:
    if not settings.monitoring_address:
        return {}
    token = BearerToken.from_settings(settings.auth)
    if token is not None:  # check it now: later, a call would fail as if the service had rejected it
        token.check_channel(settings.monitoring_address, encrypted=settings.ca_file is not None)
    return {tenant: _open_client(settings, token, tenant) for tenant in tenants}


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
