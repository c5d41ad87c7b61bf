"""Pages of a list, newest first, that stay right while rows are added.

A token holds the last row's place and a digest of the filter; it is opaque to clients but no secret.
Knows nothing of what the rows mean.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.core.domain.artifacts import canonical_json
from vfmalign.core.domain.errors import BadOption
from vfmalign.finetuning.db.database import CheckRow, ExperimentRow, JobRow

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

Item = TypeVar("Item")
RowType = TypeVar("RowType", JobRow, CheckRow, ExperimentRow)


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Some items and the token of the next page, empty on the last."""

    items: tuple[Item, ...]
    next_token: str


@dataclass(frozen=True)
class PageRequest:
    """Which page of which rows.

    Attributes:
        size: rows per page, 1 to 1,000; 0 means 100.
        token: `next_token` of the page before; empty for the first.
        states: states to list; empty means all.
    """

    size: int = 0
    token: str = ""
    states: Collection[str] = ()

    def select(self, table: type[RowType]) -> sa.Select[Any]:
        """The query for this page and one row more, which says whether another page follows.

        Raises:
            BadOption: a page size out of range, or a token that is not one of this list.
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
        """Rows of a full page."""
        if not 0 <= self.size <= MAX_PAGE_SIZE:
            raise BadOption(f"must be 0 to {MAX_PAGE_SIZE}, got {self.size}", field="page_size")
        return self.size or DEFAULT_PAGE_SIZE

    def next_token(self, rows: list[RowType]) -> str:
        """Token of the page after `rows` as `select` returned them."""
        if len(rows) <= self.rows:
            return ""
        last = rows[self.rows - 1]
        place = [last.created_at.isoformat(), last.id, self._filter_digest()]
        return base64.urlsafe_b64encode(canonical_json(place)).decode()

    def _filter_digest(self) -> str:
        return hashlib.sha256(canonical_json(sorted(self.states))).hexdigest()[:16]

    def _decode(self) -> tuple[datetime, str]:
        try:
            created_at, row_id, digest = json.loads(base64.urlsafe_b64decode(self.token))
            place = datetime.fromisoformat(created_at), str(row_id)
        except (binascii.Error, ValueError, TypeError) as error:
            raise _bad_token() from error
        if digest != self._filter_digest() or place[0].tzinfo is None:
            raise _bad_token()
        return place


def read_page(
    session: Session, table: type[RowType], request: PageRequest, convert: Callable[[RowType], Item]
) -> Page[Item]:
    """Reads one page of a table's rows, newest first.

    Args:
        session: of the database.
        table: whose rows.
        request: which page.
        convert: makes an item of a row.

    Raises:
        BadOption: a page size out of range, or a token that is not one of this list.
    """
    rows: list[RowType] = list(session.scalars(request.select(table)))
    return Page(tuple(convert(row) for row in rows[: request.rows]), request.next_token(rows))


def _bad_token() -> BadOption:
    return BadOption(
        "not a token of this list with this filter", field="page_token", remedy="start again with an empty page_token"
    )
