"""Modality translation: the ADC map, in 1e-3 mm²/s, from T2W and one high-b DWI volume.

The hidden ADC channel keeps its own units (`imaging.prepare`), so the target is the diffusion coefficient itself, not
a z-score whose level nobody knows. Axes: D H W; K coefficients.

A closed-form ADC takes two b-values: ADC = ln(S0 / Sb) / b. A study holds a single DWI volume, so S0 is missing. T2W
stands in for it: both are the same proton density under an echo time, S0 ∝ ρ·exp(−TE_dwi / T2) and
T2W ∝ ρ·exp(−TE_t2w / T2). Then ADC ≈ c0 + c1·ln DWI + c2·ln T2W, where theory says c1 = −1/b and c2 ≈ 1/b, if b, both
echo times and both gains were known. They are not: every volume is divided by its mean, and the three coefficients are
the least-squares ones of the training cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.tasks import TRANSLATION as SPEC
from vfmalign.training.data import PreparedCase
from vfmalign.training.tasks.restoration import Restoration
from vfmalign.training.tasks.task import Task

UNIT = 1000.0
"""1e-3 mm²/s in the 1e-6 mm²/s of stored maps."""
TISSUE = (100.0, 4000.0)
"""Where the median of an ADC map in 1e-6 mm²/s can lie: free water at body temperature has 3,000."""
ADC = Restoration(("adc",), UNIT)


def closed_form(train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
    """Fits ADC ≈ c0 + c1·ln DWI + c2·ln T2W; where either shows no signal there is no ADC either.

    Raises:
        BadDataset: an ADC map is not in 1e-6 mm²/s.
    """
    left_KK, right_K = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for case in train:
        check_unit(case)
        terms_KDHW, seen_DHW = _terms(case)
        adc_DHW = ADC.target(case)[0]
        used_DHW = seen_DHW & (adc_DHW > 0)
        terms_KN = terms_KDHW[:, used_DHW]
        left_KK += terms_KN @ terms_KN.T
        right_K += terms_KN @ adc_DHW[used_DHW].double()
    coefficients_K = torch.linalg.lstsq(left_KK, right_K[:, None]).solution[:, 0]

    def predict(case: PreparedCase) -> Tensor:
        terms_KDHW, seen_DHW = _terms(case)
        adc_DHW = torch.einsum("k,kdhw->dhw", coefficients_K, terms_KDHW).clamp(min=0).float()
        return torch.where(seen_DHW, adc_DHW, 0.0)[None]

    return predict


def check_unit(case: PreparedCase) -> None:
    """Refuses a map whose values cannot be 1e-6 mm²/s: a model trained on mixed units would learn nonsense.

    Raises:
        BadDataset: naming the case.
    """
    adc_DHW = case.clean_CDHW[ADC.channels(case.modalities)[0]]
    median = float(adc_DHW[adc_DHW != 0].median())
    if not TISSUE[0] <= median <= TISSUE[1]:
        raise BadDataset(
            f"its ADC map has a median of {median:.3g}, which cannot be in 1e-6 mm²/s",
            subject=f"case {case.case}",
            remedy="store ADC in 1e-6 mm²/s, such as 1200",
        )


def _terms(case: PreparedCase) -> tuple[Tensor, Tensor]:
    """1, ln DWI and ln T2W of every voxel, each relative to its volume's mean, and where both show signal."""
    if case.scale is None:
        raise TypeError("the closed form needs the scale between the input and its signal")
    signal_CDHW = case.scale.invert(case.input_CDHW).double()
    dwi_DHW, t2w_DHW = (signal_CDHW[case.modalities.index(name)] for name in ("dwi", "t2w"))
    seen_DHW = (dwi_DHW > 0) & (t2w_DHW > 0)
    logs = [torch.where(seen_DHW, s / s[seen_DHW].mean(), 1.0).log() for s in (dwi_DHW, t2w_DHW)]
    return torch.stack([torch.ones_like(dwi_DHW), *logs]), seen_DHW


TRANSLATION = Task(
    spec=SPEC,
    loss=ADC.loss,
    primary=ADC.primary,
    score=ADC.score,
    panels=ADC.panels,
    naive_baseline=closed_form,
    restores=ADC.restores,
)
