"""Keyset pagination with the newest rows first. While rows are added, pages neither repeat nor skip rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

import sqlalchemy as sa
from google.protobuf.descriptor import EnumDescriptor
from pydantic import AwareDatetime, TypeAdapter
from sqlalchemy.orm import Session

from vfmalign.client.messages.base import enum_labels
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import Id
from vfmalign.core.rpc.page_tokens import PageTokens, bad_token
from vfmalign.database.tables import OwnedRow

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
_TIMES = ("created_after", "created_before")
_POSITION: TypeAdapter[tuple[datetime, str]] = TypeAdapter(tuple[AwareDatetime, Id])

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
        token: `next_token` of the previous page; empty for the first page.
        states: states to list; empty for all states.
        model_id, dataset_id: model and dataset of the rows; empty for all.
        created_after, created_before: the rows were created at or after the first time, and before the second time.
        tokens: writes and reads the tokens of the list.
    """

    size: int = 0
    token: str = ""
    states: Collection[str] = ()
    model_id: str = ""
    dataset_id: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    tokens: PageTokens = field(default_factory=PageTokens)

    @classmethod
    def parse(cls, request: Any) -> Self:
        """Returns the page that a list request asks for.

        Raises:
            BadOption: a state is unspecified.
        """
        times = {name: getattr(request, name) for name in _TIMES if request.HasField(name)}
        return cls(
            size=request.page_size,
            token=request.page_token,
            states=_parse_states(request.states, request.DESCRIPTOR.fields_by_name["states"].enum_type),
            model_id=request.model_id,
            dataset_id=getattr(request, "dataset_id", ""),  # monitors have none
            tokens=PageTokens.of(request),
            **{name: time.ToDatetime(UTC) for name, time in times.items()},
        )

    def select(self, table: type[RowType]) -> sa.Select[Any]:
        """Selects the rows of this page and one more row. If the extra row exists, another page follows.

        Raises:
            BadOption: the page size is out of range, or the token belongs to another list or filter.
        """
        query: sa.Select[Any] = sa.select(table).order_by(table.created_at.desc(), table.id.desc()).limit(self.rows + 1)
        if self.states:
            query = query.where(table.state.in_(sorted(self.states)))
        if self.model_id:
            query = query.where(table.has_model(self.model_id))
        if self.dataset_id:
            query = query.where(table.request["dataset_id"].as_string() == self.dataset_id)
        if self.created_after is not None:
            query = query.where(table.created_at >= self.created_after)
        if self.created_before is not None:
            query = query.where(table.created_at < self.created_before)
        if self.token:
            created_at, row_id = self._read_token()
            query = query.where(
                sa.or_(
                    table.created_at < created_at,
                    sa.and_(table.created_at == created_at, table.id < row_id),
                )
            )
        return query

    @property
    def rows(self) -> int:
        """Number of rows on a full page."""
        if not 0 <= self.size <= MAX_PAGE_SIZE:
            raise BadOption(f"must be 0 to {MAX_PAGE_SIZE}, got {self.size}", field="page_size")
        return self.size or DEFAULT_PAGE_SIZE

    def next_token(self, rows: list[RowType]) -> str:
        """Returns the token of the next page. `rows` are the rows that `select` returned."""
        if len(rows) <= self.rows:
            return ""
        last = rows[self.rows - 1]
        return self.tokens.write(last.created_at.isoformat(), last.id)

    def _read_token(self) -> tuple[datetime, str]:
        position = self.tokens.read(self.token)
        try:
            created_at, row_id = _POSITION.validate_python(position)
            return created_at.astimezone(UTC), row_id
        except (ValueError, OverflowError) as error:
            raise bad_token("it is not a page token") from error


def read_page(
    session: Session, table: type[RowType], request: PageRequest, convert: Callable[[RowType], Item]
) -> Page[Item]:
    """Reads one page of a table's rows, with the newest rows first.

    Args:
        session: database session.
        table: table to read.
        request: page size, token and filter.
        convert: function that converts a row to an item.

    Raises:
        BadOption: the page size is out of range, or the token belongs to another list or filter.
    """
    rows: list[RowType] = list(session.scalars(request.select(table)))
    return Page(tuple(convert(row) for row in rows[: request.rows]), request.next_token(rows))


def _parse_states(states: Sequence[int], enum: EnumDescriptor) -> tuple[str, ...]:
    """Returns the labels of the states by which a list is filtered."""
    labels = dict(zip((value.number for value in enum.values if value.number), enum_labels(enum), strict=True))
    for state in states:
        if state not in labels:
            raise BadOption(f"unknown state {state}", field="states", remedy="leave the list empty for all states")
    return tuple(labels[state] for state in states)
