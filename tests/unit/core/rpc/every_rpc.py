"""A server of all methods of the API with trivial servicers, which remember their callers."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection_pb2
from tests.token_issuer import TokenIssuer, bearer

import vfmalign.v1
from vfmalign.core.formats.bounds import get_bounds
from vfmalign.core.rpc.access.credentials import TENANT
from vfmalign.core.rpc.access.identity import Identity, current_identity, current_tenant
from vfmalign.core.rpc.interceptors import Gate
from vfmalign.core.rpc.server import serve_api
from vfmalign.core.rpc.status_mapping import DETAILS_KEY
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings import ServerSettings, ServiceSettings, StoreSettings
from vfmalign.v1 import bounds_pb2

REFLECTION = {f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")}
TENANTS = ("default", "ward-7")


def list_services() -> list[ServiceDescriptor]:
    """Returns the services of every module that is generated from proto/."""
    modules = [name for _, name, _ in pkgutil.iter_modules(vfmalign.v1.__path__) if name.endswith("_pb2")]
    files = [import_module(f"vfmalign.v1.{name}").DESCRIPTOR for name in modules]
    return [service for file in files for service in file.services_by_name.values()]


METHODS = {f"/{s.full_name}/{m.name}": m for s in list_services() for m in s.methods}


@dataclass
class Api:
    """A server whose methods answer with an empty message and remember who called."""

    issuer: TokenIssuer
    channel: grpc.aio.Channel
    callers: list[tuple[Identity | None, str]]
    """Who called, and for which tenant."""

    async def call(
        self, path: str, token: str | None = None, message: bytes = b"", tenant: str = ""
    ) -> tuple[str, str]:
        """Returns the status code and the reason of a call."""
        metadata = [] if token is None else bearer(token)
        metadata += [(TENANT, tenant)] if tenant else []
        answer = await self._call(path, metadata, message)
        # A client that streams its requests now and then sees a reset in place of the status of a refusal.
        while path in REFLECTION and answer == ("INTERNAL", ""):
            answer = await self._call(path, metadata, message)
        return answer

    async def _call(self, path: str, metadata: list[tuple[str, str]], message: bytes) -> tuple[str, str]:
        if not message and path in METHODS:
            message = create_message(METHODS[path].input_type).SerializeToString()
        try:
            if path in REFLECTION:
                request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
                async for _ in self.channel.stream_stream(path)(iter([request]), metadata=metadata):
                    pass
            elif METHODS[path].server_streaming:
                async for _ in self.channel.unary_stream(path)(message, metadata=metadata):
                    pass
            else:
                await self.channel.unary_unary(path)(message, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code().name, get_reason(error)
        return "OK", ""


def create_message(descriptor: Descriptor) -> Message:
    """Returns a message that has its required fields."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        bounds = get_bounds(field)
        if not bounds.required:
            continue
        if field.message_type is not None:
            target = getattr(message, field.name)
            (target.add() if field.is_repeated else target).MergeFrom(create_message(field.message_type))
        elif field.enum_type is not None:
            setattr(message, field.name, field.enum_type.values[-1].number)
        else:
            text = "a" * (64 if bounds.format == bounds_pb2.FORMAT_SHA256 else 1)
            setattr(message, field.name, text if field.type == FieldDescriptor.TYPE_STRING else 1)
    return message


def get_reason(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status_pb2.Status.FromString(value).details[0].Unpack(info)
    return info.reason


@asynccontextmanager
async def serve_every_rpc(folder: Path, delay_s: float = 0.0, **settings: Any) -> AsyncIterator[Api]:
    """Serves all methods of the API, which answer after a delay; takes further `settings` of a service."""
    callers: list[tuple[Identity | None, str]] = []

    def handle(method: MethodDescriptor) -> Any:
        response = GetMessageClass(method.output_type)

        async def unary(request: Any, context: Any) -> Any:
            callers.append((current_identity.get(), current_tenant.get()))
            await asyncio.sleep(delay_s)
            return response()

        async def stream(request: Any, context: Any) -> Any:
            callers.append((current_identity.get(), current_tenant.get()))
            await asyncio.sleep(delay_s)
            yield response()

        kind = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return kind(
            stream if method.server_streaming else unary,
            GetMessageClass(method.input_type).FromString,
            response.SerializeToString,
        )

    def add(server: grpc.aio.Server) -> list[ServiceDescriptor]:
        for service in list_services():
            handlers = {method.name: handle(method) for method in service.methods}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
        return list_services()

    issuer = TokenIssuer("https://idp.example")
    all_settings = ServiceSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b"),
        server=ServerSettings(grpc_port=0),
        auth=AuthSettings(
            mode="oidc", issuers=(issuer.issuer,), jwks_file=issuer.write_jwks(folder / "jwks.json"), tenants=TENANTS
        ),
        **settings,
    )
    async with AsyncExitStack() as resources:
        state = health.aio.HealthServicer()
        _, _, port = await serve_api(all_settings, add, Gate("open"), state, resources)
        channel = await resources.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield Api(issuer, channel, callers)
