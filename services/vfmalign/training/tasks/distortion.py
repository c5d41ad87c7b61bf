"""Distortion correction: from a DWI volume displaced and piled up by susceptibility back to the undistorted one.

The model sees T2W, which is not distorted, and DWI and ADC, which are distorted by the same field. Only DWI is
restored. The network predicts a residual over the distorted DWI, so that step 0 of every curve is the score of the
uncorrected input.
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
