"""One list of Jobs for all questions within an interval: what it shows, and what happens where it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import JOBS, Api

from vfmalign.finetuning.launchers.kubernetes import listing
from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.listing import JobList

LABEL = "vfmalign.io/job"


def job(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {LABEL: name}}, "spec": {}}


def lists(api: Api) -> int:
    return len(api.requests("GET", "/jobs"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on only when the test says so."""
    found = [1_000.0]
    monkeypatch.setattr(listing.time, "monotonic", lambda: found[0])
    return found


@pytest.fixture
def jobs(api: Api, connect: Callable[[], Cluster], clock: list[float]) -> JobList:
    """A list that is read every five seconds."""
    api.add(JOBS, job("before"))
    return JobList(connect(), LABEL, every_s=5.0)


def test_jobs_are_listed_once_in_five_seconds(jobs: JobList, api: Api, clock: list[float]) -> None:
    assert jobs.get("before")
    api.add(JOBS, job("later"))
    api.add(JOBS, {"metadata": {"name": "foreign"}, "spec": {}})
    api.remove("before")
    clock[0] += 4.9
    assert [one["metadata"]["name"] for one in jobs.all()] == ["before"]
    assert lists(api) == 1
    clock[0] += 0.1
    assert [one["metadata"]["name"] for one in jobs.all()] == ["later"]
    api.status("later", active=1)
    clock[0] += 5.0
    assert jobs.get("later")["status"] == {"active": 1}
    assert lists(api) == 3


def test_a_job_that_was_just_created_is_known_before_the_next_list(jobs: JobList, clock: list[float]) -> None:
    jobs.all()
    jobs.add(job("mine"))
    assert jobs.get("mine")
    clock[0] += 5.0
    assert jobs.get("mine") is None, "the list alone says what is there"


@pytest.mark.parametrize(
    ("status", "pause_s", "words"),
    [(403, 5.0, "bind Role vfmalign-finetuning"), (429, 17.0, "slow down"), (503, 17.0, "slow down")],
)
def test_a_list_that_is_refused_leaves_the_last_one_and_says_why(
    jobs: JobList, api: Api, clock: list[float], status: int, pause_s: float, words: str
) -> None:
    jobs.all()
    api.refuse("GET", "/jobs", status, "slow down", Retry_After=str(pause_s if pause_s > 5.0 else 1))
    clock[0] += 5.0
    assert jobs.get("before"), "a Job of the last list stays known"
    assert words in jobs.trouble
    clock[0] += pause_s - 0.1
    jobs.all()
    assert lists(api) == 2, "an API that asks for a pause gets it"
    clock[0] += 0.1
    assert jobs.get("before")
    assert (lists(api), jobs.trouble) == (3, "")


def test_an_api_that_comes_back_is_listed_again(jobs: JobList, api: Api, clock: list[float]) -> None:
    jobs.all()
    api.down()
    clock[0] += 5.0
    assert jobs.get("before")
    assert "cannot be reached" in jobs.trouble
    api.up()
    api.add(JOBS, job("after"))
    clock[0] += 5.0
    assert jobs.get("after")
    assert jobs.trouble == ""
