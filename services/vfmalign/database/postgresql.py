"""Connections to PostgreSQL that wait for an answer for a bounded time.

Three limits, because none covers everything:

- `statement_timeout`: the server ends a statement that takes longer, also where it waits for a lock, and releases what
  the transaction holds. A server that is stopped does not look at its clock.
- `BoundedConnection`: the client gives up a server that does not answer: one that is stopped, and one that the network
  does not reach. Options of TCP (`tcp_user_timeout`, keepalives) find the second alone, because the kernel of a machine
  acknowledges what a stopped process does not read, and none on a Unix socket.
- `idle_in_transaction_session_timeout`: the server ends a transaction whose client is stopped, or has left without
  closing the connection; its row locks would hold up other processes.
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
"""A server that is well ends a statement first, and says why."""
_T = TypeVar("_T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself where the server does not answer in time.

    Attributes:
        answer_timeout_s: seconds within which the server must answer.
    """

    answer_timeout_s = math.inf

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """Waits for an answer.

        Raises:
            OperationalError: there is none in time.
        """
        return super().wait(self._within(gen, time.monotonic() + self.answer_timeout_s), *args, **options)

    def _within(self, gen: Generator[Any, Any, _T], deadline: float) -> Generator[Any, Any, _T]:
        """Runs what waits; psycopg resumes it every tenth of a second at least, with 0 if nothing has arrived."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.close()  # the answer to this statement must not be taken for that to the next one
                    raise psycopg.OperationalError("the server does not answer")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: _T = end.value
            return answer


def connect(timeout_s: float, *args: Any, **options: Any) -> BoundedConnection:
    """Connects.

    Args:
        timeout_s: seconds that a statement may take.
        *args: see `psycopg.connect`.
        **options: see `psycopg.connect`.

    Raises:
        OperationalError: the server cannot be reached, or does not answer.
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
        connection: within the transaction; of SQLite, it stays as it is.
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
