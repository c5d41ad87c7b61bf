"""Converts between keys of one tenant's objects, their names in the bucket and their URIs."""

from __future__ import annotations

import copy
import re
from typing import Self

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.core.domain.record import check_key
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, TENANT_PATTERN

_TENANT_OF_URI = re.compile(rf"s3://[^/]+/({TENANT_PATTERN})/")


class TenantKeys:
    """One tenant's part of a bucket. The name of an object consists of the tenant, `/` and the key.

    Attributes:
        bucket: name of the bucket.
        tenant: owner of the objects; `default` unless `of_tenant` sets another tenant.
    """

    bucket: str
    tenant: str = DEFAULT_TENANT

    def of_tenant(self, tenant: str) -> Self:
        """Returns a view of one tenant's objects in this bucket."""
        view = copy.copy(self)
        view.tenant = tenant
        return view

    def of_uri(self, uri: str) -> Self:
        """Returns the view of the tenant that a URI contains, for programs that learn their tenant only from a URI.

        If the URI contains no tenant, the method `key` of the view rejects the URI.
        """
        match = _TENANT_OF_URI.match(uri)
        return self if match is None else self.of_tenant(match[1])

    def name(self, key: str) -> str:
        """Returns the name in the bucket of the object with this key."""
        return f"{self.tenant}/{key}"

    def uri(self, key: str) -> str:
        """Returns the `s3://` URI of a key."""
        return f"s3://{self.bucket}/{self.name(key)}"

    def key(self, uri: str, prefixes: tuple[str, ...] = ("",)) -> str:
        """Returns the key of a URI of this bucket and tenant.

        Args:
            uri: names the object.
            prefixes: prefixes of the keys that the program may read. By default, the program may read all keys. For
                other keys, the store would answer as if the credentials were wrong.

        Raises:
            InvalidInput: the URI contains another bucket or tenant, a key that is not canonical, or a key outside
                `prefixes`.
        """
        root = self.uri("")
        try:
            key = check_key(uri.removeprefix(root)) if uri.startswith(root) else ""
        except ValueError:
            key = ""
        if not key:
            raise InvalidInput(
                "the URI does not name an object of your tenant in this service's bucket",
                field="uri",
                remedy=f"upload the object and pass a URI that begins with {root}, "
                "without backslashes and without empty, `.` or `..` segments",
            )
        if not key.startswith(prefixes):
            raise InvalidInput(
                "the URI names an object that this service does not read",
                field="uri",
                remedy=f"pass a URI that begins with {root} and one of {', '.join(prefixes)}",
            )
        return key
