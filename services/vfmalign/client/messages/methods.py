"""Methods and validation rules of records. A generated record `X` derives from `XMethods`.

The fields that methods use are declared here only for type checkers. The generated class defines the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ConfigDict, SerializerFunctionWrapHandler, field_validator, model_serializer

from vfmalign.client.messages.base import ApiMessage
from vfmalign.core.domain.stored_objects import StoredFile, StoredObject

if TYPE_CHECKING:
    from vfmalign.client.messages.generated.common import Cost, Interval
    from vfmalign.client.messages.generated.mmd import LayerResult
    from vfmalign.core.storage.store.presigning import PresignedRequest


class ObjectRefMethods(ApiMessage):
    """Methods of `ObjectRef`: conversion from a stored object."""

    if TYPE_CHECKING:
        uri: str
        sha256: str
        size_bytes: int

    @classmethod
    def of(cls, stored: StoredObject, to_uri: Callable[[str], str]) -> Self:
        """Returns the address of a stored object; `to_uri` converts its key to a URI."""
        size_bytes = stored.size_bytes if isinstance(stored, StoredFile) else 0
        return cls(uri=to_uri(stored.key), sha256=stored.sha256, size_bytes=size_bytes)


class FileUploadMethods(ApiMessage):
    """Methods of `FileUpload`: conversion from a presigned request."""

    if TYPE_CHECKING:
        sha256: str
        url: str = ""
        headers: dict[str, str] = {}
        complete: bool = False

    @classmethod
    def of(cls, sha256: str, request: PresignedRequest | None) -> Self:
        """Returns the upload of a file by a signed request. If the request is None, the file is already stored."""
        if request is None:
            return cls(sha256=sha256, complete=True)
        return cls(sha256=sha256, url=request.url, headers=request.headers)


class EstimateMethods(ApiMessage):
    """Properties of an estimate."""

    if TYPE_CHECKING:
        interval: Interval | None

    @property
    def degenerate(self) -> bool:
        """Whether the coverage of any interval is unreliable."""
        return self.interval is not None and self.interval.degenerate


class ComputeResponseMethods(ApiMessage):
    """Methods of `ComputeResponse`, the result of a comparison."""

    if TYPE_CHECKING:
        layers: tuple[LayerResult, ...]
        cost: Cost
        backend: str
        backend_note: str

    def get_layer(self, name: str) -> LayerResult:
        """Returns the result of one layer."""
        return next(layer for layer in self.layers if layer.layer == name)

    def without_cost(self) -> Self:
        """Returns a copy without cost and backend. Copies of results for equal inputs are equal."""
        return self.model_copy(update={"cost": type(self.cost)(), "backend": "", "backend_note": ""})


class SettableMessage(ApiMessage):
    """A message whose fields the command line lists with their descriptions (`--set`)."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ComputeOptionsMethods(SettableMessage):
    """Options of a comparison."""


class KernelMethods(SettableMessage):
    """Kernel of a comparison."""


class TestOptionsMethods(SettableMessage):
    """Test of a comparison."""


class RecipeMethods(SettableMessage):
    """Validation rules of a recipe that go beyond the bounds of single fields."""

    @field_validator("patch_shape_dhw", check_fields=False)
    @classmethod
    def _check_axes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in {0, 3}:
            raise ValueError(f"expected no size or 3 sizes, got {len(shape)}")
        return shape


class StoredSpec(ApiMessage):
    """A specification that is stored and addressed by its digest.

    The stored JSON omits flags that are off, and unset fields that later versions added. Specifications of versions
    without these fields therefore keep their digests.
    """

    LATER_FIELDS: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """Unset values of the fields that earlier versions did not have, apart from flags."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in handler(self).items()
            if value is not False and (name not in self.LATER_FIELDS or value != self.LATER_FIELDS[name])
        }


class JobSpecMethods(StoredSpec):
    """Methods of `JobSpec`, the stored specification of a job."""

    LATER_FIELDS = MappingProxyType({"initial_seed": None, "train_cases": 0})


class CheckSpecMethods(StoredSpec):
    """Methods of `CheckSpec`, the stored specification of a check."""

    LATER_FIELDS = MappingProxyType(
        {"random_seeds": 0, "recipe_seed": None, "plan": None, "train_cases": 0, "require_licence": ""}
    )


class MonitorSpecMethods(StoredSpec, SettableMessage):
    """Methods of `MonitorSpec`, the stored specification of a monitor."""

    LATER_FIELDS = MappingProxyType({"first_patients": 0})


class ExperimentSpecMethods(StoredSpec):
    """Methods of `ExperimentSpec`, the stored specification of an experiment."""

    LATER_FIELDS = MappingProxyType({"train_cases": []})
