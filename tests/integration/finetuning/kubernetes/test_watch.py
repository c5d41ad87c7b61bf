"""One list, then one watch: what ends it, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import JOBS, NAMESPACE, Api, until

from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.watch import JobCache

LABEL = "vfmalign.io/job"


def job(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {LABEL: name} | labels}, "spec": {}}


def lists(api: Api) -> int:
    return len(api.requests("GET", "/jobs"))


def watches(api: Api) -> list[Any]:
    return api.requests("GET", "/jobs", watch=True)


@pytest.fixture
def cache(api: Api, connect: Callable[[], Cluster]) -> Iterator[JobCache]:
    """A cache that is fed."""
    api.add(JOBS, job("before"))
    found = JobCache(connect(), LABEL, pause_s=0.02)
    found.start()
    yield found
    found.close()


def test_what_was_there_and_what_comes(cache: JobCache, api: Api) -> None:
    until(lambda: cache.get("before"))
    until(lambda: watches(api))
    api.add(JOBS, job("later"))
    api.add(JOBS, {"metadata": {"name": "foreign"}, "spec": {}})
    until(lambda: cache.get("later"))
    api.status("later", active=1)
    until(lambda: cache.get("later").get("status") == {"active": 1})
    api.remove("later")
    until(lambda: cache.get("later") is None)
    assert [one["metadata"]["name"] for one in cache.all()] == ["before"]
    assert lists(api) == 1


def test_a_watch_that_ends_goes_on_from_where_it_was(cache: JobCache, api: Api) -> None:
    until(lambda: watches(api))
    api.add(JOBS, job("one"))
    until(lambda: cache.get("one"))
    api.end_watches()
    until(lambda: len(watches(api)) == 2)
    api.add(JOBS, job("two"))
    until(lambda: cache.get("two"))
    assert lists(api) == 1, "nothing is listed again"
    version = cache.get("one")["metadata"]["resourceVersion"]
    assert watches(api)[1].params["resourceVersion"] == version
    assert cache.trouble == ""


@pytest.mark.parametrize("how", ["in the stream", "as an answer"])
def test_a_version_that_is_too_old_is_listed_again(cache: JobCache, api: Api, how: str) -> None:
    until(lambda: watches(api))
    if how == "in the stream":
        api.expire_watch()
    else:
        api.refuse("GET", "/jobs", 410, "too old", watch=True)
    api.end_watches()
    until(lambda: lists(api) == 2)
    api.add(JOBS, job("after"))
    until(lambda: cache.get("after"))
    assert cache.trouble == "", "that is how watches are"


def test_what_vanished_unheard_is_forgotten_at_the_next_list(cache: JobCache, api: Api) -> None:
    until(lambda: watches(api))
    api.refuse("GET", "/jobs", 410, "too old", watch=True)
    until(lambda: cache.get("before"))
    api.emulator.objects[JOBS, NAMESPACE, "before"].delete()
    api.end_watches()
    until(lambda: cache.get("before") is None)


@pytest.mark.parametrize(("status", "watch"), [(429, True), (429, False), (500, True), (503, False)])
def test_an_api_that_asks_for_a_pause_gets_it(cache: JobCache, api: Api, status: int, watch: bool) -> None:
    until(lambda: watches(api))
    waits: list[float] = []
    wait = cache._stop.wait
    cache._stop.wait = lambda seconds: waits.append(seconds) or wait(min(seconds, 0.01))
    if not watch:
        api.refuse("GET", "/jobs", 410, "too old", watch=True)
    api.refuse("GET", "/jobs", status, "slow down", watch=watch, Retry_After="17")
    api.end_watches()
    until(lambda: 17.0 in waits)
    until(lambda: cache.trouble == "")
    api.add(JOBS, job("after"))
    until(lambda: cache.get("after"))


def test_pauses_grow_while_nothing_helps(cache: JobCache, api: Api) -> None:
    until(lambda: watches(api))
    waits: list[float] = []
    wait = cache._stop.wait
    cache._stop.wait = lambda seconds: waits.append(seconds) or wait(min(seconds, 0.01))
    api.refuse("GET", "/jobs", 403, "jobs.batch is forbidden", watch=True, times=1)
    api.refuse("GET", "/jobs", 403, "jobs.batch is forbidden", times=8)
    api.end_watches()
    until(lambda: "bind Role vfmalign-finetuning" in cache.trouble)
    until(lambda: cache.trouble == "")
    grown = [seconds for seconds in waits if seconds >= 0.5]
    assert grown == sorted(grown)
    assert len(set(grown)) > 1
    assert cache.get("before"), "what was known stays known"


def test_an_api_that_comes_back_is_heard_again(cache: JobCache, api: Api) -> None:
    until(lambda: watches(api))
    api.down()
    until(lambda: "cannot be reached" in cache.trouble)
    assert cache.get("before")
    api.up()
    api.add(JOBS, job("after"))
    until(lambda: cache.get("after"))
    assert cache.trouble == ""


def test_what_was_just_made_is_known_before_the_watch_tells(cache: JobCache, api: Api) -> None:
    until(lambda: watches(api))
    cache.add(job("mine"))
    assert cache.get("mine")
    newer = job("mine") | {"status": {"active": 1}}
    cache.add(newer)
    assert "status" not in cache.get("mine"), "the watch alone replaces what is known"
