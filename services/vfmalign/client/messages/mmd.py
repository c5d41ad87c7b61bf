"""Messages of `MmdService`; fields, units and sources are documented in `mmd.proto`.

Samples have no records here: their tensors are too large for a detour through JSON.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from google.protobuf.message import Message
from pydantic import Field
from pydantic.fields import FieldInfo

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.common import Cost, Estimate, ObjectRef
from vfmalign.client.messages.imports import FileContent, FileUpload
from vfmalign.core.rpc.limits.bounds import get_bounds
from vfmalign.v1 import mmd_pb2

UNNAMED_LAYER = "features"
"""Name of a layer that the caller does not name, such as that of a sample that is one array."""
DEFAULT_LEVEL = 0.95
"""Coverage of intervals."""

Pairing = Literal["paired", "independent"]
Estimator = Literal["biased", "unbiased_paired", "unbiased_independent", "random_fourier"]
KernelFamily = Literal[
    "gaussian",
    "gaussian_mixture",
    "laplacian",
    "rational_quadratic",
    "inverse_multiquadric",
    "polynomial",
    "linear",
]
BandwidthRule = Literal["fixed", "reference_median", "pooled_median"]
TestMethod = Literal["permutation", "wild_bootstrap"]
Precision = Literal["fast", "high", "exact"]
Measure = Literal["cka", "frechet", "energy"]


def _within_bounds(message: type[Message], name: str) -> FieldInfo:
    """Returns the constraint of a number to the bounds that the proto states for it."""
    bounds = get_bounds(message.DESCRIPTOR.fields_by_name[name])
    constraint: FieldInfo = Field(ge=bounds.min, le=bounds.max)
    return constraint


class UploadedFeatures(ApiMessage):
    """A safetensors file in the deployment's bucket; each tensor of shape (rows, channels) is a layer by its name.

    Attributes:
        object: the file.
        groups: patient of each row; empty means that every row is a group of its own.
        case_ids: case of each row; empty where unknown.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.UploadedFeatures

    object: ObjectRef
    groups: tuple[str, ...] = ()
    case_ids: tuple[str, ...] = ()


class CreateUploadRequest(ApiMessage):
    """A safetensors file that is uploaded next."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.CreateUploadRequest

    file: FileContent


class CreateUploadResponse(ApiMessage):
    """Where the file is uploaded and until when, and what refers to it."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.CreateUploadResponse

    upload: FileUpload
    object: ObjectRef
    expire_time: datetime


class Kernel(ApiMessage):
    """Kernel and bandwidth.

    Attributes:
        bandwidth_rule: absent means `fixed_sigma` where it is set, else the reference's median.
        fixed_sigma: σ in units of the (standardised) features, 1e-100 to 1e100; 0 where the rule takes a median.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.Kernel

    family: KernelFamily = "gaussian"
    bandwidth_rule: BandwidthRule | None = None
    fixed_sigma: float = 0.0


class TestOptions(ApiMessage):
    """A hypothesis test.

    Attributes:
        permutations: 0 makes no test.
        seed: of the permutations and of everything else that is random.
        method: how the null distribution is generated.
        aggregated: whether to test over a grid of bandwidths as well.
    """

    __test__: ClassVar[bool] = False  # pytest would collect it by its name
    PROTO: ClassVar[type[Message]] = mmd_pb2.TestOptions

    permutations: Annotated[int, _within_bounds(mmd_pb2.TestOptions, "permutations")] = 0
    seed: int = Field(default=0, ge=0, le=2**64 - 1)
    method: TestMethod = "permutation"
    aggregated: bool = False


class ComputeOptions(ApiMessage):
    """What to compare and how: a `ComputeRequest` without its samples. The engine takes this record as it is.

    A field checks its own value; `mmd.comparison.options` checks what the fields say together.

    Attributes:
        pairing: `paired` where row i of x and y comes from the same case, else `independent`.
        estimator: absent means the unbiased one that fits the pairing.
        layers: empty means all that the samples have in common.
        primary_layer: its result comes first; empty means the first layer.
        interval_level: coverage of intervals, in (0, 1).
        projection: whether to return 2-D coordinates of the primary layer.
        precision: least precision; absent means the service's setting.
        frequencies: of the random Fourier estimator, at least 256; 0 means 1,024.
        measures: measures of shift beside MMD².
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeRequest
    OMITTED: ClassVar[frozenset[str]] = frozenset({"x", "y", "reference"})

    pairing: Pairing
    estimator: Estimator | None = None
    kernel: Kernel = Kernel()
    layers: tuple[str, ...] = ()
    primary_layer: str = ""
    test: TestOptions = TestOptions()
    interval_level: Annotated[float, _within_bounds(mmd_pb2.ComputeRequest, "interval_level")] = DEFAULT_LEVEL
    projection: bool = False
    precision: Precision | None = None
    frequencies: Annotated[int, _within_bounds(mmd_pb2.ComputeRequest, "frequencies")] = 0
    measures: tuple[Measure, ...] = ()


