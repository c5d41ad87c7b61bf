"""The Kubernetes API over HTTP, in a thread of its own: kmock's emulator, with what it lacks for Jobs.

Added: uids and resource versions, label selectors, watches that begin at any version and end with the server, answers
that are scripted before anything is done, connections that break, evictions, and what kubectl asks before it drains a
node.
The Job controller is the test itself: it sets statuses.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import functools
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp.web
import attrs
import kmock
import yaml

NAMESPACE, SERVICES_NAMESPACE = "vfmalign-jobs", "vfmalign"
"""Of the Jobs, and of the process that starts them."""
JOBS = kmock.resource("batch/v1/jobs")
PODS = kmock.resource("v1/pods")
NODES = kmock.resource("v1/nodes")
BUDGETS = kmock.resource("policy/v1/poddisruptionbudgets")
EVENTS = kmock.resource("events.k8s.io/v1/events")
TEMPLATES = kmock.resource("v1/podtemplates")
TEMPLATE = {
    "apiVersion": "v1",
    "kind": "PodTemplate",
    "metadata": {"name": "vfmalign-training"},
    "template": {"spec": {"containers": [{"name": "training", "image": "vfmalign/training:0.1.0"}]}},
}


@dataclass
class Script:
    """What is answered instead, once."""

    method: str
    end: str
    answer: Callable[[Any], Any]


class Changes:
    """Every change of a kind of objects. A watch may begin at any version, as at an API server, and miss none."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._more = asyncio.Condition()

    async def put(self, event: dict[str, Any]) -> None:
        async with self._more:
            self.events.append(copy.deepcopy(event))
            self._more.notify_all()

    async def __aiter__(self) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        for index in itertools.count():
            async with self._more:
                await self._more.wait_for(lambda at=index: len(self.events) > at)
            yield index, self.events[index]


