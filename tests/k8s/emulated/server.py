"""The Kubernetes API of an emulated cluster over HTTP, as kubectl sees it.

The emulator in tests/integration/finetuning/kubernetes serves the launcher: two kinds in one namespace, with faults and
long watches. This one runs the commands that the documentation shows.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from tests.k8s.emulated.cluster import Cluster
from tests.k8s.emulated.kinds import Call, Refusal, parse_call, serve_discovery

WATCH_S = 2.0
SIGNING_KEYS = {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "cluster", "n": "AQAB", "e": "AQAB"}]}
"""Public keys of the tokens of ServiceAccounts."""
PUBLIC_DOCUMENTS = {
    "/openid/v1/jwks": SIGNING_KEYS,
    "/.well-known/openid-configuration": {"issuer": "https://kubernetes.default.svc.cluster.local"},
}
"""What every API server tells about these tokens."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/openapi/v2":  # an empty document in Protobuf: kubectl finds no schema, and does not validate
            self._send(200, b"", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
            return
        if url.path in PUBLIC_DOCUMENTS:
            self._send_json(200, PUBLIC_DOCUMENTS[url.path])
            return
        try:
            result = serve_discovery(url.path) if self.command == "GET" else None
            if result is None:
                call = parse_call(url.path, query)
                if query.get("watch") in {"1", "true"}:
                    self._watch(call)
                    return
                with self.cluster.lock:
                    content_type = self.headers.get("Content-Type", "")
                    result = self.cluster.handle(self.command, call, body, content_type)
        except Refusal as error:
            status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": error.reason}
            self._send_json(error.status, status | {"message": str(error), "code": error.status})
            return
        if isinstance(result, str):
            self._send(200, result.encode(), "text/plain")
        else:
            self._send_json(201 if self.command == "POST" else 200, result)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def _send_json(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _watch(self, call: Call) -> None:
        """Sends the objects that change; the client watches again when the connection ends."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        seen, end = int(call.query.get("resourceVersion") or 0), time.monotonic() + WATCH_S
        while time.monotonic() < end:
            with self.cluster.lock:
                items = self.cluster.list_selected(call)["items"]
                changed = [item for item in items if int(item["metadata"]["resourceVersion"]) > seen]
                lines = [json.dumps({"type": "MODIFIED", "object": item}) + "\n" for item in changed]
            seen = max([seen, *(int(item["metadata"]["resourceVersion"]) for item in changed)])
            try:
                self.wfile.write("".join(lines).encode())
                self.wfile.flush()
            except OSError:  # the client has seen enough
                return
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Serves a cluster's API; yields a kubeconfig in `folder` that leads to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": cluster}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    kubeconfig = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "emulated",
        "clusters": [{"name": "emulated", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "user", "user": {"token": "none"}}],
        "contexts": [{"name": "emulated", "context": {"cluster": "emulated", "user": "user"}}],
    }
    kubeconfig.write_text(yaml.safe_dump(content))
    try:
        yield kubeconfig
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
