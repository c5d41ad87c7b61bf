"""Asynchronous client of a deployment."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import grpc

from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.operations import AsyncChecksClient, AsyncExperimentsClient, AsyncJobsClient
from vfmalign.client.settings import Token, load_client_settings
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.channels import CALL_TIMEOUT_S, STREAM_TIMEOUT_S, connect

Service = Literal["features", "mmd", "finetuning"]


class AsyncClient:
    """Calls the services of a deployment; failed calls raise the errors of `vfmalign.core.domain.errors`.

    Addresses, `ca_file` and `token` that are not given are read from the environment: `VFMALIGN_FEATURES_ADDRESS`,
    `VFMALIGN_MMD_ADDRESS`, `VFMALIGN_FINETUNING_ADDRESS`, `VFMALIGN_CA_FILE`, and `VFMALIGN_TOKEN` or
    `VFMALIGN_TOKEN_FILE`. The first call to a service opens its channel; gRPC reconnects it and repeats calls that the
    service could not take (UNAVAILABLE). A client belongs to the event loop of its first call.

    Args:
        features_address: `host:port` of the feature service.
        mmd_address: `host:port` of the MMD service.
        finetuning_address: `host:port` of the finetuning service: jobs, checks and experiments.
        ca_file: PEM file of the authorities that sign the services' certificates; without it, calls are not encrypted.
        token: the caller's access token, sent with every call: the token itself, the path of a file that holds it (read
            again when it changes), or a function that returns it (called before every call, on the event loop).
        call_timeout_s: deadline of calls with one response, in seconds.
        stream_timeout_s: deadline of streaming calls, in seconds.
        wait_for_ready: calls wait, up to their deadline, for a service that is not reachable yet.

    Attributes:
        features: studies and datasets to features; models and datasets.
        mmd: comparisons of features.
        jobs: training jobs.
        checks: alignment checks.
        experiments: models × tasks × seeds.

    Raises:
        BadOption: a setting is wrong.
    """

    def __init__(
        self,
        *,
        features_address: str | None = None,
        mmd_address: str | None = None,
        finetuning_address: str | None = None,
        ca_file: Path | str | None = None,
        token: Token | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        stream_timeout_s: float = STREAM_TIMEOUT_S,
        wait_for_ready: bool = False,
    ) -> None:
        settings = load_client_settings(
            features_address=features_address,
            mmd_address=mmd_address,
            finetuning_address=finetuning_address,
            ca_file=ca_file,
        )
        self._addresses: dict[Service, str] = {
            "features": settings.features_address,
            "mmd": settings.mmd_address,
            "finetuning": settings.finetuning_address,
        }
        self._connect = partial(
            connect,
            call_timeout_s=call_timeout_s,
            stream_timeout_s=stream_timeout_s,
            wait_for_ready=wait_for_ready,
            ca_file=settings.ca_file,
            token=settings.to_bearer_token(token),
        )
        self._channels: dict[Service, grpc.aio.Channel] = {}
        self.features = AsyncFeaturesClient(partial(self._channel, "features"))
        self.mmd = AsyncMmdClient(partial(self._channel, "mmd"))
        self.jobs = AsyncJobsClient(partial(self._channel, "finetuning"))
        self.checks = AsyncChecksClient(partial(self._channel, "finetuning"))
        self.experiments = AsyncExperimentsClient(partial(self._channel, "finetuning"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels; running calls are cancelled."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))

    def _channel(self, service: Service) -> grpc.aio.Channel:
        # Opened on first use: a channel of grpc.aio belongs to the event loop that runs when it is created.
        if service not in self._channels:
            if not self._addresses[service]:
                raise BadOption(
                    f"no address of the {service} service is configured",
                    field=f"{service}_address",
                    remedy=f"set VFMALIGN_{service.upper()}_ADDRESS, or pass `{service}_address`",
                )
            self._channels[service] = self._connect(self._addresses[service])
        return self._channels[service]