@attrs.define(kw_only=True)
class Emulator(kmock.KubernetesEmulator):
    """See the module."""

    scripts: list[Script] = attrs.field(factory=list)
    logs: dict[str, str] = attrs.field(factory=dict)
    namespace: str = NAMESPACE
    version: int = 100
    _buses: dict[Any, Changes] = attrs.field(factory=lambda: collections.defaultdict(Changes))

    def stamp(self, thing: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        thing.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        return thing

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        for script in self.scripts:
            if request.method.value == script.method and request.url.path.endswith(script.end):
                self.scripts.remove(script)
                return await script.answer(request)
        if request.action in {kmock.action.CREATE, kmock.action.UPDATE}:
            self.stamp(request.data)
        if request.action == kmock.action.CREATE:
            request.data["metadata"] |= {"uid": f"uid-{self.version}", "namespace": self.namespace}
        if request.action == kmock.action.DELETE:
            # As an API server does: without a newer version, a watch that begins at the object's own drops the event.
            key = (request.resource, self.namespace, request.name)
            if key in self.objects and not self.objects[key].deleted:
                self.objects[key].patch(self.stamp({}))
        if request.subresource == "eviction":
            return await self._evict(request.name)
        if request.subresource == "log":
            return aiohttp.web.Response(text=self.logs.get(request.name, ""))
        return await super()._handle(request)

    async def _serve_version(self, request: kmock.Request) -> Any:
        found = await super()._serve_version(request)
        found["groupVersion"] = found["groupVersion"].lstrip("/")
        if found["groupVersion"] == "v1":
            found["resources"].append({"name": "pods/eviction", "kind": "Eviction", "group": "policy", "version": "v1"})
        return found

    async def _evict(self, pod: str) -> aiohttp.web.Response:
        """Says that a pod is to end; to end it and take it away is its kubelet's."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        patch = {"metadata": {"deletionTimestamp": now}, "status": {"conditions": [evicted]}}
        await self.change(PODS, pod, "MODIFIED", patch)
        return aiohttp.web.json_response({"apiVersion": "v1", "kind": "Status", "status": "Success"}, status=201)

    async def _serve_list(self, request: kmock.Request) -> Any:
        found = await super()._serve_list(request)
        items = [item for item in found["items"] if _selected(item, request)]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": items}

    async def _serve_watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        yield b""  # sends the headers
        since = int(request.params.get("resourceVersion") or 0)
        changes = self._buses[request.resource]
        begun = len(changes.events)
        async for index, event in changes:
            if event["type"] == "END":
                if index >= begun:
                    return
            elif int(event["object"]["metadata"]["resourceVersion"]) > since and _selected(event["object"], request):
                yield event

    async def change(self, resource: Any, name: str, kind: str, patch: dict[str, Any]) -> None:
        """What a controller does: creates, merges into or removes an object."""
        key = (resource, self.namespace, name)
        async with self._lock:
            if kind == "ADDED":
                self.objects[key] = patch
            elif kind == "MODIFIED":
                self.objects[key].patch(patch)
            raw = self.stamp(self.objects[key].raw)
            if kind == "DELETED":
                self.objects[key].delete()
            await self._buses[resource].put({"type": kind, "object": raw})

    async def end_watches(self) -> None:
        await self._buses[JOBS].put({"type": "END"})


def _selected(item: dict[str, Any], request: kmock.Request) -> bool:
    for term in filter(None, request.params.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        if functools.reduce(lambda part, name: part.get(name) or {}, path.split("."), item) != value:
            return False
    labels = item["metadata"].get("labels", {})
    for term in filter(None, request.params.get("labelSelector", "").split(",")):
        name, given, value = term.partition("=")
        if name not in labels or (given and labels[name] != value):
            return False
    return True


@dataclass
class Api:
    """The server, and what a test does with it.

    Attributes:
        namespace: where all of its objects lie.
    """

    namespace: str = NAMESPACE
    emulator: Emulator = field(init=False)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self._open())
        self.add(TEMPLATES, TEMPLATE)

    async def _open(self) -> None:
        self.emulator = Emulator(namespace=self.namespace)
        for resource in (JOBS, PODS, TEMPLATES, BUDGETS, EVENTS):
            self.emulator.resources[resource] = {}
        self.emulator.resources[NODES] = {"kind": "Node", "namespaced": False, "verbs": {"get", "patch"}}
        await self.emulator.__aenter__()
        self._server = await kmock.Server(self.emulator).__aenter__()
        self.port = self._server.port

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def kubeconfig(self, folder: Path) -> Path:
        """A file that leads here."""
        path = folder / "kubeconfig"
        cluster, context = (
            {"server": f"http://127.0.0.1:{self.port}"},
            {"cluster": "c", "user": "u", "namespace": SERVICES_NAMESPACE},
        )
        content = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": context}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def down(self) -> None:
        """The API stops listening, and every watch breaks."""

        async def end() -> None:
            # The server waits for its calls, among them a watch that begins meanwhile.
            closing = asyncio.create_task(self._server.__aexit__(None, None, None))
            while not closing.done():
                await self.emulator.end_watches()
                await asyncio.wait([closing], timeout=0.05)
            await closing

        self._wait(end())

    def up(self) -> None:
        """It listens again on the same port."""

        async def again() -> None:
            self._server = await kmock.Server(self.emulator, port=self.port).__aenter__()

        self._wait(again())

    def close(self) -> None:
        """Ends server, loop and thread."""
        self.down()
        self._wait(self.emulator.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- what the cluster does -------------------------------------------------------------------------------------

    def add(self, resource: Any, thing: dict[str, Any]) -> None:
        """Puts an object there."""
        thing = thing | {"metadata": thing["metadata"] | {"namespace": self.namespace}}
        self._wait(self.emulator.change(resource, thing["metadata"]["name"], "ADDED", thing))

    def node(self, name: str) -> None:
        """A node joins."""

        async def join() -> None:
            metadata = {"name": name}
            self.emulator.objects[NODES, None, name] = {
                "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {},
            }  # fmt: skip

        self._wait(join())

    def status(self, name: str, **status: Any) -> None:
        """The Job controller speaks."""
        self._wait(self.emulator.change(JOBS, name, "MODIFIED", {"status": status}))

    def condition(self, name: str, kind: str, reason: str = "", message: str = "", **status: Any) -> None:
        """A condition of a Job comes true."""
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.status(name, conditions=[condition], **status)

    def pod(self, job: str, status: dict[str, Any], name: str = "") -> None:
        """A pod of a Job."""
        labels = {"batch.kubernetes.io/job-name": job}
        metadata = {"name": name or f"{job}-x", "labels": labels}
        self.add(PODS, {"metadata": metadata, "spec": {"containers": [{"name": "training"}]}, "status": status})

    def remove(self, name: str, *, pods: bool = True) -> None:
        """The time of a Job is over, or somebody deletes it; its pods go too, now or later."""
        self._wait(self.emulator.change(JOBS, name, "DELETED", {}))
        for resource, _, pod in list(self.emulator.objects):
            if pods and resource == PODS and pod.startswith(name):
                self.remove_pod(pod)

    def remove_pod(self, name: str) -> None:
        """A pod has ended, and is not kept."""
        self._wait(self.emulator.change(PODS, name, "DELETED", {}))

    def job(self, name: str) -> dict[str, Any]:
        """A Job as it lies there."""
        return self.emulator.objects[JOBS, self.namespace, name].raw

    def jobs(self) -> list[str]:
        """Names of all Jobs."""
        return [
            name for (resource, _, name), one in self.emulator.objects.items() if resource == JOBS and not one.deleted
        ]

    def requests(self, method: str, end: str = "") -> list[Any]:
        """What was asked."""
        return [
            one for one in list(self.emulator._requests) if one.method.value == method and one.url.path.endswith(end)
        ]

    def launcher_requests(self) -> list[Any]:
        """What launchers asked; kubectl uses the same server."""
        return [one for one in list(self.emulator._requests) if "python" in one.headers.get("User-Agent", "")]

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def refuse(self, method: str, end: str, status: int, message: str = "", *, times: int = 1, **headers: str) -> None:
        """The next requests of this kind get an error, and nothing is done."""

        async def answer(request: kmock.Request) -> aiohttp.web.Response:
            body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return aiohttp.web.json_response(body, status=status, headers=names)

        self.emulator.scripts += [Script(method, end, answer)] * times

    def lose_answer(self, method: str, end: str, *, do: bool) -> None:
        """The next request of this kind is done or not, and its connection breaks before the answer."""

        async def answer(request: kmock.Request) -> aiohttp.web.StreamResponse:
            response = await self.emulator._handle(request) if do else aiohttp.web.Response()
            request._raw_request.transport.abort()
            return response

        self.emulator.scripts.append(Script(method, end, answer))


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What a condition gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError("condition not met in time")