class MeasureResult(ApiMessage):
    """A measure beside MMD², and the dimension of the space it was computed in."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.MeasureResult

    measure: Measure
    value: Estimate
    dimension: int = 0


class ShiftResult(ApiMessage):
    """MMD² in one scaling of the features.

    Attributes:
        mmd2: unbiased estimates may be negative.
        sigma: bandwidth, in units of the (standardised) features.
        p_value: says only that a change is detectable.
        p_value_max_t: adjusted over layers.
        permutations: behind the p-value.
        enumerated: True where all swaps were enumerated.
        error_bound: absolute error of the estimate at the precision it was computed in.
        below_error_bound: True where |MMD²| is smaller than its error bound.
        aggregated_p_value: over a grid of bandwidths.
        approximation_error: half-width of the 99 % interval of an approximating estimator around the exact value.
        precision: what the rows were rounded to.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ShiftResult

    mmd2: Estimate
    sigma: float
    p_value: Estimate = Estimate()
    p_value_max_t: Estimate = Estimate()
    permutations: int = 0
    enumerated: bool = False
    error_bound: float = 0.0
    below_error_bound: bool = False
    aggregated_p_value: Estimate = Estimate()
    approximation_error: float = 0.0
    precision: str = ""


class TopChannels(ApiMessage):
    """The channels that move most between paired samples, ⌈d/100⌉ of d standardised ones.

    Attributes:
        count: ⌈d/100⌉; 0 where the share is absent.
        displacement_share: their share of the mean squared displacement over all d channels, in [0, 1].
        shift_without: MMD² of the standardised features without these channels, without an interval or test.
        caution: one sentence where they hold more than half of the displacement of at least 100 channels; else empty.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.TopChannels

    count: int = 0
    displacement_share: Estimate
    shift_without: ShiftResult
    caution: str = ""


class ExcludedMovement(ApiMessage):
    """Channels that do not vary in the reference, so that they are not standardised, and still move.

    Attributes:
        count: of these channels.
        displacement: its root mean square, in units of the median SD of the other channels in the reference.
        caution: two sentences where together they move by a tenth of that SD or more; else empty.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ExcludedMovement

    count: int = 0
    displacement: Estimate
    caution: str = ""


class LayerResult(ApiMessage):
    """Result of one layer.

    Attributes:
        channels: dimension of a feature.
        channels_excluded: left out of the standardised features, because they hardly vary in the reference.
        channels_at_floor: scaled by the smallest scale, because their SD in the reference is below it.
        raw: on the features as they are.
        standardised: on features scaled per channel by the reference; absent without one.
        measures: in the order of the request.
        top_channels: of the standardised features; absent without them.
        excluded_movement: of channels that the standardised features exclude; absent without them.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.LayerResult

    layer: str
    channels: int
    channels_excluded: int = 0
    raw: ShiftResult
    standardised: ShiftResult | None = None
    measures: tuple[MeasureResult, ...] = ()
    channels_at_floor: int = 0
    top_channels: TopChannels | None = None
    excluded_movement: ExcludedMovement | None = None


class ProjectionPoint(ApiMessage):
    """A row's two principal coordinates, unitless."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ProjectionPoint

    u: float
    v: float


class Projection(ApiMessage):
    """Principal-component projection of the primary layer: rows of x and y, and the variance of each axis."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.Projection

    x: tuple[ProjectionPoint, ...] = ()
    y: tuple[ProjectionPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()


class ComputeResponse(ApiMessage):
    """Result of a comparison.

    Attributes:
        layers: the primary layer first.
        estimator: the one that was used.
        groups: distinct groups over both samples.
        precision: lowest precision of any layer's values; sums are always float64.
        backend: what summed the kernel matrix: `torch` or `triton`.
        backend_note: why it was not the configured one; else empty.
        reference_caution: two sentences where the reference shares cases or groups with x or y; else empty.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeResponse

    layers: tuple[LayerResult, ...]
    primary_layer: str
    estimator: Estimator
    rows_x: int
    rows_y: int
    groups: int
    precision: str
    projection: Projection | None = None
    cost: Cost = Cost()
    backend: str = ""
    backend_note: str = ""
    reference_caution: str = ""

    def get_layer(self, name: str) -> LayerResult:
        """Returns the result of one layer."""
        return next(layer for layer in self.layers if layer.layer == name)

    def without_cost(self) -> Self:
        """Returns the part that is equal for equal inputs: everything but cost and backend."""
        return self.model_copy(update={"cost": Cost(), "backend": "", "backend_note": ""})


class PairError(ApiMessage):
    """A pair of a batch that failed: gRPC status code, reason, and the sentence with cause and remedy."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.PairError

    code: int
    reason: str
    message: str
