"""Settings of services with a database."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from vfmalign.core.domain.errors import BadOption

DEFAULT_TIMEOUT_S = 30.0
LONGEST_TTL_S = 300.0


class DatabaseSettings(BaseModel, frozen=True):
    """`VFMALIGN_DATABASE__*`: the database of a service."""

    url: SecretStr | None = Field(
        default=None,
        description="sqlite:///<file> or postgresql://user:password@host/name; without it a SQLite file in the state "
        "directory",
    )

    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        ge=1.0,
        le=3600.0,
        description="seconds that a statement may take in PostgreSQL, or wait for the write lock of SQLite; its call "
        "then ends as UNAVAILABLE",
    )

    def get_url(self, file: Path) -> str:
        """Returns the database's URL, which is that of a SQLite file where none is set."""
        return f"sqlite:///{file}" if self.url is None else self.url.get_secret_value()


class LeaseSettings(BaseModel, frozen=True):
    """`VFMALIGN_LEASE__*`: which of several processes of one database leads."""

    ttl_s: float = Field(
        default=10.0,
        ge=1.0,
        le=LONGEST_TTL_S,
        description="seconds after which another process takes over from one that does not renew its lease",
    )


def make_state_folder(folder: Path) -> None:
    """Creates the folder of a service's state, where it does not exist.

    Raises:
        BadOption: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(
            f"the folder {folder} cannot be created: {error.strerror}",
            field="VFMALIGN_STATE_DIR",
            remedy="name a folder that the service may create and write",
        ) from None
