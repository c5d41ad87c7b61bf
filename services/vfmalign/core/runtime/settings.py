"""Settings from environment variables. Settings are parsed once and never change. `--help` lists all settings.

Packages define their own groups of settings. An invalid or missing variable ends the process. The error names the
variable, but not its value, which may be a secret.
"""

from __future__ import annotations

import argparse
import re
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from vfmalign import __version__
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.auth_settings import AuthSettings
from vfmalign.core.runtime.settings_listing import Variable, list_variables

PREFIX = "VFMALIGN_"
EXIT_BAD_SETTINGS = 2
_QUOTED = re.compile(r'"(\w+)"')

AnySettings = TypeVar("AnySettings", bound=BaseSettings)


class Settings(BaseSettings):
    """Base class of all settings. Variables begin with `VFMALIGN_`, and `__` separates groups."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", populate_by_name=True
    )


class StoreSettings(Settings):
    """Address and credentials of the object storage."""

    bucket: str = Field(
        default="vfmalign",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="bucket that holds every artifact",
    )
    endpoint: str = Field(validation_alias="AWS_ENDPOINT_URL_S3", description="URL of the S3 endpoint")
    access_key: str = Field(
        default="",
        validation_alias="AWS_ACCESS_KEY_ID",
        description="access key; if not set, a credentials file, a web identity or an IAM role is used",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="AWS_SECRET_ACCESS_KEY",
        validate_default=True,
        description="secret key that belongs to the access key",
    )
    session_token: SecretStr = Field(
        default=SecretStr(""), validation_alias="AWS_SESSION_TOKEN", description="session token of temporary keys"
    )
    region: str = Field(default="us-east-1", validation_alias="AWS_REGION", description="region that signs requests")
    sts_endpoint: str = Field(
        default="",
        validation_alias="AWS_ENDPOINT_URL_STS",
        description="URL of the STS endpoint for web identities; by default the AWS endpoint of the region",
    )

    presigned_endpoint: str = Field(
        default="",
        description="URL of the S3 endpoint in upload and download URLs, as clients reach it; by default "
        "AWS_ENDPOINT_URL_S3",
    )

    @field_validator("secret_key")
    @classmethod
    def _belongs_to_access_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        access_key = bool(info.data.get("access_key"))
        if access_key != bool(value.get_secret_value()):
            set_one, missing = ("AWS_ACCESS_KEY_ID", "it") if access_key else ("it", "AWS_ACCESS_KEY_ID")
            raise ValueError(f"{missing} is not set, but {set_one} is; set both or neither")
        return value

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        url = urlsplit(value.rstrip("/"))
        if url.scheme not in {"http", "https"} or not url.netloc or url.path or url.query or "@" in url.netloc:
            raise ValueError("it must be http://HOST:PORT or https://HOST")
        return url.geturl()

    @field_validator("presigned_endpoint")
    @classmethod
    def _is_url_or_empty(cls, value: str) -> str:
        return StoreSettings._is_url(value) if value else ""


class OptionalStoreSettings(StoreSettings):
    """Address of the object storage, which is optional for this service."""

    endpoint: str = Field(
        default="",
        validation_alias="AWS_ENDPOINT_URL_S3",
        description="URL of the S3 endpoint; if not set, requests must contain their features",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return super()._is_url(value) if value else ""


def _check_pair(certificate: Path | None, key: Path | None) -> None:
    """Checks that a private key belongs to a certificate, or that neither is set.

    Raises:
        ValueError: they do not belong together.
    """
    if (key is None) != (certificate is None):
        raise ValueError("the certificate and the key must be set together")
    if key is not None and certificate is not None:
        try:  # with an empty password OpenSSL does not prompt for one at the terminal
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
        except OSError:  # ssl.SSLError is one
            raise ValueError("the key file must contain the unencrypted PEM private key of the certificate") from None


class ServerSettings(BaseModel, frozen=True):
    """`VFMALIGN_SERVER__*`: ports, limits and TLS of a gRPC server."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    grpc_port: int = Field(default=8001, ge=0, le=65535, description="port of the API; 0 selects a free port")
    metrics_port: int = Field(
        default=8002, ge=0, le=65535, description="port of the Prometheus metrics; 0 selects a free port"
    )
    health_port: int = Field(default=8003, ge=0, le=65535, description="port of probes (health service only)")
    drain_s: float = Field(default=30.0, ge=0.0, le=3600.0, description="seconds for running calls after SIGTERM")
    connection_age_s: float = Field(
        default=300.0,
        gt=0.0,
        le=86_400.0,
        description="seconds after which clients reconnect, which finds new replicas; running calls continue",
    )
    connection_idle_s: float = Field(
        default=60.0,
        gt=0.0,
        le=86_400.0,
        description="seconds after which an idle connection is closed; clients reconnect at their next call",
    )
    max_message_bytes: int = Field(
        default=16 * 2**20, ge=2**16, le=2**30, description="largest accepted message, in bytes"
    )
    request_memory_bytes: int = Field(
        default=256 * 2**20,
        ge=2**20,
        le=2**36,
        validate_default=True,
        description="memory for received and waiting requests and for answers being sent, in bytes; one caller may use "
        "half of it, and one tenant three quarters",
    )
    message_timeout_s: float = Field(
        default=30.0, gt=0.0, le=3600.0, description="maximum seconds to receive a request"
    )
    answer_timeout_s: float = Field(
        default=60.0,
        gt=0.0,
        le=3600.0,
        description="seconds that a caller has to receive an answer or a message of a stream; then its connection is "
        "closed, unless other callers share it",
    )
    max_calls: int = Field(default=1_000, ge=1, le=100_000, description="maximum calls at once; watches count")
    max_calls_per_caller: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="maximum concurrent calls of an identity (or address, without authentication); services are exempt",
    )
    max_streams: int = Field(default=100, ge=1, le=10_000, description="maximum concurrent calls on one connection")
    max_connections: int = Field(default=1_000, ge=1, le=100_000, description="maximum open connections")
    tls_cert_file: FilePath | None = Field(
        default=None,
        description="PEM file of the API's certificate chain; if not set, the API is not encrypted",
    )
    tls_key_file: FilePath | None = Field(
        default=None, validate_default=True, description="PEM file of the unencrypted private key of the certificate"
    )
    tls_client_ca_file: FilePath | None = Field(
        default=None,
        validate_default=True,
        description="PEM file of the authorities that sign the certificates of callers (mutual TLS); if not set, "
        "callers need no certificate",
    )
    ports_file: Path | None = Field(default=None, description="file to which the open ports are written as JSON")

    @field_validator("request_memory_bytes")
    @classmethod
    def _holds_two_messages(cls, value: int, info: ValidationInfo) -> int:
        if value < 2 * (info.data.get("max_message_bytes", 0) + 2**16):
            raise ValueError("it must hold two of the largest messages (VFMALIGN_SERVER__MAX_MESSAGE_BYTES)")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _belongs_to_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert_file" not in info.data:  # invalid itself, and reported first
            return key
        _check_pair(info.data["tls_cert_file"], key)
        return key

    @field_validator("tls_client_ca_file")
    @classmethod
    def _needs_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert_file") is None:
            raise ValueError("the API has no certificate of its own (VFMALIGN_SERVER__TLS_CERT_FILE)")
        return value


