"""Translation: predicts one modality from others, such as the ADC map from T2W and one high-b DWI volume.

The target's hidden channel keeps its own units (see `imaging.preprocessing`). The target is therefore the quantity
itself. It is not a z-score, because the level of a z-score would be unknown. ADC is in 1e-3 mm²/s. The scale of any
other modality differs between scans and cannot be predicted either. A target with such a scale is divided by the mean
of its nonzero voxels.

The naive baseline is fitted to the training cases by least squares. For ADC, the baseline has a closed form. ADC =
ln(S0 / Sb) / b needs two b-values. A study contains only one DWI volume, so S0 is missing. T2W replaces S0, because
T2W and S0 both show proton density weighted by an echo time: S0 ∝ ρ·exp(−TE_dwi / T2) and T2W ∝ ρ·exp(−TE_t2w / T2).
Then ADC ≈ c0 + c1·ln DWI + c2·ln T2W. If b, both echo times and both gains were known, c1 = −1/b and c2 ≈ 1/b would
follow. Here they are unknown. Every volume is therefore divided by its mean, and the coefficients are fitted. For a
target of another contrast, no closed form exists. The baseline of such a target is fitted to the intensities of the
inputs and their logarithms.

Axes: D H W; K coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.tasks import QUANTITATIVE
from vfmalign.training.data import PreparedCase
from vfmalign.training.tasks.restoration import Restoration
from vfmalign.training.tasks.task import TrainableTask

UNITS: dict[Modality, float] = {"adc": 1000.0}
"""Unit of the output of a quantitative target in units of the stored maps: 1e-3 mm²/s where maps are in 1e-6 mm²/s."""
MEDIAN_RANGE = (100.0, 4000.0)
"""Plausible medians of an ADC map in 1e-6 mm²/s: free water at body temperature has 3,000."""


@dataclass(frozen=True)
class Translation:
    """Target and naive baseline of a translation.

    Attributes:
        inputs: modalities to translate from.
        target: modality to predict.
    """

    inputs: tuple[Modality, ...]
    target: Modality

    @property
    def restoration(self) -> Restoration:
        """Loss, metrics and panels."""
        return Restoration((self.target,), UNITS.get(self.target, 1.0))

    def prepare(self, cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Divides each case's target by its own mean, unless the target is quantitative."""
        return list(cases) if self.target in QUANTITATIVE else [self._normalise(case) for case in cases]

    def fit(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """Fits the naive baseline, a least-squares prediction of the target.

        The prediction is 0 where an input has no signal.

        Raises:
            BadDataset: an ADC map is not in 1e-6 mm²/s.
        """
        n_coefficients = len(self._regressors(train[0])[0])
        gram_KK = torch.zeros(n_coefficients, n_coefficients, dtype=torch.float64)
        moment_K = torch.zeros(n_coefficients, dtype=torch.float64)
        for case in train:
            if self.target == "adc":
                check_adc_unit(case)
            regressors_KDHW, valid_DHW = self._regressors(case)
            target_DHW = self.restoration.target(case)[0]
            fitted_DHW = valid_DHW & (target_DHW > 0)
            regressors_KN = regressors_KDHW[:, fitted_DHW]
            gram_KK += regressors_KN @ regressors_KN.T
            moment_K += regressors_KN @ target_DHW[fitted_DHW].double()
        coefficients_K = torch.linalg.lstsq(gram_KK, moment_K[:, None]).solution[:, 0]

        def predict(case: PreparedCase) -> Tensor:
            regressors_KDHW, valid_DHW = self._regressors(case)
            target_DHW = torch.einsum("k,kdhw->dhw", coefficients_K, regressors_KDHW).clamp(min=0).float()
            return torch.where(valid_DHW, target_DHW, 0.0)[None]

        return predict

    def _normalise(self, case: PreparedCase) -> PreparedCase:
        channel = case.modalities.index(self.target)
        clean_CDHW = case.clean_CDHW.clone()
        signal_DHW = clean_CDHW[channel]
        clean_CDHW[channel] = signal_DHW / signal_DHW[signal_DHW != 0].abs().mean().clamp(min=1e-12)
        return replace(case, clean_CDHW=clean_CDHW)

    def _regressors(self, case: PreparedCase) -> tuple[Tensor, Tensor]:
        """Regressors of every voxel, (K, D, H, W), and the mask where all inputs have signal.

        They are 1, the logarithms of the inputs and, unless the target is quantitative, the inputs themselves, each
        relative to the mean of its volume.
        """
        if case.scale is None:
            raise TypeError("the naive baseline needs the scale between the input and its signal")
        signal_CDHW = case.scale.invert(case.input_CDHW).double()
        inputs = [signal_CDHW[case.modalities.index(name)] for name in sorted(self.inputs)]
        valid_DHW = torch.stack([signal_DHW > 0 for signal_DHW in inputs]).all(0)
        relative = [torch.where(valid_DHW, s / s[valid_DHW].mean(), 1.0) for s in inputs]
        regressors = [torch.ones_like(inputs[0]), *(s.log() for s in relative)]
        if self.target not in QUANTITATIVE:
            regressors += relative
        return torch.stack(regressors), valid_DHW


def check_adc_unit(case: PreparedCase) -> None:
    """Rejects an ADC map whose values cannot be in 1e-6 mm²/s, because a model cannot learn from mixed units.

    Raises:
        BadDataset: the values of the map cannot be in this unit. The error names the case by id.
    """
    adc_DHW = case.clean_CDHW[case.modalities.index("adc")]
    median = float(adc_DHW[adc_DHW != 0].median())
    if not MEDIAN_RANGE[0] <= median <= MEDIAN_RANGE[1]:
        raise BadDataset(
            f"the ADC map has a median of {median:.3g}, which cannot be in 1e-6 mm²/s",
            subject=f"case {case.case}",
            remedy="store ADC in 1e-6 mm²/s, such as 1200",
        )


def make_translation(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities in its parameters."""
    if not spec.parameters.target:
        raise TypeError("a translation has a target")
    task = Translation(spec.parameters.inputs, spec.parameters.target)
    restoration = task.restoration
    return TrainableTask(
        spec=spec,
        loss=restoration.loss,
        primary=restoration.primary,
        score=restoration.score,
        panels=restoration.panels,
        naive_baseline=task.fit,
        prepare=task.prepare,
        restores=spec.restores,
    )
