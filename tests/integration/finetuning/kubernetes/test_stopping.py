"""The cluster's launcher stops jobs, gently or not, and leaves alone what it was not told to stop."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import Api, until
from tests.integration.finetuning.kubernetes.launches import NAME, URI, ended, running

from vfmalign.finetuning.launchers.base import Exited


def test_a_gentle_stop_suspends_and_keeps_the_job(make: Any, api: Api) -> None:
    launcher = make()
    handle = launcher.launch("a", 1, URI).handle
    api.status(NAME, active=1, ready=1)
    api.pod(NAME, {"phase": "Running"})
    launcher.stop("a", 1, handle, force=False)
    assert api.job(NAME)["spec"]["suspend"] is True
    until(lambda: "writes its checkpoint" in running(launcher))
    api.condition(NAME, "Suspended", active=0)
    assert "writes its checkpoint" in running(launcher), "its pod is still there"
    api.pod(NAME, {"phase": "Failed"})
    assert ended(launcher) == Exited(143)
    assert api.jobs() == [NAME]


def test_a_forced_stop_deletes_the_job_and_its_pods(make: Any, api: Api) -> None:
    launcher = make()
    handle = launcher.launch("a", 1, URI).handle
    launcher.stop("a", 1, handle, force=False)
    launcher.stop("a", 1, handle, force=True)
    assert api.requests("DELETE", NAME)[0].data["propagationPolicy"] == "Background"
    assert ended(launcher, handle=handle).exit_code is None


def test_a_job_of_a_queue_is_deleted_for_kueue_would_let_it_go_again(make: Any, api: Api) -> None:
    launcher = make(queue="gpu")
    handle = launcher.launch("a", 1, URI).handle
    launcher.stop("a", 1, handle, force=False)
    assert api.requests("PATCH") == []
    assert api.requests("DELETE", NAME)[0].data["propagationPolicy"] == "Foreground"


def test_stopping_what_is_not_there_does_nothing(make: Any, api: Api) -> None:
    launcher = make()
    launcher.stop("a", 1, None, force=False)
    launcher.stop("a", 1, {"name": NAME}, force=True)
    assert api.requests("DELETE") == api.requests("PATCH") == []


@pytest.mark.parametrize(("ttl_s", "kept"), [(3600, True), (0, False)])
def test_jobs_that_were_stopped_are_kept_as_long_as_ended_ones(make: Any, api: Api, ttl_s: int, kept: bool) -> None:
    launcher = make(ttl_s=ttl_s)
    launcher.launch("a", 1, URI)
    launcher.stop("a", 1, None, force=False)
    until(lambda: "stopping" in running(launcher))
    until(lambda: launcher.launch("b", 1, URI) and (NAME in api.jobs()) == kept)


def test_closing_leaves_jobs_alone(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    launcher.close()
    assert api.jobs() == [NAME]
    assert api.requests("DELETE") == api.requests("PATCH") == []
