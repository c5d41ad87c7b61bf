"""An OpenID provider on the loopback interface that answers device authorizations as RFC 8628 says."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

CLIENT = "vfmalign-cli"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class OpenIdProvider:
    """Counts and answers requests.

    Attributes:
        errors: error codes of the next polls for the device's tokens; afterwards the user has confirmed.
        lifetime_s: lifetime of access tokens.
        refresh_token: the refresh token that is valid now; each is good for one use. Empty for a login without one.
        posts: path and fields of every POST.
        metadata: changes to the provider's metadata; None removes a field.
        tokens: changes to the answer with tokens.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.lifetime_s: float = 3600
        self.refresh_token = "refresh-0"
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.metadata: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def polls(self) -> int:
        return sum(fields.get("grant_type") == DEVICE_GRANT for _, fields in self.posts)

    def answer_get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path != "/.well-known/openid-configuration":
            return 404, {}
        metadata = {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}/token",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "revocation_endpoint": f"{self.issuer}/revoke",
        }
        return 200, {name: value for name, value in (metadata | self.metadata).items() if value is not None}

    def answer_post(self, path: str, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.posts.append((path, fields))
        if fields.get("client_id") != CLIENT:
            return 401, {"error": "invalid_client"}
        if path == "/device":
            codes = {"device_code": "secret-device-code", "user_code": "BCDF-GHJK", "expires_in": 60, "interval": 0}
            page = f"{self.issuer}/confirm"
            return 200, codes | {"verification_uri": page, "verification_uri_complete": f"{page}?code=BCDF-GHJK"}
        if path == "/revoke":
            self.refresh_token = ""
            return 200, {}
        if fields["grant_type"] == DEVICE_GRANT:
            if self.errors:
                return 400, {"error": self.errors.pop(0), "error_description": "not shown"}
            return 200, self._issue()
        if not self.refresh_token or fields["refresh_token"] != self.refresh_token:
            return 400, {"error": "invalid_grant"}
        self.refresh_token = f"refresh-{int(self.refresh_token.partition('-')[2]) + 1}"
        return 200, self._issue()

    def _issue(self) -> dict[str, Any]:
        claims = {"iss": self.issuer, "sub": "ada", "aud": "vfmalign", "roles": ["researcher"], "exp": 4_000_000_000}
        number = len(self.posts)
        token = make_token(claims | {"jti": str(number)})
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s}
        return answer | ({"refresh_token": self.refresh_token} if self.refresh_token else {}) | self.tokens

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*provider.answer_get(self.path))

            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._send(*provider.answer_post(self.path, dict(parse_qsl(body))))

            def _send(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Stays silent."""

        return Handler


def make_token(claims: dict[str, Any]) -> str:
    """A JWT whose signature nobody checks here."""
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"signature"))


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    result = OpenIdProvider()
    yield result
    result.close()


@pytest.fixture(autouse=True)
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's login, empty at first."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("VFMALIGN_TOKEN", "VFMALIGN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "vfmalign"
