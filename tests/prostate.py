"""The declaration of prostate mpMRI and its tasks, on which most tests work."""

from vfmalign.core.domain.declarations import CaseGrade, CaseNumber, get_declaration
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import TASKS, get_task_spec

PROSTATE = get_declaration("prostate_mpmri")
GRADED = PROSTATE.model_copy(
    update={"grades": (CaseGrade(name="pirads", at_least=2),), "numbers": (CaseNumber(name="volume", unit="mL"),)}
)
"""The declaration of graded phantoms."""
SPECS = {name: get_task_spec(Task.parse(name), PROSTATE) for name in TASKS if name != "regression"}
"""The tasks that have defaults."""
