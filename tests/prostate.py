"""The declaration of prostate mpMRI and its tasks, on which most tests work."""

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import TASKS, get_task_spec

PROSTATE = get_declaration("prostate_mpmri")
SPECS = {name: get_task_spec(Task.parse(name), PROSTATE) for name in TASKS}