class LogSettings(BaseModel, frozen=True):
    """`VFMALIGN_LOG__*`: verbosity of the log."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest level to log")


class AuditSettings(BaseModel, frozen=True):
    """`VFMALIGN_AUDIT__*`: the audit log of calls (docs/audit.md)."""

    file: Path | None = Field(
        default=None, description="file to append audit lines to, one file for each process; if not set, standard error"
    )
    required: bool = Field(
        default=True,
        description="whether calls that change data are refused while the audit log cannot be written; if false, these "
        "calls continue, and `vfmalign_audit_lines_lost_total` counts lost lines",
    )


class ServiceClientSettings(Settings):
    """TLS files for calls to other services. Subclasses add these services' addresses."""

    ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities that sign the certificates of services; if not set, calls are not "
        "encrypted",
    )
    cert_file: FilePath | None = Field(
        default=None,
        description="PEM file of the client certificate chain, for services that require one (mutual TLS)",
    )
    key_file: FilePath | None = Field(
        default=None, validate_default=True, description="PEM file of the client certificate's unencrypted private key"
    )

    @field_validator("key_file")
    @classmethod
    def _completes_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "cert_file" not in info.data or "ca_file" not in info.data:  # invalid itself, and reported first
            return key
        certificate: Path | None = info.data["cert_file"]
        _check_pair(certificate, key)
        if key is not None and info.data["ca_file"] is None:
            raise ValueError("a certificate can only be presented over TLS: set VFMALIGN_CA_FILE as well")
        return key


class ServiceSettings(Settings):
    """Settings that all services share. Each service adds its own group."""

    store: StoreSettings = Field(default_factory=StoreSettings)
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()


def load(settings: type[AnySettings]) -> AnySettings:
    """Parses the environment once, for a program that cannot start without its settings.

    Raises:
        SystemExit: code 2, after one sentence on stderr that names the variable.
    """
    try:
        return parse(settings)
    except BadOption as error:
        print(f"{error.field} {error.message}; --help lists every setting", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_BAD_SETTINGS) from None


def parse(settings: type[AnySettings]) -> AnySettings:
    """Parses the environment once.

    Raises:
        BadOption: a setting is missing or invalid. The error names the variable.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = _variable(tuple(str(part) for part in first["loc"]))
        problem = "is not set" if first["type"] == "missing" else f"is wrong: {_lowered(first['msg'])}"
    except SettingsError as error:  # a group such as VFMALIGN_SERVER is set as a whole, and not as JSON
        field = _QUOTED.search(str(error))
        variable = _variable((field[1] if field else "",))
        problem = f"is wrong: set its parts as {variable}__…"
    raise BadOption(problem, field=variable, remedy="see docs/settings-reference.md")


def parse_args(program: str, settings: type[AnySettings], argv: Sequence[str] | None = None) -> AnySettings:
    """Handles `--help` and `--version`, then loads the settings.

    Raises:
        SystemExit: after `--help` or `--version`, or if a setting is invalid.
    """
    parser(program, settings).parse_args(argv)
    return load(settings)


def parser(program: str, settings: type[BaseSettings], summary: str = "") -> argparse.ArgumentParser:
    """Returns an argument parser. The parser's `--help` lists every setting with description and default."""
    lines = "\n".join(_describe(variable) for variable in list_variables(settings))
    result = argparse.ArgumentParser(
        prog=f"python -m vfmalign.{program}",
        description=summary or f"The {program} service of vfmalign, configured by environment variables.",
        epilog=f"settings:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"vfmalign {__version__}")
    return result


def _describe(variable: Variable) -> str:
    default = "required" if variable.default is None else f"default {variable.default}" if variable.default else "none"
    return f"  {variable.name:<40} {variable.description} ({default})"


def _lowered(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _variable(location: tuple[str, ...]) -> str:
    """Returns the environment variable of a field's location."""
    field = StoreSettings.model_fields.get(location[-1]) if location[:-1] in {(), ("store",)} else None
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias  # pydantic names a default that is wrong by its field
    name = location[-1] if location[-1].startswith("AWS_") else "__".join(location).upper()
    name = name.removeprefix("STORE__")
    return name if name.startswith("AWS_") else PREFIX + name
