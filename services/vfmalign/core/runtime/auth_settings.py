"""Authentication settings: the tokens that a service accepts, and the token for its own calls."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, FilePath, ValidationInfo, field_validator
from pydantic_settings import NoDecode

LOCAL_ISSUER = "vfmalign-local"
"""Issuer of the tokens of mode `local`, which have no provider."""
DEFAULT_TENANT = "default"
"""Tenant of tokens that name none, if the deployment serves it."""
TENANT_PATTERN = r"[a-z0-9][a-z0-9-]{0,39}"
"""Format of tenant names, which are used as prefixes of object names, in file names and in Kubernetes labels."""
MAX_TENANTS = 16
TENANT_OF_KEYS = "tenant whose objects are read and written, with keys of the object storage"
TenantName = Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")]
_NAME = re.compile(r"[!-~]{1,512}")
_REFERENCE = re.compile(r"\$\(\w+\)")


def split_names(text: str) -> object:
    """Returns the entries of a setting: a JSON list, or entries separated by commas.

    Raises:
        ValueError: the text begins like a JSON list, but is not a valid list.
    """
    return json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()


def is_loopback(host: str) -> bool:
    """Returns whether a host is the loopback interface: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_secure_url(url: str) -> bool:
    """Returns whether a URL contains no user and has the scheme https, or http on the loopback interface."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    encrypted = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or ""))
    return bool(encrypted and host and parts.username is None)


def _is_issuer(url: str) -> bool:
    return is_secure_url(url) and _NAME.fullmatch(url) is not None and not {"?", "#"} & set(url)


class AuthSettings(BaseModel, frozen=True):
    """`VFMALIGN_AUTH__*`: authentication of callers, and the token for calls to other services."""

    mode: Literal["oidc", "local", "off"] = Field(
        default="off",
        description="tokens that callers need: oidc (from the providers in ISSUERS), local (signed with the key in "
        "JWKS_FILE) or off (none)",
    )
    issuers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=16,
        validate_default=True,
        description="issuers of tokens, separated by commas, or a JSON list: https URLs of OpenID providers (http on "
        f"the loopback interface); in mode local one name, {LOCAL_ISSUER} by default",
    )
    audience: str = Field(
        default="vfmalign", min_length=1, max_length=512, description="audience of tokens for vfmalign"
    )
    roles_claim: str = Field(
        default="roles",
        min_length=1,
        max_length=256,
        description="claim with the caller's roles; dots address nested objects, as in realm_access.roles",
    )
    tenant_claim: str = Field(
        default="tenant", min_length=1, max_length=256, description="claim with the caller's tenant, or a list of them"
    )
    tenants: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(DEFAULT_TENANT,),
        min_length=1,
        max_length=MAX_TENANTS,
        description="tenants that this deployment serves, separated by commas, or a JSON list: lower-case letters, "
        "digits and hyphens; with default among them, tokens need no tenant",
    )
    jwks_file: FilePath | None = Field(
        default=None,
        validate_default=True,
        description="JWKS file with the public keys of the only issuer, used instead of the keys that its provider "
        "publishes; read again when it changes",
    )
    jwks_files: dict[str, FilePath] = Field(
        default={},
        max_length=16,
        description="JSON map from issuers to JWKS files, for providers that this service cannot reach",
    )
    subject_roles: dict[str, dict[str, tuple[str, ...]]] = Field(
        default={},
        max_length=16,
        description="JSON map from issuers to maps from subjects to roles, for issuers such as a Kubernetes cluster "
        "that put no roles into tokens; roles in tokens of these issuers are ignored",
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities that sign the providers' certificates; by default system authorities",
    )
    token_file: Path | None = Field(
        default=None, description="file with the token for calls to other services; read again when it changes"
    )
    allow_plaintext: bool = Field(
        default=False,
        description="whether this token may be sent unencrypted to other hosts, such as between trusted containers",
    )

    @field_validator("issuers", "tenants", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_names(value) if isinstance(value, str) else value

    @field_validator("tenants")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or not all(re.fullmatch(TENANT_PATTERN, tenant) for tenant in value):
            raise ValueError("names of tenants must differ, and have at most 40 lower-case letters, digits and hyphens")
        return value

    @field_validator("issuers")
    @classmethod
    def _belong_to_mode(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        mode = info.data.get("mode", "off")
        if mode == "local":
            value = value or (LOCAL_ISSUER,)
            if len(value) > 1 or not _NAME.fullmatch(value[0]):
                raise ValueError("mode local has one issuer, a name of at most 512 characters without spaces")
        elif mode == "oidc" and not (value and all(_is_issuer(issuer) for issuer in value)):
            raise ValueError("mode oidc needs https URLs without query, such as https://idp.hospital.example/realm")
        return value

    @field_validator("jwks_files", "subject_roles")
    @classmethod
    def _belong_to_issuers(cls, value: dict[str, object], info: ValidationInfo) -> dict[str, object]:
        names = [*value, *(subject for own in value.values() if isinstance(own, dict) for subject in own)]
        if reference := next(filter(None, map(_REFERENCE.search, names)), None):
            variable = reference[0][2:-1]
            raise ValueError(
                f"{reference[0]} looks unexpanded; Kubernetes expands a variable only where the pod's env lists "
                f"{variable} before this one"
            )
        if not value.keys() <= set(info.data.get("issuers", ())):
            raise ValueError("it names an issuer that is not in VFMALIGN_AUTH__ISSUERS")
        return value

    @field_validator("jwks_file")
    @classmethod
    def _belongs_to_one_issuer(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        mode, issuers = info.data.get("mode", "off"), info.data.get("issuers", ())
        if mode == "local" and value is None:
            raise ValueError("mode local needs a file with the public key of its tokens")
        if value is not None and len(issuers) > 1:
            raise ValueError("it holds the keys of one issuer, but VFMALIGN_AUTH__ISSUERS names several")
        return value
