"""Synchronous channels that carry a token, for tests that call the services of a stack by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from vfmalign.core.rpc.access.credentials import BearerToken


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _AddToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, token: BearerToken) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._token.get_metadata()]
        fields = (details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
        return continuation(_Details(*fields, details.compression), request)

    intercept_unary_stream = intercept_unary_unary


def open_channel(address: str, token_file: Path, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """Opens a channel whose calls carry the token of a file, which is read again when it changes."""
    return grpc.intercept_channel(grpc.insecure_channel(address, options), _AddToken(BearerToken(file=token_file)))
