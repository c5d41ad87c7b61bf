"""Rounds over the jobs of all tenants. The tenants share the launcher and its slots."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from vfmalign.finetuning import metrics
from vfmalign.finetuning.jobs.retries import Limits
from vfmalign.finetuning.jobs.supervisor import Supervisor

# Processes are killed after the grace period. The launcher needs a moment to observe their end.
_KILL_OBSERVATION_S = 30.0


class JobRounds:
    """Runs the supervisors of all tenants in turn. This class is not thread-safe.

    Args:
        supervisors: one for each tenant.
        limits: of all tenants together.
    """

    def __init__(self, supervisors: Sequence[Supervisor], limits: Limits) -> None:
        self._supervisors = supervisors
        self._limits = limits

    def reconcile(self) -> None:
        """Takes one action per job.

        A free slot goes to the tenant with the fewest launched jobs. If several tenants have the same number, the slot
        goes to the tenant whose job has waited longest.
        """
        launched = {supervisor: supervisor.monitor() for supervisor in self._supervisors}
        waiting = {supervisor: deque(supervisor.find_startable()) for supervisor in self._supervisors}
        while sum(launched.values()) < self._limits.max_running:
            able = [one for one in self._supervisors if waiting[one] and one.can_start]
            if not able:
                break
            chosen = min(able, key=lambda one: (launched[one], waiting[one][0].created_at))
            launched[chosen] += chosen.start(waiting[chosen].popleft())
        metrics.count_states(metrics.jobs, [supervisor.jobs.counts() for supervisor in self._supervisors])
        metrics.count_waiting_jobs([supervisor.jobs.count_waiting() for supervisor in self._supervisors])
        metrics.export_longest_wait([supervisor.jobs.find_longest_wait() for supervisor in self._supervisors])

    def stop_all(self, poll_s: float = 0.1) -> None:
        """Stops all launched jobs after a checkpoint, and queues them for the next start of the service.

        If a job does not end in time, its state stays the same. At its next start, the service looks for the job's
        process.
        """
        end = time.monotonic() + self._limits.stop_grace_s
        while time.monotonic() < end + _KILL_OBSERVATION_S:
            left = [supervisor.wind_down(force=time.monotonic() > end) for supervisor in self._supervisors]
            if not any(left):
                return
            time.sleep(poll_s)
