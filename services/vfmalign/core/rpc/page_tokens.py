"""Page tokens of list requests. A token belongs to one method and to the filters of its request.

A token contains the position of the last item of a page. Tokens are opaque to clients, but not secret.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Self

from google.protobuf.message import Message
from pydantic import TypeAdapter

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import canonical_json

_TOKEN: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
_PAGE_FIELDS = ("page_size", "page_token")


@dataclass(frozen=True)
class PageTokens:
    """Writes and reads the tokens of one list.

    Attributes:
        method: the RPC, such as `ListJobs`.
        filters: digest of the filters.
    """

    method: str = ""
    filters: str = ""

    @classmethod
    def of(cls, request: Message) -> Self:
        """Returns the tokens of a list request. Every field except the page size and the page token is a filter."""
        filters = type(request)()
        filters.CopyFrom(request)
        for field in _PAGE_FIELDS:
            filters.ClearField(field)
        digest = hashlib.sha256(filters.SerializeToString(deterministic=True)).hexdigest()
        return cls(request.DESCRIPTOR.name.removesuffix("Request"), digest[:16])

    def write(self, *position: str) -> str:
        """Returns the token of the page that begins after a position."""
        return base64.urlsafe_b64encode(canonical_json([self.method, self.filters, *position])).decode()

    def read(self, token: str) -> tuple[str, ...]:
        """Returns the position that a token contains.

        Raises:
            BadOption: this class did not write the token, or the token belongs to another method or other filters.
        """
        try:
            method, filters, *position = _TOKEN.validate_json(base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise bad_token("it is not a page token") from error
        if method != self.method:
            raise bad_token(f"the token belongs to another method than {self.method}")
        if filters != self.filters:
            raise bad_token(f"the token belongs to {self.method} with other filters")
        return tuple(position)


def bad_token(problem: str) -> BadOption:
    """Returns the error for a token that is not valid for the request."""
    remedy = "send the `next_page_token` of the previous page with the same filters, or an empty one for the first page"
    return BadOption(problem, field="page_token", remedy=remedy)
