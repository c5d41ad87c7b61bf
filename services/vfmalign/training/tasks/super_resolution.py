"""Super-resolution: from a volume of half the in-plane resolution back to the original.

The network predicts a residual over its input. The untrained network therefore returns the input, and step 0 of every
curve is the input's own score.
"""

from __future__ import annotations

from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.domain.tasks import SUPER_RESOLUTION as SPEC
from vfmalign.training.tasks.restoration import Restoration
from vfmalign.training.tasks.task import Task

IMAGES = Restoration(get_declaration("prostate_mpmri").modalities)

SUPER_RESOLUTION = Task(
    spec=SPEC,
    loss=IMAGES.loss,
    primary=IMAGES.primary,
    score=IMAGES.score,
    panels=IMAGES.panels,
    naive_baseline=IMAGES.uncorrected,
    restores=IMAGES.restores,
    residual=True,
)
