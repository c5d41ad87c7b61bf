"""Records of models: preprocessing, layers, pretraining and the model card."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from vfmalign.core.domain.datasets import MAX_CASES
from vfmalign.core.domain.declarations import MAX_MODALITIES, MAX_RULES_LENGTH, Modality
from vfmalign.core.domain.record import Id, OptionalId, OptionalLicence, Record, Sha256
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.formats.bounds import get_bounds, get_field, get_range
from vfmalign.v1 import features_pb2

Objective = Literal["masked_reconstruction", "contrastive", "supervised", "random", "unknown"]


Normalisation = Literal["zscore_nonzero", "zscore_gland", "quantile_range", "window"]
QUANTILES = (0.02, 0.98)
_MODALITIES_ON_T2W_GRID = {"t2w", "dwi", "adc"}
Quantile = Annotated[float, get_range(features_pb2.Preprocessing, "quantiles"), Field(allow_inf_nan=False)]
WindowBound = Annotated[float, get_range(features_pb2.Preprocessing, "window"), Field(allow_inf_nan=False)]
MIN_WINDOW_HU = 1.0
_SPACINGS = get_bounds(get_field(features_pb2.Preprocessing, "spacing_mm"))
MIN_SPACING_MM, MAX_SPACING_MM = _SPACINGS.min, _SPACINGS.max
"""Range of voxel spacings, of volumes and of the grids of models."""
MAX_INPUT_VALUES = 2**26
"""Largest input of a model, channels times voxels: 256 MiB in float32."""
MAX_PATCHES = 4096
"""Largest number of patches of an input."""
MAX_LAYERS = 256
MAX_LAYER_CHANNELS = 2**20
Spacing = Annotated[float, get_range(features_pb2.Preprocessing, "spacing_mm"), Field(allow_inf_nan=False)]
Side = Annotated[int, get_range(features_pb2.Preprocessing, "shape_dhw")]
LayerName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:-]*$")]
"""Name of a layer, such as the path of a module: `encoder.blocks.3`. It names tensors in files, and is shown."""

Count = Annotated[int, get_range(features_pb2.TensorCounts, "loaded")]
EXPORTED_PROGRAM = "torch_export"
"""Architecture on the cards of exported programs."""


class Preprocessing(Record):
    """Input that an encoder expects.

    The record is also the API's message. In the message, an empty field means the field's default.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)  # the command line lists the fields with their meanings

    modalities: tuple[Modality, ...] = Field(min_length=1, max_length=MAX_MODALITIES)
    """Images of the input in channel order, each once."""
    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Target spacing along D, H, W; None keeps the reference's own."""
    shape_dhw: tuple[Side, Side, Side]
    """Size along D, H, W after centre crop and zero padding, in voxels; at most `MAX_INPUT_VALUES` (2²⁶) over all
    modalities.
    """
    normalisation: Normalisation = "zscore_nonzero"
    """`zscore_nonzero` is the z-score of each channel by mean and SD of the non-zero voxels and leaves zeros unchanged;
    `zscore_gland` uses those inside the gland mask, which every study must then have; `quantile_range` scales each
    channel so that two quantiles of its voxels become 0 and 1, and clips it; `window` does so with fixed bounds in
    Hounsfield units, and takes modalities in that unit alone.
    """
    quantiles: tuple[Quantile, Quantile] | None = Field(
        default_factory=lambda content: QUANTILES if content["normalisation"] == "quantile_range" else None
    )
    """Lower and upper quantile of `quantile_range`, by default 0.02 and 0.98; None for other normalisations."""
    reference: Modality = Field(default_factory=lambda content: _get_default_reference(content["modalities"]))
    """The modality whose volume defines the grid of a study: directions, centre and field of view. The default is `t2w`
    for models that read only `t2w`, `dwi` and `adc`, even if they do not read `t2w` itself, because diffusion volumes
    are coarser. For other models it is the first modality of the input.
    """
    # Left out if there is none, so that cards and feature sets of earlier versions keep their digests.
    window: tuple[WindowBound, WindowBound] | None = Field(default=None, exclude_if=lambda window: window is None)
    """Lower and upper bound of `window` in HU, at least `MIN_WINDOW_HU` (1) apart; None for other normalisations."""
    patch_shape_dhw: tuple[Side, Side, Side] | None = Field(default=None, exclude_if=lambda patch: patch is None)
    """Size along D, H, W of the patches in which the network reads the input, in voxels; None if it reads the whole."""

    @property
    def network_shape_dhw(self) -> tuple[int, int, int]:
        """Size along D, H, W of what the network reads at once: a patch, or the whole input."""
        return self.patch_shape_dhw or self.shape_dhw

    def content_digest(self) -> str:
        """Returns a digest of the preprocessing that does not depend on the names of the modalities.

        Features of datasets with different names of modalities can be compared if this digest is the same.
        """
        names = {modality: f"input_{index}" for index, modality in enumerate(self.modalities)}
        reference = names.get(self.reference, self.reference)
        return self.model_copy(update={"modalities": tuple(names.values()), "reference": reference}).digest()

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty_fields(cls, content: object) -> object:
        if not isinstance(content, dict):
            return content
        return {name: value for name, value in content.items() if value or name not in cls.model_fields}

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("a modality is named twice")
        if (self.quantiles is None) == (self.normalisation == "quantile_range"):
            raise PydanticCustomError(
                "quantiles",
                "quantiles are required for the normalisation quantile_range, and not allowed for others",
                {"remedy": "give two quantiles with quantile_range, and none otherwise"},
            )
        if self.quantiles is not None and self.quantiles[0] >= self.quantiles[1]:
            raise ValueError("the lower quantile is not below the upper one")
        if (self.window is None) == (self.normalisation == "window"):
            raise PydanticCustomError(
                "window",
                "two bounds in HU are required for the normalisation window, and not allowed for others",
                {"remedy": "give the lower and the upper bound, such as -160 and 240, or choose another normalisation"},
            )
        if self.window is not None and self.window[1] - self.window[0] < MIN_WINDOW_HU:
            raise ValueError(f"the upper bound of the window is not at least {MIN_WINDOW_HU:g} HU above the lower one")
        if any(patch > size for patch, size in zip(self.network_shape_dhw, self.shape_dhw, strict=True)):
            raise ValueError("a patch is larger than the input")
        # Patches overlap by half a side, so an axis has fewer than twice the patches that lie side by side.
        sides = zip(self.shape_dhw, self.network_shape_dhw, strict=True)
        if math.prod(2 * math.ceil(size / patch) for size, patch in sides) > MAX_PATCHES:
            raise ValueError(f"the input may have more than {MAX_PATCHES:,} patches; choose larger patches")
        if len(self.modalities) * math.prod(self.shape_dhw) > MAX_INPUT_VALUES:
            raise ValueError(f"the input has more than {MAX_INPUT_VALUES} values")
        return self


