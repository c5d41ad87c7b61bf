"""Bearer tokens of outgoing calls: a fixed text, the current content of a file, or the result of a function.

A token works like a password. Tokens are sent unencrypted only within this machine, unless a setting also allows other
machines. Calls carry the token as metadata, because gRPC's call credentials do not work on plaintext channels, not even
on the loopback interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vfmalign.core.domain.errors import BadOption, Unauthenticated
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.auth_settings import AuthSettings, is_loopback

AUTHORIZATION = "authorization"
"""gRPC metadata key that carries the token."""
TENANT = "vfmalign-tenant"
"""gRPC metadata key that names the tenant for which a call acts."""
MAX_TOKEN_CHARACTERS = 8_192
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_log = logs.get(__name__)


class BearerToken:
    """The token that calls carry.

    Args:
        value: the token.
        file: file with the token, instead of `value`. The file is read again when it changes.
        function: returns the token, instead of `value` and `file`. The function runs on the event loop before every
            call.
        allow_plaintext: whether the token may be sent unencrypted to other machines, such as other trusted containers.
    """

    def __init__(
        self,
        *,
        value: str = "",
        file: Path | None = None,
        function: Callable[[], str] | None = None,
        allow_plaintext: bool = False,
    ) -> None:
        self._value = value
        self._file = file
        self._function = function
        self._allow_plaintext = allow_plaintext
        self._version: tuple[int, int, int] | None = None

    @classmethod
    def from_settings(cls, settings: AuthSettings) -> BearerToken | None:
        """Returns the token for a service's own calls, or None if the service has no token."""
        if settings.token_file is None:
            return None
        return cls(file=settings.token_file, allow_plaintext=settings.allow_plaintext)

    def check_channel(self, address: str, *, encrypted: bool) -> None:
        """Checks that the token may be sent to a gRPC target.

        Raises:
            BadOption: the token would leave this machine unencrypted.
        """
        if not (encrypted or self._allow_plaintext or _is_local(address)):
            raise BadOption(
                "the token would be sent unencrypted",
                subject=address,
                remedy="set VFMALIGN_CA_FILE to encrypt calls, or in a network of trusted containers "
                "VFMALIGN_AUTH__ALLOW_PLAINTEXT=true",
                reason="PLAINTEXT_TOKEN",
            )

    def get_metadata(self) -> tuple[str, str]:
        """Returns the key and value to add to a call's metadata.

        Raises:
            Unauthenticated: there is no token.
        """
        return AUTHORIZATION, f"Bearer {self._get()}"

    def _get(self) -> str:
        try:
            self._reload()
        except (OSError, ValueError) as error:
            if not self._value:
                raise Unauthenticated(
                    "the token of this process cannot be read",
                    subject="token_file",
                    remedy="check that the file exists, is readable and holds one token",
                    reason="NO_TOKEN",
                ) from error
            _log.warning("token_unreadable")  # the last one may still be valid
        return self._value

    def _reload(self) -> None:
        if self._function is not None:
            self._value = _check(self._function())
            return
        if self._file is None:
            value, self._value = self._value, ""  # an invalid token is not sent
            self._value = _check(value)
            return
        info = self._file.stat()
        version = (info.st_mtime_ns, info.st_ino, info.st_size)
        if version != self._version:
            with self._file.open("rb") as file:
                content = file.read(MAX_TOKEN_CHARACTERS + 2)
            self._value, self._version = _check(content.decode("ascii", "replace").strip()), version


def _check(token: str) -> str:
    """Returns a token if it is well-formed; the error does not repeat the text."""
    if len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
        raise ValueError(f"a token has 1 to {MAX_TOKEN_CHARACTERS} letters, digits and -._~+/=")
    return token


def _is_local(target: str) -> bool:
    """Returns whether a gRPC target names sockets of this machine only."""
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return True
    if scheme in {"dns", "ipv4", "ipv6"}:
        target = rest.removeprefix("///")
    # `dns://server/host` asks a DNS server of its own, which may resolve `localhost` to any address.
    return "/" not in target and all(is_loopback(_host(address)) for address in target.split(","))


def _host(address: str) -> str:
    return address[1:].partition("]")[0] if address.startswith("[") else address.rpartition(":")[0] or address
