"""A real OpenID provider in a process of its own, on the loopback interface."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import urllib3

from vfmalign.cli.local.ports import free_ports

_REDIRECT = "http://127.0.0.1:9/callback"
# Access tokens of this provider are no JSON Web Tokens. Its ID tokens, without the hash of these, are like the access
# tokens of others.
_PROGRAM = """
import runpy
from authlib.oidc.core.grants import code
code.create_half_hash = lambda *_: None
runpy.run_module("oidc_provider_mock", run_name="__main__", alter_sys=True)
"""


class OpenIdProvider:
    """`oidc-provider-mock` on a port that stays the same when it is started again, then with other keys.

    Attributes:
        issuer: its URL.
    """

    def __init__(self, folder: Path) -> None:
        self._port = free_ports(1)[0]
        self._log = folder / f"provider-{self._port}.log"
        self._pool = urllib3.PoolManager(retries=False)
        self._process: subprocess.Popen[bytes] | None = None
        self.issuer = f"http://127.0.0.1:{self._port}"

    def start(self, *options: str) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, "--port", str(self._port), *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(600):
            assert self._process.poll() is None, self._log.read_text()
            try:
                self._pool.request("GET", f"{self.issuer}/jwks")
                return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_in(self, subject: str, client: str = "vfmalign", **claims: Any) -> str:
        """Returns the token that a user gets for a client, by the authorization code flow."""
        body, headers = json.dumps(claims).encode(), {"Content-Type": "application/json"}
        self._request("PUT", f"/users/{subject}", 204, body=body, headers=headers)
        query = {"client_id": client, "redirect_uri": _REDIRECT, "response_type": "code", "scope": "openid"}
        answer = self._request("POST", f"/oauth2/authorize?{urlencode(query)}", 302, fields={"sub": subject})
        code = parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]
        basic = base64.b64encode(f"{client}:secret".encode()).decode()
        answer = self._request(
            "POST",
            "/oauth2/token",
            200,
            fields={"grant_type": "authorization_code", "code": code, "redirect_uri": _REDIRECT},
            headers={"Authorization": f"Basic {basic}"},
        )
        return str(answer.json()["id_token"])

    def _request(self, method: str, path: str, status: int, **options: Any) -> urllib3.BaseHTTPResponse:
        if "fields" in options:
            options["encode_multipart"] = False
        answer = self._pool.request(method, self.issuer + path, redirect=False, **options)
        assert answer.status == status, answer.data
        return answer
