"""Reads responses that consist of several messages: pages of a list, and streams of progress with a final result."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.features import (
    ExtractDatasetResponse,
    ListDatasetsResponse,
    ListFeatureSetsResponse,
    ListModelsResponse,
)
from vfmalign.client.messages.imports import PublishDatasetResponse, PublishModelResponse
from vfmalign.core.domain.errors import DeadlineExceeded, Unavailable

RECONNECT_S = 300.0
"""Seconds that a service may be unreachable before `watch` and `wait` give up."""
_PAUSE_S = 1.0

OnProgress = Callable[[Progress], Awaitable[None] | None]

EventT = TypeVar("EventT", ExtractDatasetResponse, PublishDatasetResponse, PublishModelResponse)
PageT = TypeVar("PageT", ListDatasetsResponse, ListFeatureSetsResponse, ListModelsResponse)
RequestT = TypeVar("RequestT", bound=Message)
MessageT = TypeVar("MessageT", bound=Message)
T = TypeVar("T")


async def fetch_pages(fetch: Callable[[str], Awaitable[PageT]]) -> list[PageT]:
    """Fetches all pages of a list. `fetch` takes the token of a page; the token of the first page is empty."""
    pages = [await fetch("")]
    while token := pages[-1].next_page_token:
        pages.append(await fetch(token))
    return pages


async def read_last_event(
    call: grpc.aio.UnaryStreamCall[RequestT, MessageT], record: type[EventT], on_progress: OnProgress | None
) -> EventT | None:
    """Reads a stream of progress to its end.

    Args:
        call: the stream.
        record: class of its messages.
        on_progress: function or coroutine function that is called with each progress update.

    Returns:
        The last message, which contains the result; None if the stream had no message.
    """
    event: EventT | None = None
    try:
        async for message in call:
            event = record.from_response(message)
            if event.progress is not None and on_progress is not None:
                pending = on_progress(event.progress)
                if inspect.isawaitable(pending):
                    await pending
    finally:
        call.cancel()  # otherwise the service goes on after the reader has left
    return event


async def read_stream(
    call: grpc.aio.UnaryStreamCall[RequestT, MessageT], unpack: Callable[[MessageT], T]
) -> AsyncGenerator[T, None]:
    """Yields the unpacked messages of a stream. Ends the call when the reader stops reading."""
    try:
        async for message in call:
            yield unpack(message)
    finally:
        call.cancel()  # otherwise gRPC keeps the stream open after its reader has left


async def reconnect(
    open_stream: Callable[[], AsyncGenerator[T, None]],
    reconnect_s: float,
    on_disconnect: Callable[[Unavailable], None] | None,
) -> AsyncGenerator[T, None]:
    """Yields the messages of a watch call until the service ends the call.

    When the service restarts, calls the service again.

    Args:
        open_stream: calls the service.
        reconnect_s: seconds for which the service may be unreachable.
        on_disconnect: called whenever the connection to the service is lost.

    Raises:
        Unavailable: the service stayed unreachable.
    """
    lost_at: float | None = None
    while True:
        try:
            async with aclosing(open_stream()) as states:
                async for state in states:
                    lost_at = None
                    yield state
            return
        except DeadlineExceeded:
            continue  # only the stream has reached its deadline: the watched operation goes on
        except Unavailable as error:
            if lost_at is None:
                lost_at = time.monotonic()
                if on_disconnect is not None:
                    on_disconnect(error)
            if time.monotonic() - lost_at > reconnect_s:
                raise
        await asyncio.sleep(_PAUSE_S)
