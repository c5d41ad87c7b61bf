"""Records of models: preprocessing, layers, pretraining and the model card."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vfmalign.core.domain.datasets import VolumeRef
from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.record import Id, Record, Sha256

Objective = Literal["masked_reconstruction", "contrastive", "supervised", "random"]


Normalisation = Literal["zscore_nonzero", "zscore_gland", "quantile_range"]
QUANTILES = (0.02, 0.98)
_PROSTATE_MODALITIES = {"t2w", "dwi", "adc"}
Quantile = Annotated[float, Field(ge=0.0, le=1.0)]


class PreprocessingSpec(Record):
    """Input that an encoder expects.

    Attributes:
        modalities: in channel order, each once.
        spacing_mm: target spacing along D, H, W; None keeps the reference's own.
        shape_DHW: size after centre crop and zero padding, in voxels.
        normalisation: `zscore_nonzero` is the z-score of each channel by mean and SD of the non-zero voxels and leaves
            zeros unchanged; `zscore_gland` uses those inside the gland mask, which every study must then have;
            `quantile_range` scales each channel so that two quantiles of its voxels become 0 and 1, and clips it.
        quantiles: lower and upper quantile of `quantile_range`.
        reference_modality: see `reference`; empty for the default.
    """

    modalities: tuple[Modality, ...] = Field(min_length=1, max_length=16)
    spacing_mm: tuple[float, float, float] | None
    shape_DHW: tuple[int, int, int]
    normalisation: Normalisation = "zscore_nonzero"
    # Left out where they have their defaults, so that records of earlier versions keep their digests.
    quantiles: tuple[Quantile, Quantile] = Field(default=QUANTILES, exclude_if=lambda value: value == QUANTILES)
    reference_modality: Modality | Literal[""] = Field(default="", exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("a modality is named twice")
        if self.quantiles[0] >= self.quantiles[1]:
            raise ValueError("the lower quantile is not below the upper one")
        return self

    @property
    def reference(self) -> Modality:
        """The modality whose volume defines the grid of a study: directions, centre and field of view.

        By default the first modality of the input. Models of prostate MRI take the grid from `t2w`, also where they do
        not see it, as the cards of earlier versions did without saying so.
        """
        if self.reference_modality:
            return self.reference_modality
        return "t2w" if _PROSTATE_MODALITIES.issuperset(self.modalities) else self.modalities[0]


class LayerSpec(Record):
    """A layer whose features can be extracted, and its number of channels."""

    name: str
    channels: int


class PretrainingDataset(Record):
    """A dataset that a model was pretrained on, with what is needed to detect leakage into a test split."""

    dataset: Id
    dataset_digest: Sha256
    volume_sha256: tuple[Sha256, ...]
    groups: tuple[Id, ...]


class ModelCard(Record):
    """Description of a published encoder.

    Attributes:
        architecture: name in `models.registry`.
        checkpoint: key and digest of the safetensors weights.
        primary_layer: the layer declared in advance for a check's main number.
        pretraining: datasets that the model was pretrained on; empty where unknown, so that leakage cannot be
            excluded, which the report states.
        parent: id of the model this one was fine-tuned from; empty for a pretrained one.
        source: origin and licence of the weights; free text without patient data.
    """

    id: Id
    architecture: str
    objective: Objective
    checkpoint: VolumeRef
    preprocessing: PreprocessingSpec
    layers: tuple[LayerSpec, ...]
    primary_layer: str
    pretraining: tuple[PretrainingDataset, ...] = ()
    parent: str = ""
    source: str = ""
