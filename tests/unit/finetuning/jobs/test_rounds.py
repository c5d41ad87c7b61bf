"""Rounds over the jobs of several tenants, which share the slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from vfmalign.client.messages.common import JOB_STATES
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.finetuning import metrics
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.rounds import JobRounds

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class Tenant:
    """Stands in for a supervisor: jobs are the minutes at which they were queued."""

    launched: int = 0
    queue: list[int] = field(default_factory=list)
    can_start: bool = True
    started: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)

    @property
    def jobs(self):
        return SimpleNamespace(
            counts=lambda: dict.fromkeys(JOB_STATES, 1),
            count_waiting=lambda: {"NO_FREE_SLOT": 1},
            find_longest_wait=lambda: None,
        )

    def monitor(self):
        return self.launched

    def find_startable(self):
        return [SimpleNamespace(minute=one, created_at=START + timedelta(minutes=one)) for one in self.queue]

    def start(self, job):
        self.started.append(job.minute)
        return job.minute >= 0

    def wind_down(self, *, force):
        self.forced.append(force)
        self.launched = max(0, self.launched - 1)
        return bool(self.launched)


def run(tenants, max_running):
    JobRounds(tenants, Limits(max_running=max_running)).reconcile()
    return [tenant.started for tenant in tenants]


def test_a_free_slot_goes_to_the_tenant_with_the_fewest_jobs():
    busy, idle = Tenant(launched=2, queue=[1, 2, 3]), Tenant(queue=[10, 11])
    assert run([busy, idle], 4) == [[], [10, 11]], "although the other's jobs have waited longer"
    busy, idle = Tenant(launched=2, queue=[1, 2, 3]), Tenant(queue=[10])
    assert run([busy, idle], 4) == [[1], [10]], "a slot that nobody else needs is used"


def test_of_tenants_with_equally_many_jobs_the_one_that_waits_longest_is_next():
    assert run([Tenant(queue=[5, 6]), Tenant(queue=[1, 2])], 3) == [[5], [1, 2]]
    assert run([Tenant(queue=[5]), Tenant(queue=[1])], 1) == [[], [1]]


def test_the_slots_are_those_of_all_tenants_together():
    assert run([Tenant(launched=1, queue=[1]), Tenant(launched=1, queue=[2])], 2) == [[], []]


def test_a_job_that_needed_no_slot_leaves_it_to_the_next():
    """Such as one whose result is stored, or whose baseline another job trains."""
    assert run([Tenant(queue=[-3, -2, 4]), Tenant()], 1) == [[-3, -2, 4], []]


def test_a_store_that_does_not_answer_stops_the_starts_of_its_tenant_alone():
    assert run([Tenant(queue=[1, 2], can_start=False), Tenant(queue=[3])], 4) == [[], [3]]


def test_the_metric_counts_the_jobs_of_all_tenants():
    run([Tenant(), Tenant(), Tenant()], 1)
    assert REGISTRY.get_sample_value("vfmalign_jobs", {"state": "queued"}) == 3
    metrics.jobs.clear()


def test_all_tenants_wind_down_together():
    tenants = [Tenant(launched=3), Tenant(launched=1)]
    JobRounds(tenants, Limits(stop_grace_s=60.0)).stop_all(poll_s=0.0)
    assert [tenant.forced for tenant in tenants] == [[False] * 3, [False] * 3]
    assert all(not tenant.launched for tenant in tenants)
