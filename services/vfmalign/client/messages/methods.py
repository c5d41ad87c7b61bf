"""What records have beside the fields of their messages: a generated record `X` derives from `XMethods`.

Fields that methods use are declared for type checkers alone; the generated class defines them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import SerializerFunctionWrapHandler, ValidationError, field_validator, model_serializer

from vfmalign.client.messages.base import ApiMessage, to_bad_option
from vfmalign.core.domain.models import QUANTILES, PreprocessingSpec

if TYPE_CHECKING:
    from vfmalign.client.messages.generated.common import Cost, Interval
    from vfmalign.client.messages.generated.mmd import LayerResult


class EstimateMethods(ApiMessage):
    """Properties of an estimate."""

    if TYPE_CHECKING:
        interval: Interval | None

    @property
    def degenerate(self) -> bool:
        """Whether there is an interval, and its coverage is unreliable."""
        return self.interval is not None and self.interval.degenerate


class ComputeResponseMethods(ApiMessage):
    """Parts of the result of a comparison."""

    if TYPE_CHECKING:
        layers: tuple[LayerResult, ...]
        cost: Cost
        backend: str
        backend_note: str

    def get_layer(self, name: str) -> LayerResult:
        """Returns the result of one layer."""
        return next(layer for layer in self.layers if layer.layer == name)

    def without_cost(self) -> Self:
        """Returns the part that is equal for equal inputs: everything but cost and backend."""
        return self.model_copy(update={"cost": type(self.cost)(), "backend": "", "backend_note": ""})


class PreprocessingMethods(ApiMessage):
    """Conversions from and to the input of a model."""

    if TYPE_CHECKING:
        modalities: tuple[str, ...]
        spacing_mm: tuple[float, ...]
        shape_dhw: tuple[int, ...]
        normalisation: str
        quantiles: tuple[float, ...]
        reference: str

    @classmethod
    def from_spec(cls, spec: PreprocessingSpec) -> Self:
        """Converts the input of a model to publish, of which defaults stay empty."""
        return cls(
            modalities=spec.modalities,
            spacing_mm=spec.spacing_mm or (),
            shape_dhw=spec.shape_DHW,
            normalisation=spec.normalisation,
            quantiles=() if spec.quantiles == QUANTILES else spec.quantiles,
            reference=spec.reference_modality,
        )

    def to_spec(self, field: str) -> PreprocessingSpec:
        """Converts to the input of a model; the inverse of `from_spec`.

        Raises:
            BadOption: a value is wrong; the error names it as a part of `field`.
        """
        content = {
            "modalities": self.modalities,
            "spacing_mm": self.spacing_mm or None,
            "shape_DHW": self.shape_dhw,
            "normalisation": self.normalisation,
            "quantiles": self.quantiles or QUANTILES,
            "reference_modality": self.reference,
        }
        try:
            return PreprocessingSpec.model_validate(content)
        except ValidationError as error:
            names = {"shape_DHW": "shape_dhw", "reference_modality": "reference"}
            raise to_bad_option(error, field, names) from None


class RecipeMethods(ApiMessage):
    """Rules of a recipe beyond the bounds of its fields."""

    @field_validator("patch_shape_dhw", check_fields=False)
    @classmethod
    def _check_axes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in {0, 3}:
            raise ValueError(f"expected no size or 3 sizes, got {len(shape)}")
        return shape


class StoredSpec(ApiMessage):
    """A specification that is stored and addressed by its digest.

    Flags that are off are left out, so that specifications of earlier versions, which had none, keep their digests.
    """

    @model_serializer(mode="wrap")
    def _leave_out_flags_that_are_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not False}


class JobSpecMethods(StoredSpec):
    """A requested job is stored."""


class CheckSpecMethods(StoredSpec):
    """A requested check is stored."""


class ExperimentSpecMethods(StoredSpec):
    """A requested experiment is stored."""
