"""Modality translation: the ADC map, in 1e-3 mm²/s, from T2W and one high-b DWI volume.

The hidden ADC channel keeps its own units (see `imaging.preprocessing`). The target is therefore the diffusion
coefficient itself rather than a z-score, whose level would be unknown.

A closed-form ADC needs two b-values: ADC = ln(S0 / Sb) / b. A study contains a single DWI volume, so that S0 is
missing. T2W takes its place: both show the same proton density weighted by an echo time, S0 ∝ ρ·exp(−TE_dwi / T2) and
T2W ∝ ρ·exp(−TE_t2w / T2). Then ADC ≈ c0 + c1·ln DWI + c2·ln T2W, with c1 = −1/b and c2 ≈ 1/b in theory if b, both echo
times and both gains are known. As they are not, every volume is divided by its mean, and the three coefficients are
fitted to the training cases by least squares.

Axes: D H W; K coefficients.
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

ADC_UNIT = 1000.0
"""1e-3 mm²/s in units of the stored maps (1e-6 mm²/s)."""
MEDIAN_RANGE = (100.0, 4000.0)
"""Plausible medians of an ADC map in 1e-6 mm²/s: free water at body temperature has 3,000."""
ADC = Restoration(("adc",), ADC_UNIT)


def fit_closed_form(train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
    """The naive baseline: fit ADC ≈ c0 + c1·ln DWI + c2·ln T2W; where either has no signal, ADC is 0.

    Raises:
        BadDataset: an ADC map is not in 1e-6 mm²/s.
    """
    gram_KK, moment_K = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for case in train:
        check_adc_unit(case)
        regressors_KDHW, valid_DHW = _regressors(case)
        adc_DHW = ADC.target(case)[0]
        fitted_DHW = valid_DHW & (adc_DHW > 0)
        regressors_KN = regressors_KDHW[:, fitted_DHW]
        gram_KK += regressors_KN @ regressors_KN.T
        moment_K += regressors_KN @ adc_DHW[fitted_DHW].double()
    coefficients_K = torch.linalg.lstsq(gram_KK, moment_K[:, None]).solution[:, 0]

    def predict(case: PreparedCase) -> Tensor:
        regressors_KDHW, valid_DHW = _regressors(case)
        adc_DHW = torch.einsum("k,kdhw->dhw", coefficients_K, regressors_KDHW).clamp(min=0).float()
        return torch.where(valid_DHW, adc_DHW, 0.0)[None]

    return predict


def check_adc_unit(case: PreparedCase) -> None:
    """Reject a map whose values cannot be in 1e-6 mm²/s, since a model cannot learn from mixed units.

    Raises:
        BadDataset: with the id of the case.
    """
    adc_DHW = case.clean_CDHW[ADC.channels(case.modalities)[0]]
    median = float(adc_DHW[adc_DHW != 0].median())
    if not MEDIAN_RANGE[0] <= median <= MEDIAN_RANGE[1]:
        raise BadDataset(
            f"the ADC map has a median of {median:.3g}, which cannot be in 1e-6 mm²/s",
            subject=f"case {case.case}",
            remedy="store ADC in 1e-6 mm²/s, such as 1200",
        )


def _regressors(case: PreparedCase) -> tuple[Tensor, Tensor]:
    """1, ln DWI and ln T2W of every voxel, relative to the volume's mean, and the mask where both have signal."""
    if case.scale is None:
        raise TypeError("the closed form needs the scale between the input and its signal")
    signal_CDHW = case.scale.invert(case.input_CDHW).double()
    dwi_DHW, t2w_DHW = (signal_CDHW[case.modalities.index(name)] for name in ("dwi", "t2w"))
    valid_DHW = (dwi_DHW > 0) & (t2w_DHW > 0)
    logs = [torch.where(valid_DHW, s / s[valid_DHW].mean(), 1.0).log() for s in (dwi_DHW, t2w_DHW)]
    return torch.stack([torch.ones_like(dwi_DHW), *logs]), valid_DHW


TRANSLATION = Task(
    spec=SPEC,
    loss=ADC.loss,
    primary=ADC.primary,
    score=ADC.score,
    panels=ADC.panels,
    naive_baseline=fit_closed_form,
    restores=ADC.restores,
)
