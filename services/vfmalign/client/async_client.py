"""Asynchronous client of a deployment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import grpc

from vfmalign.client.erasure import AsyncErasuresClient, ErasingService
from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.imports import AsyncDatasetsClient, AsyncModelsClient
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.monitors import AsyncMonitorsClient
from vfmalign.client.operations import AsyncChecksClient, AsyncExperimentsClient, AsyncJobsClient
from vfmalign.client.settings import Token, load_client_settings
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.channels import CALL_TIMEOUT_S, STREAM_TIMEOUT_S, connect

Service = Literal["features", "mmd", "finetuning", "monitoring"]

RENEW_AFTER_S = 1.0
"""Age at which a channel that finds no server is replaced, in seconds.

While a name has no address, gRPC lengthens the pauses between its look-ups up to two minutes, which no option limits. A
new channel looks up at once.
"""


@dataclass(frozen=True)
class _OpenChannel:
    """A channel, the version of the files that it was opened with, and when it was opened by `time.monotonic`."""

    channel: grpc.aio.Channel
    version: tuple[tuple[int, int], ...]
    opened_s: float

    def is_stuck(self) -> bool:
        """Returns whether the channel has had time to find a server, but has found none."""
        is_failing = self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        return is_failing and time.monotonic() - self.opened_s >= RENEW_AFTER_S


class AsyncClient:
    """Calls the services of a deployment. Failed calls raise the errors of `vfmalign.core.domain.errors`.

    If you omit an address, a file, `tenant` or `token`, the client reads it from the environment:
    `VFMALIGN_FEATURES_ADDRESS`, `VFMALIGN_MMD_ADDRESS`, `VFMALIGN_FINETUNING_ADDRESS`, `VFMALIGN_MONITORING_ADDRESS`,
    `VFMALIGN_CA_FILE`, `VFMALIGN_CERT_FILE`, `VFMALIGN_KEY_FILE`, `VFMALIGN_TENANT`, and `VFMALIGN_TOKEN` or
    `VFMALIGN_TOKEN_FILE`. A channel opens at the first call to its service. gRPC reconnects a broken channel, and
    repeats calls that the service answers with UNAVAILABLE. If a channel has lost every server, the next call opens a
    new channel, which immediately resolves the service's name again. Use a client only on the event loop of its first
    call.

    Args:
        features_address: `host:port` of the feature service.
        mmd_address: `host:port` of the MMD service.
        finetuning_address: `host:port` of the finetuning service: jobs, checks and experiments.
        monitoring_address: `host:port` of the monitoring service.
        ca_file: PEM file of the authorities that sign the services' certificates. Without this file, calls are not
            encrypted.
        cert_file: PEM file of the client's certificate chain, for services that require one (mutual TLS). When one of
            the three TLS files is replaced, the client opens new channels.
        key_file: PEM file of the client certificate's unencrypted private key.
        tenant: tenant whose data the calls use. Callers with a single tenant can omit this argument.
        token: access token of the caller: a text, the path of a file, or a function that returns the token. If the file
            changes, the client reads it again. The client calls the function on its event loop before every call.
        call_timeout_s: deadline of calls with one response, in seconds.
        stream_timeout_s: deadline of streaming calls, in seconds.
        wait_for_ready: if true, calls wait until their deadline for a service that is not reachable yet.

    Attributes:
        features: extraction of features; lists of models and datasets.
        datasets: imports of datasets.
        models: imports of models.
        mmd: comparisons of features.
        jobs: training jobs.
        checks: alignment checks.
        experiments: experiments (models × tasks × seeds).
        monitors: drift monitors.
        erasures: erasures of patients.

    Raises:
        BadOption: a setting is wrong.
    """

    def __init__(
        self,
        *,
        features_address: str | None = None,
        mmd_address: str | None = None,
        finetuning_address: str | None = None,
        monitoring_address: str | None = None,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        tenant: str | None = None,
        token: Token | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        stream_timeout_s: float = STREAM_TIMEOUT_S,
        wait_for_ready: bool = False,
    ) -> None:
        settings = load_client_settings(
            features_address=features_address,
            mmd_address=mmd_address,
            finetuning_address=finetuning_address,
            monitoring_address=monitoring_address,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            tenant=tenant,
        )
        self._files = settings.to_tls_files()
        self._addresses: dict[Service, str] = {
            "features": settings.features_address,
            "mmd": settings.mmd_address,
            "finetuning": settings.finetuning_address,
            "monitoring": settings.monitoring_address,
        }
        self._connect = partial(
            connect,
            call_timeout_s=call_timeout_s,
            stream_timeout_s=stream_timeout_s,
            wait_for_ready=wait_for_ready,
            files=self._files,
            token=settings.to_bearer_token(token),
            tenant=settings.tenant,
        )
        self._grace_s = stream_timeout_s
        self._channels: dict[Service, _OpenChannel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.features = AsyncFeaturesClient(partial(self._channel, "features"))
        self.datasets = AsyncDatasetsClient(partial(self._channel, "features"))
        self.models = AsyncModelsClient(partial(self._channel, "features"))
        self.mmd = AsyncMmdClient(partial(self._channel, "mmd"))
        self.jobs = AsyncJobsClient(partial(self._channel, "finetuning"))
        self.checks = AsyncChecksClient(partial(self._channel, "finetuning"))
        self.experiments = AsyncExperimentsClient(partial(self._channel, "finetuning"))
        self.monitors = AsyncMonitorsClient(partial(self._channel, "monitoring"))
        services: tuple[ErasingService, ...] = ("features", "finetuning", "monitoring")
        self.erasures = AsyncErasuresClient({service: partial(self._channel, service) for service in services})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels and cancels the running calls."""
        opened, self._channels = list(self._channels.values()), {}
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(one.channel.close() for one in opened), *self._closing, return_exceptions=True)

    def _channel(self, service: Service) -> grpc.aio.Channel:
        # Opened on first use: a channel of grpc.aio belongs to the event loop that runs when it is created.
        if service not in self._channels:
            if not self._addresses[service]:
                raise BadOption(
                    f"no address of the {service} service is configured",
                    field=f"{service}_address",
                    remedy=f"set VFMALIGN_{service.upper()}_ADDRESS, or pass `{service}_address`",
                )
            self._channels[service] = self._open(service)
        elif self._channels[service].is_stuck() or self._is_outdated(self._channels[service]):
            outdated = self._channels[service]
            self._channels[service] = self._open(service)
            # Running calls end on the connection on which they began.
            closing = asyncio.create_task(outdated.channel.close(self._grace_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self._channels[service].channel

    def _open(self, service: Service) -> _OpenChannel:
        version = () if self._files is None else self._files.get_version()
        return _OpenChannel(self._connect(self._addresses[service]), version, time.monotonic())

    def _is_outdated(self, opened: _OpenChannel) -> bool:
        """Whether a file for TLS was replaced since the channel opened; no while a file is being replaced."""
        if self._files is None:
            return False
        try:
            return self._files.get_version() != opened.version
        except OSError:
            return False
