"""Records of models: preprocessing, layers, pretraining and the model card."""

from __future__ import annotations

from typing import Literal

from vfmalign.core.domain.datasets import VolumeRef
from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.record import Id, Record, Sha256

Objective = Literal["masked_reconstruction", "contrastive", "supervised", "random"]


class PreprocessingSpec(Record):
    """Input that an encoder expects.

    Attributes:
        modalities: in channel order.
        spacing_mm: target spacing along D, H, W; None keeps the T2 grid's own.
        shape_DHW: size after centre crop and zero padding, in voxels.
        normalisation: z-score of each channel: `zscore_nonzero` uses mean and SD of the non-zero voxels and leaves
            zeros unchanged; `zscore_gland` uses those inside the gland mask, which every study must then have.
    """

    modalities: tuple[Modality, ...] = ("t2w", "dwi", "adc")
    spacing_mm: tuple[float, float, float] | None
    shape_DHW: tuple[int, int, int]
    normalisation: Literal["zscore_nonzero", "zscore_gland"] = "zscore_nonzero"


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
