"""Keyset pagination, newest first: pages neither repeat nor skip rows while rows are added.

A page token holds the position of the last row and a digest of the filter. It is opaque to clients but not secret.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from google.protobuf.descriptor import EnumDescriptor
from pydantic import AwareDatetime, TypeAdapter
from sqlalchemy.orm import Session

from vfmalign.client.messages.base import enum_labels
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Id, canonical_json
from vfmalign.database.tables import OwnedRow

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
_POSITION: TypeAdapter[tuple[datetime, str, str]] = TypeAdapter(tuple[AwareDatetime, Id, str])

Item = TypeVar("Item")
RowType = TypeVar("RowType", bound=OwnedRow)


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Items of one page, and the token of the next page, which is empty on the last page."""

    items: tuple[Item, ...]
    next_token: str


@dataclass(frozen=True)
class PageRequest:
    """The requested page of a list.

    Attributes:
        size: rows per page, 1 to 1,000; 0 means 100.
        token: `next_token` of the page before; empty for the first.
        states: states to list; empty means all.
    """

    size: int = 0
    token: str = ""
    states: Collection[str] = ()

    def select(self, table: type[RowType]) -> sa.Select[Any]:
        """Selects this page and one more row, which shows whether another page follows.

        Raises:
            BadOption: the page size is out of range, or the token belongs to another list or filter.
        """
        query: sa.Select[Any] = sa.select(table).order_by(table.created_at.desc(), table.id.desc()).limit(self.rows + 1)
        if self.states:
            query = query.where(table.state.in_(sorted(self.states)))
        if self.token:
            created_at, row_id = self._decode()
            query = query.where(
                sa.or_(
                    table.created_at < created_at,
                    sa.and_(table.created_at == created_at, table.id < row_id),
                )
            )
        return query

    @property
    def rows(self) -> int:
        """Number of rows of a full page."""
        if not 0 <= self.size <= MAX_PAGE_SIZE:
            raise BadOption(f"must be 0 to {MAX_PAGE_SIZE}, got {self.size}", field="page_size")
        return self.size or DEFAULT_PAGE_SIZE

    def next_token(self, rows: list[RowType]) -> str:
        """Returns the token of the page after `rows`, which `select` returned."""
        if len(rows) <= self.rows:
            return ""
        last = rows[self.rows - 1]
        position = [last.created_at.isoformat(), last.id, self._filter_digest()]
        return base64.urlsafe_b64encode(canonical_json(position)).decode()

    def _filter_digest(self) -> str:
        return hashlib.sha256(canonical_json(sorted(self.states))).hexdigest()[:16]

    def _decode(self) -> tuple[datetime, str]:
        try:
            created_at, row_id, digest = _POSITION.validate_json(base64.urlsafe_b64decode(self.token))
            created_at = created_at.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise _bad_token() from error
        if digest != self._filter_digest():
            raise _bad_token()
        return created_at, row_id


def read_page(
    session: Session, table: type[RowType], request: PageRequest, convert: Callable[[RowType], Item]
) -> Page[Item]:
    """Reads one page of a table's rows, newest first.

    Args:
        session: database session.
        table: table to read.
        request: page size, token and filter.
        convert: converts a row to an item.

    Raises:
        BadOption: the page size is out of range, or the token belongs to another list or filter.
    """
    rows: list[RowType] = list(session.scalars(request.select(table)))
    return Page(tuple(convert(row) for row in rows[: request.rows]), request.next_token(rows))


def _bad_token() -> BadOption:
    return BadOption(
        "the token belongs to another list or filter", field="page_token", remedy="start again with an empty page_token"
    )


def parse_states(states: Sequence[int], enum: EnumDescriptor) -> tuple[str, ...]:
    """Returns the labels of the states by which a list is filtered.

    Raises:
        BadOption: a state is unspecified or unknown.
    """
    labels = dict(zip((value.number for value in enum.values if value.number), enum_labels(enum), strict=True))
    for state in states:
        if state not in labels:
            raise BadOption(f"unknown state {state}", field="states", remedy="leave the list empty for all states")
    return tuple(labels[state] for state in states)
