"""Distortion correction: from a DWI volume that susceptibility displaced and piled up back to the true one.

The model sees T2W, which is not distorted, beside DWI and ADC, which are by one field; DWI alone is restored. The
network predicts a residual over the distorted DWI, so step 0 of every curve is the uncorrected input's score.
"""

from __future__ import annotations

from vfmalign.core.domain.tasks import DISTORTION as SPEC
from vfmalign.training.tasks.restoration import Restoration
from vfmalign.training.tasks.task import Task

DWI = Restoration(("dwi",))

DISTORTION = Task(
    spec=SPEC,
    loss=DWI.loss,
    primary=DWI.primary,
    score=DWI.score,
    panels=DWI.panels,
    naive_baseline=DWI.uncorrected,
    restores=DWI.restores,
    residual=True,
)
