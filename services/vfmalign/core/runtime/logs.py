"""Structured logs: one JSON object per line on stderr, with the id of the request that caused the line.

Log only generated ids, never patients' names, ids of cases and groups, local paths or secrets. Pass an exception as it
is (`error=error`): its text is written only if it cannot name a patient.

Writing a line never raises, because a full disk must not end the work that is logged. Lost lines are counted.
"""

from __future__ import annotations

import io
import json
import logging
import re
import secrets
import sys
import traceback
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import LogSettings

REQUEST_ID_HEADER = "x-request-id"
"""gRPC metadata key that carries the request id from service to service."""

_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,64}")
request_id: ContextVar[str] = ContextVar("vfmalign_request_id", default="")
"""Id of the request that the running context serves; empty outside a request. Log lines and outgoing calls carry it."""

MAX_FIELDS = 32
MAX_VALUE_CHARACTERS = 2_000
MAX_EXCEPTION_CHARACTERS = 16_000
"""Limits of a line: number of fields that its event adds, length of a field's value, and length of a traceback."""
MAX_CHAINED_EXCEPTIONS = 10
"""Maximum number of exceptions in a traceback, each of which occurred while the one before was handled."""
_ABOUT_CODE = (RuntimeError, TypeError, AttributeError, ImportError, ArithmeticError, MemoryError, OSError)
"""Exceptions about code or the machine. Messages of others, such as KeyError and ValueError, repeat values."""
_ESSENTIAL = frozenset({"event", "exception", "level", "module", "request_id", "service", "tenant", "timestamp"})

# urllib3 logs request lines and warns of retries. The path contains signatures, or ids of cases in the keys of volumes.
_QUIET_LOGGERS = ("urllib3", "asyncio", "matplotlib", "PIL")


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Returns a logger.

    You may create a logger at import, because a logger reads the configuration only when it is used.
    """
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(module=name))


def configure(service: str, settings: LogSettings) -> None:
    """Writes the logs of this process and its libraries to stderr as JSON lines.

    Args:
        service: value of the field `service` of every line.
        settings: the least severe level to log.
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
        structlog.processors.ExceptionRenderer(_format_traceback),
        _describe_errors,
    ]
    render: list[Processor] = [_bound_size, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.WriteLogger(cast("TextIO", _STDERR)),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.ERROR))


def bind(**fields: object) -> None:
    """Adds fields to all later log lines of this context."""
    structlog.contextvars.bind_contextvars(**fields)


def bound(**fields: object) -> AbstractContextManager[None]:
    """Adds fields to the log lines that are written within a `with` statement."""
    return structlog.contextvars.bound_contextvars(**fields)


def accept_request_id(offered: str | None) -> str:
    """Returns the caller's request id. If this id is missing or could break a log line, returns a new id."""
    if offered is not None and _REQUEST_ID_PATTERN.fullmatch(offered):
        return offered
    return secrets.token_hex(16)


class _Stderr(io.TextIOBase):
    """Standard error, which counts what it cannot write."""

    def write(self, line: str, /) -> int:
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError):  # no space, a broken pipe; or it is closed
            metrics.log_lines_lost.inc()
        return len(line)


_STDERR = _Stderr()


class _LibraryHandler(logging.Handler):
    """Writes log records of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        _STDERR.write(self.format(record) + "\n")


def _bound_size(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Cuts long values and leaves out surplus fields, because parts of a line may come from callers or libraries.

    Of a traceback, the end is kept, because it names the error.
    """
    for name in [name for name in event if name not in _ESSENTIAL][MAX_FIELDS:]:
        del event[name]
    for name, value in event.items():
        text = value if isinstance(value, str) else json.dumps(value, default=repr)
        if name == "exception" and len(text) > MAX_EXCEPTION_CHARACTERS:
            event[name] = "…" + text[-MAX_EXCEPTION_CHARACTERS:]
        elif name != "exception" and len(text) > MAX_VALUE_CHARACTERS:
            event[name] = text[:MAX_VALUE_CHARACTERS] + "…"
    return event


def _describe_errors(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, BaseException):
            event[name] = _describe(value)
    return event


def _format_traceback(exc_info: ExcInfo) -> str:
    """Returns the traceback of an exception and of those that it followed, the first one first."""
    error: BaseException | None = exc_info[1]
    parts: list[str] = []
    while error is not None and len(parts) < MAX_CHAINED_EXCEPTIONS:
        parts.insert(0, "".join(traceback.format_tb(error.__traceback__)) + _describe(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nThen this exception occurred:\n\n".join(parts)


def _describe(error: BaseException) -> str:
    """Returns the type of an exception, and its message if the message cannot repeat data of patients."""
    if isinstance(error, VfmalignError):
        return error.log_text
    name = type(error).__qualname__
    return f"{name}: {error}" if isinstance(error, _ABOUT_CODE) else name


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    identifier = request_id.get()
    if identifier:
        event.setdefault("request_id", identifier)
    return event
