"""Client of an OpenID provider: device authorization (RFC 8628), token refresh, and token revocation (RFC 7009).

From a provider's response, only the fields that these RFCs define are used or shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlencode

import urllib3
from pydantic import BaseModel, Field, ValidationError

from vfmalign.core.domain.errors import BadOption, DeadlineExceeded, Unauthenticated, Unavailable
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.untrusted import parse_json
from vfmalign.core.runtime.auth_settings import is_secure_url

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
MAX_RESPONSE_BYTES = 2**20
_TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)
_SLOWER_S = 5.0
"""Added to the interval at each `slow_down` (RFC 8628, section 3.5)."""
_HEADERS = {"Accept": "application/json"}
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
_Model = TypeVar("_Model", bound=BaseModel)


class DeviceAuthorization(BaseModel, frozen=True):
    """A login that the user confirms in a browser, on any device."""

    device_code: str = Field(min_length=1, max_length=4096)
    user_code: str = Field(min_length=1, max_length=64)
    verification_uri: str = Field(max_length=2048)
    verification_uri_complete: str = Field(default="", max_length=2048)
    expires_in: float = Field(default=600.0, gt=0.0, le=86_400.0)
    interval: float = Field(default=5.0, ge=0.0, le=300.0)


class Tokens(BaseModel, frozen=True):
    """The tokens of a login. Their lifetimes are in seconds."""

    access_token: str = Field(min_length=1, max_length=8192)
    refresh_token: str = Field(default="", max_length=8192)
    expires_in: float | None = Field(default=None, ge=0.0)


class ProviderClient(Record):
    """This program as a client of a provider.

    Attributes:
        issuer: URL of the provider.
        client_id: id of this program at the provider. The program is a public client.
        scope: scopes to request, separated by spaces.
        resource: deployment that the token is for (RFC 8707); empty if the provider does not need this.
    """

    issuer: str
    client_id: str
    scope: str = ""
    resource: str = ""


class Provider:
    """The endpoints of a provider.

    Args:
        client: this program as a client of the provider.

    Raises:
        BadOption: the issuer is not a URL, not encrypted, or not the provider's issuer.
        Unavailable: the provider does not answer.
    """

    def __init__(self, client: ProviderClient) -> None:
        self._client = client
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
        issuer = client.issuer
        _require_encrypted(issuer)
        status, metadata = self._request("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if status != 200 or metadata.get("issuer") != issuer:
            raise BadOption(
                "no OpenID provider with this issuer answers at this URL",
                field="--issuer",
                remedy="give the issuer exactly as the provider's tokens name it",
            )
        self._metadata = metadata

    def start_device_authorization(self) -> DeviceAuthorization:
        """Requests a code that the user confirms in a browser.

        Raises:
            BadOption: the provider does not support device authorization, or refuses this client.
            Unavailable: the provider does not answer.
        """
        fields = {"scope": self._client.scope, "resource": self._client.resource}
        status, body = self._post("device_authorization_endpoint", fields)
        if status != 200:
            raise BadOption(
                f"the provider refuses the client ({_get_error(body)})",
                field="--client-id",
                remedy="ask the provider's administrator to allow the device authorization grant for this client",
            )
        return _parse(DeviceAuthorization, body)

    def wait_for_tokens(
        self, authorization: DeviceAuthorization, sleep: Callable[[float], None] = time.sleep
    ) -> Tokens:
        """Polls for the tokens until the user has confirmed or refused the login.

        Raises:
            DeadlineExceeded: the user did not confirm in time.
            Unauthenticated: the user or the provider refuses the login.
        """
        fields = {"grant_type": DEVICE_GRANT, "device_code": authorization.device_code}
        interval_s, deadline = authorization.interval, time.monotonic() + authorization.expires_in
        while time.monotonic() < deadline:
            sleep(interval_s)
            try:
                status, body = self._post("token_endpoint", fields)
            except Unavailable:  # RFC 8628: back off after a timeout
                interval_s = min(2 * max(interval_s, 1.0), 60.0)
                continue
            if status == 200:
                return _parse(Tokens, body)
            error = _get_error(body)
            if error == "slow_down":
                interval_s += _SLOWER_S
            elif error == "expired_token":
                break
            elif error != "authorization_pending":
                raise _refused(error)
        raise DeadlineExceeded(
            "the code was not confirmed in time", remedy="run `vfmalign login` again", reason="LOGIN_EXPIRED"
        )

    def refresh(self, refresh_token: str) -> Tokens:
        """Exchanges a refresh token for new tokens.

        Raises:
            Unauthenticated: the provider refuses, because the login has ended.
            Unavailable: the provider does not answer.
        """
        fields = {"grant_type": "refresh_token", "refresh_token": refresh_token, "resource": self._client.resource}
        status, body = self._post("token_endpoint", fields)
        if status != 200:
            raise _refused(_get_error(body))
        tokens = _parse(Tokens, body)
        # A provider that does not rotate refresh tokens sends none.
        return tokens if tokens.refresh_token else tokens.model_copy(update={"refresh_token": refresh_token})

    def revoke(self, token: str) -> bool:
        """Ends a login at the provider. Returns False if the provider refuses or does not support this.

        Raises:
            Unavailable: the provider does not answer.
        """
        if not self._metadata.get("revocation_endpoint"):
            return False
        return self._post("revocation_endpoint", {"token": token})[0] == 200

    def _post(self, endpoint: str, fields: Mapping[str, str]) -> tuple[int, Mapping[str, object]]:
        url = self._metadata.get(endpoint)
        if not isinstance(url, str):
            raise BadOption(
                f"the provider has no {endpoint}",
                field="--issuer",
                remedy="enable the device authorization grant at the provider, or set VFMALIGN_TOKEN_FILE",
            )
        _require_encrypted(url)
        sent = {name: value for name, value in {**fields, "client_id": self._client.client_id}.items() if value}
        return self._request("POST", url, sent)

    def _request(self, method: str, url: str, fields: dict[str, str] | None = None) -> tuple[int, Mapping[str, object]]:
        """Returns status and JSON body; the body is empty unless it is a JSON object."""
        try:
            with self._http.request(
                method,
                url,
                body=None if fields is None else urlencode(fields),
                headers=_HEADERS
                if fields is None
                else _HEADERS | {"Content-Type": "application/x-www-form-urlencoded"},
                redirect=False,  # a redirect could lead a code or token elsewhere
                preload_content=False,
            ) as response:
                data = response.read(MAX_RESPONSE_BYTES)
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(
                f"the OpenID provider does not answer ({type(error).__name__})",
                subject=self._client.issuer,
                remedy="check the issuer and the network, then repeat the command",
            ) from None
        try:
            body = parse_json(data, MAX_RESPONSE_BYTES)
        except ValueError:
            body = None
        return response.status, body if isinstance(body, dict) else {}


def _require_encrypted(url: str) -> None:
    if not is_secure_url(url):
        raise BadOption(
            "the provider's URLs must be https, or http on this machine",
            field="--issuer",
            remedy="give the https URL of the provider",
        )


def _get_error(body: Mapping[str, object]) -> str:
    """Returns the error code of a response, which is safe to show (RFC 6749, section 5.2)."""
    code = body.get("error")
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "no reason given"


def _refused(code: str) -> Unauthenticated:
    return Unauthenticated(
        f"the OpenID provider refuses the login ({code})", remedy="run `vfmalign login` again", reason="LOGIN_REFUSED"
    )


def _parse(model: type[_Model], body: Mapping[str, object]) -> _Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        # The response may hold a token: only the name of the field is shown.
        field = str(error.errors(include_input=False, include_url=False)[0]["loc"][0])
        raise Unavailable(
            f"the OpenID provider's response violates RFC 8628 ({field})",
            remedy="ask the provider's administrator",
        ) from None
