"""Structured logs: one JSON object per line on stderr, with the id of the request that caused it.

Knows structlog and the request id of the running context. Knows nothing of what is logged: callers log generated ids,
never names, paths or secrets.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from contextvars import ContextVar
from typing import cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from vfmalign.core.runtime.settings import LogSettings

REQUEST_ID_HEADER = "x-request-id"
"""The gRPC metadata key under which a request id travels from service to service."""

_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,64}")
request_id: ContextVar[str] = ContextVar("vfmalign_request_id", default="")
"""The id of the request that the running context serves; empty outside one. Log lines and outgoing calls carry it."""

# urllib3 logs request lines, and those of presigned requests carry a signature.
_QUIET_LOGGERS = ("urllib3", "asyncio", "matplotlib", "PIL")


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; it may be made at import, for it looks its configuration up when it is used."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(module=name))


def configure(service: str, settings: LogSettings) -> None:
    """Sends the logs of this process, those of libraries included, to stderr as JSON lines.

    Args:
        service: name that every line carries.
        settings: the least severe level that is logged.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]

    def add_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_service,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def bind(**fields: object) -> None:
    """Fields that every later line of this context carries."""
    structlog.contextvars.bind_contextvars(**fields)


def accept_request_id(offered: str | None) -> str:
    """The id that a caller offered, or a new one where it offered none, or one that could break a log line."""
    if offered is not None and _REQUEST_ID_PATTERN.fullmatch(offered):
        return offered
    return secrets.token_hex(16)


class _Stderr(logging.Handler):
    """Writes the records of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    identifier = request_id.get()
    if identifier:
        event.setdefault("request_id", identifier)
    return event
