"""Settings of the client: which deployment to call, and with which token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.rpc.access.credentials import BearerToken
from vfmalign.core.rpc.tls import TlsFiles
from vfmalign.core.runtime.auth_settings import TENANT_PATTERN
from vfmalign.core.runtime.settings import ServiceClientSettings

Token = str | Path | Callable[[], str] | BearerToken
"""An access token, the file that holds it, or a function that returns it for each call."""


class ClientSettings(ServiceClientSettings):
    """Addresses of a deployment (`VFMALIGN_FEATURES_ADDRESS` …), its certificate authorities and the caller's token."""

    features_address: str = Field(default="", description="host:port of the feature service")
    mmd_address: str = Field(default="", description="host:port of the MMD service")
    finetuning_address: str = Field(default="", description="host:port of the finetuning service")
    monitoring_address: str = Field(default="", description="host:port of the monitoring service")
    tenant: str = Field(
        default="",
        pattern=rf"^({TENANT_PATTERN})?$",
        description="tenant of all calls; if not set, calls use the only tenant in the token, and direct access to "
        "the object storage uses default",
    )
    token: SecretStr = Field(default=SecretStr(""), description="access token of the caller")
    token_file: FilePath | None = Field(
        default=None, description="file with the access token of the caller; read again when it changes"
    )
    allow_plaintext: bool = Field(
        default=False,
        validation_alias="VFMALIGN_AUTH__ALLOW_PLAINTEXT",
        description="whether the token may be sent unencrypted to other hosts, such as between trusted containers",
    )

    @field_validator("token_file")
    @classmethod
    def _is_only_source(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        token = info.data.get("token")
        if value is not None and token is not None and token.get_secret_value():
            raise ValueError("the token is set as well; set one of VFMALIGN_TOKEN and VFMALIGN_TOKEN_FILE")
        return value

    def to_tls_files(self) -> TlsFiles | None:
        """Returns the files for TLS, or None if calls are not encrypted."""
        return None if self.ca_file is None else TlsFiles(self.ca_file, self.cert_file, self.key_file)

    def to_bearer_token(self, token: Token | None = None) -> BearerToken | None:
        """Returns the token that is sent with every call, or None if no token is sent.

        Args:
            token: token that takes precedence over the settings.
        """
        if isinstance(token, BearerToken):
            return token
        if token is None:
            token = self.token_file or self.token.get_secret_value()
        if token == "":
            return None
        if isinstance(token, Path):
            return BearerToken(file=token, allow_plaintext=self.allow_plaintext)
        if callable(token):
            return BearerToken(function=token, allow_plaintext=self.allow_plaintext)
        return BearerToken(value=token, allow_plaintext=self.allow_plaintext)


def load_client_settings(**arguments: Any) -> ClientSettings:
    """Reads the environment; arguments that are not None take precedence.

    Raises:
        BadOption: a setting is wrong, such as a `ca_file` that does not exist.
    """
    try:
        return ClientSettings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        problem = to_bad_option(error)
        if problem.field in ClientSettings.model_fields and arguments.get(problem.field) is None:
            problem.subject = f"VFMALIGN_{problem.field.upper()}"
        raise problem from None
