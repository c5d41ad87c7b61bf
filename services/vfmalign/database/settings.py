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
        description="sqlite:///<file> or postgresql://user:password@host/name; if not set, a SQLite file in the state "
        "directory",
    )

    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        ge=1.0,
        le=3600.0,
        description="time limit of a PostgreSQL statement, or of the wait for the SQLite write lock, in seconds; past "
        "it, the call ends with UNAVAILABLE",
    )

    def get_url(self, file: Path) -> str:
        """Returns the URL of the database. If no URL is set, returns the URL of a SQLite file."""
        return f"sqlite:///{file}" if self.url is None else self.url.get_secret_value()


class LeaseSettings(BaseModel, frozen=True):
    """`VFMALIGN_LEASE__*`: election of one leader among the processes that share a database."""

    ttl_s: float = Field(
        default=10.0,
        ge=1.0,
        le=LONGEST_TTL_S,
        description="seconds after which another process takes over if the leader has not renewed its lease",
    )


def make_state_folder(folder: Path) -> None:
    """Creates the state folder of a service, if it does not exist.

    Raises:
        BadOption: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(
            f"the folder {folder} cannot be created: {error.strerror}",
            field="VFMALIGN_STATE_DIR",
            remedy="set it to a folder that the service may create and write to",
        ) from None
