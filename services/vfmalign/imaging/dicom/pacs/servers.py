"""PACS servers: their DICOMweb address and credentials.

Secrets are read from their files at each use, so that tokens can be renewed. Secrets are never logged or shown in
errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from vfmalign.core.domain.errors import PacsRefused
from vfmalign.core.formats.untrusted import describe_failure, read_regular_file
from vfmalign.core.runtime.auth_settings import MAX_TENANTS, is_loopback, split_names
from vfmalign.core.runtime.settings import Settings

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,31}$"
MAX_SECRET_BYTES = 64 * 2**10
"""Maximum size of a file with a token or password."""

ServerName = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of a server for users, in requests, logs and errors."""


class PacsServer(BaseModel, frozen=True, extra="forbid"):
    """`VFMALIGN_DICOMWEB__<NAME>__*`: a PACS for `--dicomweb` and Extract. NAME consists of letters, digits and `_`.

    Attributes:
        name: see `ServerName`.
    """

    name: ServerName = Field(default="", exclude=True)
    allow_http: bool = Field(
        default=False,
        description="whether http:// is allowed for other hosts; images and credentials are then unencrypted",
    )
    url: str = Field(max_length=1_024, description="DICOMweb address without /studies, such as https://HOST/dicom-web")
    token_file: Path | None = Field(default=None, description="file with a bearer token")
    username: str = Field(default="", max_length=256, description="user name for basic authentication")
    password_file: Path | None = Field(
        default=None, validate_default=True, description="file with the password for basic authentication"
    )
    certificate_file: Path | None = Field(default=None, description="PEM file of the client certificate chain")
    key_file: Path | None = Field(
        default=None, validate_default=True, description="PEM file of the unencrypted private key of the certificate"
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that sign the server's certificate; by default public authorities",
    )
    timeout_seconds: float = Field(  # several attempts fit into a call of Extract, with its deadline of 60 s
        default=10.0,
        ge=1.0,
        le=3_600.0,
        description="seconds to wait for an answer to begin, then for each further 16 KiB or its end",
    )
    tenants: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=MAX_TENANTS,
        description="tenants that may read from this server, separated by commas, or a JSON list; required if the "
        "deployment has several tenants; ignored by commands",
    )

    @field_validator("tenants", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_names(value) if isinstance(value, str) else value

    @field_validator("token_file", "password_file", "certificate_file", "key_file", "ca_file")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str, info: ValidationInfo) -> str:
        try:
            parts = urlsplit(url)
            is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:  # its text quotes the address
            is_valid = False
        if not is_valid:
            raise ValueError("it must be https://HOST/PATH")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("it must have no user, query or fragment")
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not info.data.get("allow_http"):
            raise ValueError("it must be https://; ALLOW_HTTP permits unencrypted traffic")
        return url.rstrip("/")

    @field_validator("password_file")
    @classmethod
    def _belongs_to_username(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if (path is None) != (not info.data.get("username")):
            raise ValueError("it belongs to USERNAME: set both or neither")
        if path is not None and info.data.get("token_file") is not None:
            raise ValueError("it excludes TOKEN_FILE: set one of them")
        return path

    @field_validator("key_file")
    @classmethod
    def _belongs_to_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if (path is None) != (info.data.get("certificate_file") is None):
            raise ValueError("it belongs to CERTIFICATE_FILE: set both or neither")
        return path

    def read_secret(self, path: Path) -> str:
        """Returns the token or password in a file, without the line end.

        Raises:
            PacsRefused: the file cannot be read, is empty, or has more than one line.
        """
        try:
            text = read_regular_file(path, MAX_SECRET_BYTES).decode().strip("\r\n")
            problem = "" if text and text.isprintable() else "is empty, or has several lines"
        except OSError as error:
            text, problem = "", f"cannot be read ({describe_failure(error)})"
        except UnicodeError:
            text, problem = "", "is not text in UTF-8"
        if problem:
            raise PacsRefused(
                f"the file with its token or password {problem}",
                subject=f"PACS {self.name}",
                remedy="correct the file that the server's configuration names",
            )
        return text


def _add_names(servers: Any) -> Any:
    """Sets the name of each server to its key in the mapping."""
    if not isinstance(servers, Mapping):
        return servers
    return {
        name: {**server, "name": name} if isinstance(server, Mapping) else server for name, server in servers.items()
    }


PacsServers: TypeAlias = Annotated[dict[ServerName, PacsServer], BeforeValidator(_add_names)]
"""Servers by name: a field of settings."""


class PacsSettings(Settings):
    """The servers configured in a command's environment."""

    dicomweb: PacsServers = Field(default_factory=dict)
