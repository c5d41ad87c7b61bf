"""The Kubernetes API as kubectl sees it, in memory: every kind of k8s/, namespaces, selectors, patches and rollouts.

The emulator in tests/integration/finetuning/kubernetes serves the launcher: two kinds in one namespace, with faults and
long watches. This one runs the commands that the documentation shows. Like a cluster, it refuses objects of unknown
kinds or in namespaces that do not exist, and `controllers` roll out Deployments and run Jobs at once.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from tests.k8s import controllers
from tests.k8s.patches import apply_patch
from tests.k8s.rendering import Object
from tests.k8s.selectors import is_selected

WATCH_S = 2.0


@dataclass(frozen=True)
class Kind:
    """A kind of object that the API serves."""

    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def path(self) -> str:
        """Path of its group and version."""
        return f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"


def _kinds(version: str, names: str, *, namespaced: bool = True) -> list[Kind]:
    special = {"NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}
    return [Kind(version, name, special.get(name, f"{name.lower()}s"), namespaced) for name in names.split()]


KINDS = [
    *_kinds("v1", "ConfigMap PersistentVolumeClaim Pod PodTemplate Secret Service ServiceAccount"),
    *_kinds("v1", "Namespace Node", namespaced=False),
    *_kinds("apps/v1", "Deployment ReplicaSet DaemonSet"),
    *_kinds("autoscaling/v2", "HorizontalPodAutoscaler"),
    *_kinds("batch/v1", "Job"),
    *_kinds("gateway.networking.k8s.io/v1", "GRPCRoute"),
    *_kinds("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    *_kinds("kueue.x-k8s.io/v1beta2", "ClusterQueue ResourceFlavor", namespaced=False),
    *_kinds("monitoring.coreos.com/v1", "PodMonitor PrometheusRule"),
    *_kinds("networking.k8s.io/v1", "NetworkPolicy"),
    *_kinds("policy/v1", "PodDisruptionBudget"),
    *_kinds("rbac.authorization.k8s.io/v1", "Role RoleBinding"),
    *_kinds("scheduling.k8s.io/v1", "PriorityClass", namespaced=False),
]
Key = tuple[str, str, str]
"""Kind, namespace (empty for objects of the cluster) and name."""


class Refusal(Exception):
    """A request that the API refuses."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class Call:
    """A parsed request for objects."""

    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]

    @property
    def key(self) -> Key:
        """The key of the object that it names."""
        return self.kind.name, self.namespace, self.name


