"""Connections to PostgreSQL that wait only a limited time for answers.

Three limits are set, because no single limit covers every case:

- `statement_timeout`: the server ends a statement that takes longer, even if the statement waits for a lock. The server
  then releases the locks of the transaction. A stopped server process cannot end statements.
- `BoundedConnection`: the client closes the connection to a server that is stopped or unreachable, and therefore does
  not answer. TCP options (`tcp_user_timeout`, keepalives) detect only an unreachable server, because the kernel
  acknowledges data for a stopped process. On a Unix socket, these options have no effect.
- `idle_in_transaction_session_timeout`: the server ends the transactions of a client that is stopped, or that
  disappeared without closing the connection. The row locks of such a transaction would delay other processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

_CONNECT_TIMEOUT_S = 10.0
_IDLE_IN_TRANSACTION_TIMEOUT_S = 10
_GRACE_S = 1.0
"""Seconds beyond the statement timeout, so that a healthy server ends the statement first and reports the reason."""
_T = TypeVar("_T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself if the server does not answer in time.

    Attributes:
        answer_timeout_s: seconds within which the server must answer.
    """

    answer_timeout_s = math.inf

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """Waits a limited time for the server's answer.

        Raises:
            OperationalError: the server does not answer in time.
        """
        return super().wait(self._within(gen, time.monotonic() + self.answer_timeout_s), *args, **options)

    def _within(self, gen: Generator[Any, Any, _T], deadline: float) -> Generator[Any, Any, _T]:
        """Runs psycopg's waiting generator. psycopg resumes it at least every 0.1 s, with 0 if nothing has arrived."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.close()  # a late answer must not be taken for the answer to the next statement
                    raise psycopg.OperationalError("the server does not answer")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: _T = end.value
            return answer


def connect(timeout_s: float, *args: Any, **options: Any) -> BoundedConnection:
    """Connects to PostgreSQL. The connection waits only a limited time for answers.

    Args:
        timeout_s: maximum duration of a statement, in seconds.
        *args: see `psycopg.connect`.
        **options: see `psycopg.connect`.

    Raises:
        OperationalError: the server cannot be reached or does not answer.
    """
    options = {"connect_timeout": math.ceil(min(timeout_s, _CONNECT_TIMEOUT_S)), **options}
    connection = BoundedConnection.connect(*args, **options)
    connection.answer_timeout_s = timeout_s + _GRACE_S
    connection.execute(f"SET statement_timeout = '{math.ceil(1000 * timeout_s)}ms'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION_TIMEOUT_S}s'")
    connection.execute("SET TIME ZONE 'UTC'")  # in another zone, the driver cannot read times of the years 1 and 9999
    connection.commit()
    return connection


@contextmanager
def unbounded(connection: sa.Connection) -> Iterator[None]:
    """Lets the statements of a transaction take as long as they need, for example to build an index.

    Args:
        connection: connection within the transaction. A SQLite connection is not changed.
    """
    bounded = connection.connection.driver_connection
    if not isinstance(bounded, BoundedConnection):
        yield
        return
    limit_s, bounded.answer_timeout_s = bounded.answer_timeout_s, math.inf
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    try:
        yield
    finally:
        bounded.answer_timeout_s = limit_s
