"""Declared plans of checks: their agreement with the request, and the earlier checks that they name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from vfmalign.analysis.checks.plan import parse_plan
from vfmalign.client.messages.checks import CheckSpec, EarlierCheck
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.declarations import CaseGrade, TaskParameters
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.finetuning.checks.repository import CheckRepository, StoredCheck

_IN_BOTH = ("seeds", "smallest_difference", "model_sha256", "dataset_digest")
"""Fields that a plan and the request of its check both have."""


def check_plan(spec: CheckSpec) -> None:
    """Checks the gate of a plan, and that the plan agrees with the request.

    Raises:
        BadOption: it does not.
    """
    if spec.plan is None:
        return
    parse_plan(spec.plan)
    for field in _IN_BOTH:
        planned, requested = getattr(spec.plan, field), getattr(spec, field)
        if planned != requested:
            raise BadOption(
                f"the plan declares {planned}, and the request has {requested or 'none'}",
                field=f"plan.{field}",
                remedy=f"set {field} of the request to the declared value",
            )


def check_metric(spec: CheckSpec, task: TaskSpec) -> None:
    """Checks that a plan names the primary metric of the task.

    Raises:
        BadOption: it names another metric.
    """
    metric = task.primary_metric.name
    if spec.plan is not None and spec.plan.metric != metric:
        raise BadOption(
            f"{spec.plan.metric[:64]!r} is not the task's primary metric", field="plan.metric", remedy=f"use {metric}"
        )


def list_earlier(checks: CheckRepository, check: StoredCheck, dataset: DatasetManifest) -> tuple[EarlierCheck, ...]:
    """Returns the checks that were created before a check with a plan, on the same model digest, dataset id and task.

    Includes checks that were deleted since. The answer therefore never changes.

    Args:
        checks: all checks of the tenant.
        check: the check. Without a plan, the result is empty.
        dataset: its dataset. Its declaration completes the tasks, because a task may leave out defaults.
    """
    if check.request.plan is None:
        return ()

    def complete(task: Task) -> TaskSpec | None:
        with suppress(BadOption):  # of an earlier version of the dataset
            spec = get_task_spec(task, dataset.declaration)
            # Trainings on a grade are the same from whichever grade on a case is positive.
            grade = None if spec.grade is None else CaseGrade(name=spec.grade.name)
            return replace(spec, parameters=TaskParameters(), grade=grade, naive_baseline="")
        return None

    task = complete(check.request.task)
    return tuple(earlier for earlier, other in checks.list_earlier(check) if complete(other) == task)