def _get_default_reference(modalities: tuple[Modality, ...]) -> Modality:
    return "t2w" if _MODALITIES_ON_T2W_GRID.issuperset(modalities) else modalities[0]


class Layer(Record):
    """A layer from which features can be extracted, and its number of channels.

    This record is also the API's message.
    """

    name: LayerName
    channels: int = Field(ge=1, le=MAX_LAYER_CHANNELS)


class PretrainingDataset(Record):
    """A pretraining dataset, with the volumes and patients that reveal leakage into a test split."""

    dataset_id: Id
    dataset_digest: Sha256
    volume_sha256: tuple[Sha256, ...] = Field(max_length=MAX_CASES * MAX_MODALITIES)
    groups: tuple[Id, ...] = Field(max_length=MAX_CASES)


class TensorCounts(Record):
    """Numbers of tensors that an import loaded, dropped and initialised. This record is also the API's message."""

    loaded: Count = 0
    dropped: Count = 0
    initialised: Count = 0


class ModelCard(Record):
    """Description of a published encoder.

    Attributes:
        architecture: name in `models.registry`.
        checkpoint: key and digest of the safetensors weights.
        primary_layer: layer from which a check computes its main number. The layer is fixed in advance.
        pretraining: datasets that the model was pretrained on; empty if the datasets are unknown. If empty, the report
            states that leakage cannot be excluded.
        parent_model_id: model from which this model was fine-tuned; empty for a pretrained model.
        source: origin of the weights, such as URI@REVISION, without patient data.
        licence: SPDX id of the licence of the weights; empty if unknown.
        tensors: tensors of the imported file; None for a trained model.
        declaration: rules for reading inputs from DICOM: the JSON text of a declaration file with `selections`. Empty
            without rules. `imaging.datasets.layouts.derivation` reads and writes it.
    """

    id: Id
    architecture: str = Field(min_length=1, max_length=2**14)
    objective: Objective
    checkpoint: StoredObject
    preprocessing: Preprocessing
    layers: tuple[Layer, ...] = Field(max_length=MAX_LAYERS)
    primary_layer: LayerName
    pretraining: tuple[PretrainingDataset, ...] = Field(default=(), max_length=64)
    parent_model_id: OptionalId = ""
    source: str = Field(default="", max_length=4096)
    # Left out if there is none, so that cards of earlier versions keep their bytes.
    declaration: str = Field(default="", max_length=MAX_RULES_LENGTH, exclude_if=lambda text: not text)
    licence: OptionalLicence = Field(default="", exclude_if=lambda licence: not licence)
    tensors: TensorCounts | None = Field(default=None, exclude_if=lambda counts: counts is None)
