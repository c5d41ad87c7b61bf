"""Tasks by name: one file and one entry in `TASKS` for each entry of `core.domain.tasks`."""

from __future__ import annotations

from vfmalign.core.domain.errors import BadOption
from vfmalign.training.tasks.classification import CLASSIFICATION
from vfmalign.training.tasks.distortion import DISTORTION
from vfmalign.training.tasks.segmentation import SEGMENTATION
from vfmalign.training.tasks.super_resolution import SUPER_RESOLUTION
from vfmalign.training.tasks.task import Task
from vfmalign.training.tasks.translation import TRANSLATION

TASKS: dict[str, Task] = {
    task.spec.name: task for task in (SEGMENTATION, SUPER_RESOLUTION, DISTORTION, TRANSLATION, CLASSIFICATION)
}


def get_task(name: str) -> Task:
    """Look up a task.

    Raises:
        BadOption: no task has this name.
    """
    if name not in TASKS:
        raise BadOption(f"no task is called {name[:64]!r}", field="task", remedy=f"choose one of {', '.join(TASKS)}")
    return TASKS[name]
