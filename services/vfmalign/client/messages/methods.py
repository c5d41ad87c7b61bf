"""What records have beside the fields of their messages: a generated record `X` derives from `XMethods`.

Fields that methods use are declared for type checkers alone; the generated class defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer

from vfmalign.client.messages.base import ApiMessage
from vfmalign.core.domain.stored_objects import StoredFile, StoredObject

if TYPE_CHECKING:
    from vfmalign.client.messages.generated.common import Cost, Interval
    from vfmalign.client.messages.generated.mmd import LayerResult
    from vfmalign.core.storage.store.presigning import PresignedRequest


class ObjectRefMethods(ApiMessage):
    """Conversion from a reference by key."""

    if TYPE_CHECKING:
        uri: str
        sha256: str
        size_bytes: int

    @classmethod
    def of(cls, stored: StoredObject, to_uri: Callable[[str], str]) -> Self:
        """Returns the address of a stored object, of which `to_uri` gives the URI by the key."""
        size_bytes = stored.size_bytes if isinstance(stored, StoredFile) else 0
        return cls(uri=to_uri(stored.key), sha256=stored.sha256, size_bytes=size_bytes)


class FileUploadMethods(ApiMessage):
    """Conversion from a signed request."""

    if TYPE_CHECKING:
        sha256: str
        url: str = ""
        headers: dict[str, str] = {}
        complete: bool = False

    @classmethod
    def of(cls, sha256: str, request: PresignedRequest | None) -> Self:
        """Returns where a file is uploaded: by a request, or, without one, nowhere, because it is there already."""
        if request is None:
            return cls(sha256=sha256, complete=True)
        return cls(sha256=sha256, url=request.url, headers=request.headers)


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

    Flags that are off and later fields that are unset are left out, so that specifications of earlier versions, which
    had none, keep their digests.
    """

    LATER_FIELDS: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """What fields that are no flags, and that earlier versions did not have, hold where they are unset."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in handler(self).items()
            if value is not False and (name not in self.LATER_FIELDS or value != self.LATER_FIELDS[name])
        }


class JobSpecMethods(StoredSpec):
    """A requested job is stored."""

    LATER_FIELDS = MappingProxyType({"initial_seed": None})


class CheckSpecMethods(StoredSpec):
    """A requested check is stored."""

    LATER_FIELDS = MappingProxyType({"random_seeds": 0, "recipe_seed": None})


class MonitorSpecMethods(StoredSpec):
    """A requested monitor is stored."""

    LATER_FIELDS = MappingProxyType({"first_patients": 0})


class ExperimentSpecMethods(StoredSpec):
    """A requested experiment is stored."""
