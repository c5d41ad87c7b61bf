"""A cluster in memory: its objects, and how it answers requests for them.

Like a cluster, it refuses objects of unknown kinds or in namespaces that do not exist. `controllers` roll out
Deployments and run Jobs at once. `server` serves it to kubectl.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from tests.k8s.emulated import controllers
from tests.k8s.emulated.kinds import KINDS, Call, Key, Refusal
from tests.k8s.emulated.patches import apply_patch
from tests.k8s.emulated.selectors import is_selected
from tests.k8s.rendering import Object


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
        """Creates or replaces an object, and lets the controllers react."""
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
        """Creates objects without a request, namespaces first."""
        for item in sorted(copy.deepcopy(list(items)), key=lambda item: item["kind"] != "Namespace"):
            self.put(item)

    def list(self, kind: str, namespace: str = "") -> list[Object]:
        """Returns the objects of a kind."""
        return [item for key, item in sorted(self.objects.items()) if key[0] == kind and namespace in {"", key[1]}]

    def remove(self, key: Key) -> Object:
        """Deletes an object and all that it owns; a namespace owns what lies in it."""
        item = self.objects.pop(key)
        for other, owned in list(self.objects.items()):
            owners = {one["uid"] for one in owned["metadata"].get("ownerReferences", ())}
            in_namespace = key[0] == "Namespace" and other[1] == key[2]
            if other in self.objects and (in_namespace or item["metadata"]["uid"] in owners):
                self.remove(other)
        return item

    # --- requests ----------------------------------------------------------------------------------------------------

    def handle(self, method: str, call: Call, body: bytes, content_type: str) -> Any:
        """Returns the object, list or text that answers a request."""
        if call.subresource == "log":
            return self._read_log(call)
        if call.subresource == "eviction":
            self.remove(self._find(call))
            return {"apiVersion": "v1", "kind": "Status", "status": "Success"}
        if method == "GET":
            return self._find_object(call) if call.name else self.list_selected(call)
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
            # A patch of the scale has the form of one of the object: both have `spec.replicas`.
            item = apply_patch(self._find_object(call), body, content_type)
            item = item if "dryRun" in call.query else self.put(item)
            return _to_scale(item) if call.subresource == "scale" else item
        if method == "DELETE":
            return self.remove(call.key)
        raise Refusal(405, "MethodNotAllowed", f"{method} is not emulated")

    def _find(self, call: Call) -> Key:
        if call.key not in self.objects:
            raise Refusal(404, "NotFound", f'{call.kind.plural} "{call.name}" not found')
        return call.key

    def _find_object(self, call: Call) -> Object:
        return self.objects[self._find(call)]

    def list_selected(self, call: Call) -> Object:
        """Returns the list that answers a request for the objects of a kind."""
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


def _to_scale(item: Object) -> Object:
    metadata = {name: item["metadata"][name] for name in ("name", "namespace", "resourceVersion")}
    replicas = {"replicas": item["spec"].get("replicas", 1)}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": replicas, "status": replicas}