@dataclass
class Cluster:
    """Objects by key, what pods have logged, and the requests that changed something.

    Attributes:
        logs: log by pod and container; a line that names both by default.
        changes: method, kind and name of every request that changed an object, in order.
        rolls_out: whether Deployments are rolled out at once.
    """

    objects: dict[Key, Object] = field(default_factory=dict)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    rolls_out: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)
    _version: int = 100

    def put(self, item: Object) -> Object:
        """Create or replace an object, and let the controllers react."""
        kind = next(kind for kind in KINDS if (kind.version, kind.name) == (item["apiVersion"], item["kind"]))
        with self.lock:
            metadata = item["metadata"]
            key = kind.name, metadata.get("namespace", "") if kind.namespaced else "", metadata["name"]
            before = self.objects.get(key)
            self._version += 1
            metadata["resourceVersion"] = str(self._version)
            metadata.setdefault("uid", f"uid-{self._version}")
            metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            self.objects[key] = item
            controllers.react(self, item, before)
        return item

    def add(self, items: Sequence[Object]) -> None:
        """Create objects without a request, namespaces first."""
        for item in sorted(copy.deepcopy(list(items)), key=lambda item: item["kind"] != "Namespace"):
            self.put(item)

    def list(self, kind: str, namespace: str = "") -> list[Object]:
        """Return the objects of a kind."""
        return [item for key, item in sorted(self.objects.items()) if key[0] == kind and namespace in {"", key[1]}]

    def remove(self, key: Key) -> Object:
        """Delete an object and all that it owns; a namespace owns what lies in it."""
        item = self.objects.pop(key)
        for other, owned in list(self.objects.items()):
            owners = {one["uid"] for one in owned["metadata"].get("ownerReferences", ())}
            in_namespace = key[0] == "Namespace" and other[1] == key[2]
            if other in self.objects and (in_namespace or item["metadata"]["uid"] in owners):
                self.remove(other)
        return item

    # --- requests ----------------------------------------------------------------------------------------------------

    def handle(self, method: str, call: Call, body: bytes, content_type: str) -> Any:
        """Return the object, list or text that answers a request."""
        if call.subresource == "log":
            return self._read_log(call)
        if call.subresource == "eviction":
            self.remove(self._find(call))
            return {"apiVersion": "v1", "kind": "Status", "status": "Success"}
        if method == "GET":
            return self._find_object(call) if call.name else self._list(call)
        is_apply = content_type.startswith("application/apply-patch")
        if method != "POST" and not is_apply:
            self._find(call)
        self.changes.append((method, call.kind.name, call.name))
        if method == "POST":
            if "json" not in content_type:
                raise Refusal(415, "UnsupportedMediaType", "only JSON is emulated, and `kubectl create` sends Protobuf")
            return self._create(call, json.loads(body))
        if is_apply and call.key not in self.objects:
            return self._create(call, yaml.safe_load(body))
        if method == "PATCH":
            item = apply_patch(self._find_object(call), body, content_type)
            return item if "dryRun" in call.query else self.put(item)
        if method == "DELETE":
            return self.remove(call.key)
        raise Refusal(405, "MethodNotAllowed", f"{method} is not emulated")

    def _find(self, call: Call) -> Key:
        if call.key not in self.objects:
            raise Refusal(404, "NotFound", f'{call.kind.plural} "{call.name}" not found')
        return call.key

    def _find_object(self, call: Call) -> Object:
        return self.objects[self._find(call)]

    def _list(self, call: Call) -> Object:
        items = [item for item in self.list(call.kind.name, call.namespace) if is_selected(item, call.query)]
        metadata = {"resourceVersion": str(self._version)}
        return {"apiVersion": call.kind.version, "kind": f"{call.kind.name}List", "metadata": metadata, "items": items}

    def _create(self, call: Call, item: Object) -> Object:
        if call.kind.namespaced and ("Namespace", "", call.namespace) not in self.objects:
            raise Refusal(404, "NotFound", f'namespaces "{call.namespace}" not found')
        call.name = item["metadata"]["name"]
        if call.key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{call.kind.plural} "{call.name}" already exists')
        if call.kind.namespaced:
            item["metadata"]["namespace"] = call.namespace
        return item if "dryRun" in call.query else self.put(item)

    def _read_log(self, call: Call) -> str:
        spec = self._find_object(call)["spec"]
        names = [one["name"] for one in (*spec["containers"], *spec.get("initContainers", ()))]
        container = call.query.get("container", names[0])
        if container not in names:
            raise Refusal(400, "BadRequest", f"container {container} is not valid for pod {call.name}")
        return self.logs.get((call.name, container), f"log of {call.name}, {container}\n")


def serve_discovery(path: str) -> Any:
    """Return the answer to a request of API discovery; None for other paths."""
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = sorted({kind.version for kind in KINDS if "/" in kind.version})
        entries = [{"groupVersion": version, "version": version.partition("/")[2]} for version in versions]
        groups = [
            {"name": entry["groupVersion"].partition("/")[0], "versions": [entry], "preferredVersion": entry}
            for entry in entries
        ]
        return {"apiVersion": "v1", "kind": "APIGroupList", "groups": groups}
    served = [kind for kind in KINDS if kind.path == path]
    if not served:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources: list[Object] = [
        {"name": kind.plural, "singularName": kind.name.lower(), "kind": kind.name, "namespaced": kind.namespaced,
         "verbs": verbs}
        for kind in served
    ]  # fmt: skip
    if path == "/api/v1":
        eviction = {"name": "pods/eviction", "singularName": "", "kind": "Eviction", "namespaced": True}
        resources.append(eviction | {"group": "policy", "version": "v1", "verbs": ["create"]})
    return {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": served[0].version, "resources": resources}


def parse_call(path: str, query: dict[str, str]) -> Call:
    """Parse the path of a request for objects."""
    kind_path = next((kind.path for kind in KINDS if path.startswith(f"{kind.path}/")), None)
    parts = path.removeprefix(f"{kind_path}/").split("/")
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    for kind in KINDS:
        if (kind.path, kind.plural) == (kind_path, parts[0]):
            name, subresource = [*parts[1:], "", ""][:2]
            return Call(kind, namespace, name, subresource, query)
    raise Refusal(404, "NotFound", "the server could not find the requested resource")


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
        """Send the objects that change; the client watches again when the connection ends."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        seen, end = int(call.query.get("resourceVersion") or 0), time.monotonic() + WATCH_S
        while time.monotonic() < end:
            with self.cluster.lock:
                items = self.cluster._list(call)["items"]
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
    """Serve a cluster's API; yields a kubeconfig in `folder` that leads to it."""
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
