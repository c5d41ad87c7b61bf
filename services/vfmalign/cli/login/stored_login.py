"""The login of this user: a file with the tokens of one provider. Only this user can read the file."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

from pydantic import Field, ValidationError

from vfmalign.cli.login.provider import Provider, ProviderClient, Tokens
from vfmalign.cli.private_files import get_configuration_folder, read_private, write_private
from vfmalign.core.domain.errors import PreconditionFailed, Unauthenticated
from vfmalign.core.domain.record import Record

_MARGIN_S = 60.0
"""A token that expires so soon is renewed first: calls take a while, and clocks differ."""


class Login(Record):
    """A login at a provider, with its tokens.

    Attributes:
        client: this program as a client of the provider.
        access_token: the token to send.
        refresh_token: token that is exchanged for new tokens; empty if the provider issued none.
        expires_at: expiry time of the access token in seconds since 1970; None if the provider did not state it.
    """

    client: ProviderClient
    access_token: str = Field(repr=False)
    refresh_token: str = Field(default="", repr=False)
    expires_at: float | None = None

    @classmethod
    def from_tokens(cls, client: ProviderClient, tokens: Tokens) -> Login:
        """Returns a new login with the tokens from a provider's response."""
        expires_at = None if tokens.expires_in is None else time.time() + tokens.expires_in
        return cls(
            client=client,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_at=expires_at,
        )

    @property
    def is_fresh(self) -> bool:
        """Whether the access token will not expire soon."""
        return self.expires_at is None or time.time() < self.expires_at - _MARGIN_S


class LoginFile:
    """The file of the login, in `$XDG_CONFIG_HOME/vfmalign` or `~/.config/vfmalign`."""

    def __init__(self) -> None:
        self._folder = get_configuration_folder()
        self.path = self._folder / "login.json"

    def read(self) -> Login | None:
        """Returns the stored login, or None if there is none.

        Raises:
            PreconditionFailed: other users can read the file, or the file does not contain a login.
        """
        try:
            return Login.model_validate_json(read_private(self.path))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise PreconditionFailed(
                "the file does not contain a login",
                subject=str(self.path),
                remedy="delete it, then run `vfmalign login`",
            ) from None

    def write(self, login: Login) -> None:
        """Replaces the login."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.path, login.to_json())

    def delete(self) -> None:
        """Deletes the login."""
        self.path.unlink(missing_ok=True)

    def get_access_token(self) -> str:
        """Returns a valid access token. If the token is about to expire, renews it first.

        Raises:
            Unauthenticated: there is no login, or the login has ended.
            Unavailable: the provider does not answer.
        """
        login = self.read()
        if login is not None and not login.is_fresh:
            with self._lock():  # a refresh token may be good for one use
                login = self.read()
                if login is not None and not login.is_fresh:
                    login = self._renew(login)
        if login is None:
            raise Unauthenticated("there is no login", remedy="run `vfmalign login`", reason="NO_TOKEN")
        return login.access_token

    def _renew(self, login: Login) -> Login:
        if not login.refresh_token:
            raise Unauthenticated("the login has expired", remedy="run `vfmalign login`", reason="LOGIN_EXPIRED")
        renewed = Login.from_tokens(login.client, Provider(login.client).refresh(login.refresh_token))
        self.write(renewed)
        return renewed

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "login.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
