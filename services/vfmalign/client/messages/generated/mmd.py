"""Records of `mmd.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import Cost, Estimate, FileContent, FileUpload, ObjectRef
from vfmalign.client.messages.methods import (
    ComputeOptionsMethods,
    ComputeResponseMethods,
    KernelMethods,
    TestOptionsMethods,
)
from vfmalign.v1 import mmd_pb2

__all__ = [
    "UploadedFeatures",
    "Kernel",
    "TestOptions",
    "ComputeOptions",
    "MeasureResult",
    "ShiftResult",
    "TopChannels",
    "ExcludedMovement",
    "LayerResult",
    "ProjectionPoint",
    "Projection",
    "ComputeResponse",
    "PairError",
    "CreateUploadRequest",
    "CreateUploadResponse",
    "Pairing",
    "Estimator",
    "KernelFamily",
    "BandwidthRule",
    "TestMethod",
    "Precision",
    "Measure",
]
Pairing = Literal["paired", "independent"]
"""Relation of the two samples."""
Estimator = Literal["biased", "unbiased_paired", "unbiased_independent", "random_fourier"]
"""Estimator of MMD²."""
KernelFamily = Literal[
    "gaussian", "gaussian_mixture", "laplacian", "rational_quadratic", "inverse_multiquadric", "polynomial", "linear"
]
"""Kernel family."""
BandwidthRule = Literal["fixed", "reference_median", "pooled_median"]
"""Source of the bandwidth."""
TestMethod = Literal["permutation", "wild_bootstrap"]
"""Method to generate the null distribution of a test."""
Precision = Literal["fast", "high", "exact"]
"""Minimum precision of kernel values and distances. Sums are always in float64. The response states the precision that
was used, which may be higher.
"""
Measure = Literal["cka", "frechet", "energy"]
"""A measure of shift other than MMD². The measure uses the standardised features if there is a reference, else the raw
features.
"""


class UploadedFeatures(ApiMessage):
    """Arrays that are too large for a message and that a client uploaded to the deployment's bucket (CreateUpload).
    Unlike a feature set, the arrays do not state from which model and data they come.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.UploadedFeatures

    object: ObjectRef
    """A safetensors file of float16, float32 or float64 tensors of shape [rows, channels], all with the same number of
    rows. Each tensor is a layer of the same name; layers are sorted by name. There are at most 256 layers, with
    printable names of at most 128 characters. The file's size counts against the service's memory for one comparison.
    """
    groups: tuple[str, ...] = ()
    """Group (patient) of each row, in row order; empty means that every row is its own group. At most 128 characters
    each.
    """
    case_ids: tuple[str, ...] = ()
    """Case of each row, in row order; empty if unknown. If both paired samples name cases, the cases must be the same.
    Several rows of one case, such as patches, must be in one group.
    """


class Kernel(KernelMethods):
    """Kernel and bandwidth."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.Kernel

    family: KernelFamily = "gaussian"
    """Family."""
    bandwidth_rule: BandwidthRule | None = None
    """Rule; unspecified means `fixed_sigma` if it is set, else the median of the reference. A request with neither is
    rejected, as is a median rule with `fixed_sigma`. Kernels without a bandwidth ignore the rule.
    """
    fixed_sigma: float = Field(default=0.0, ge=0.0, le=1e100, allow_inf_nan=False)
    """σ in feature units (for standardised features, after scaling), 1e-100 to 1e100; 0 if the rule uses a median."""


class TestOptions(TestOptionsMethods):
    """Hypothesis test."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.TestOptions

    permutations: int = Field(default=0, ge=0, le=100000)
    """Number of random permutations B; 0 disables the test. Paired samples are swapped within groups (all 2^n swaps up
    to 12 groups), independent samples are permuted by groups.
    """
    seed: int = Field(default=0, ge=0, le=18446744073709551615)
    """Seed of the permutations, the signs of the wild bootstrap, the random frequencies, and the rows sampled for a
    pooled median.
    """
    method: TestMethod = "permutation"
    """Method to generate the null distribution. A wild bootstrap needs permutations."""
    aggregated: bool = False
    """Whether to test over a grid of bandwidths as well, so that no bandwidth has to be chosen (`aggregated_p_value`).
    Rejected without permutations.
    """


class ComputeOptions(ComputeOptionsMethods):
    """The samples to compare, and the options of the comparison."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeRequest
    OMITTED: ClassVar[frozenset[str]] = frozenset(("reference", "x", "y"))

    pairing: Pairing
    """Relation of x and y; required. In a batch, only the pair without it fails."""
    estimator: Estimator | None = None
    """Estimator; unspecified means unbiased, of the form that fits the pairing."""
    kernel: Kernel = Kernel()
    """Kernel."""
    layers: tuple[str, ...] = ()
    """Layers to compare; empty means all common layers."""
    primary_layer: str = ""
    """The layer declared in advance; its result comes first. Empty means the first layer."""
    test: TestOptions = TestOptions()
    """Test; without permutations, there is no test."""
    interval_level: Annotated[float, unset_means(0.95)] = Field(default=0.95, gt=0.0, lt=1.0, allow_inf_nan=False)
    """Coverage of intervals."""
    projection: bool = False
    """Whether to return 2-D projection coordinates of the primary layer."""
    precision: Precision | None = None
    """Minimum precision; unspecified means the service's setting."""
    frequencies: int = Field(default=0, ge=0, le=1048576)
    """Number of random frequencies of ESTIMATOR_RANDOM_FOURIER, 256 to 1,048,576; 0 means 1,024. Rejected with other
    estimators.
    """
    measures: tuple[Measure, ...] = ()
    """Measures of shift other than MMD²; empty means none. They support at most 8,192 rows per sample, and features
    that fit into memory.
    """
    first_groups: int = Field(default=0, ge=0, le=100000)
    """Compare a new site with a reference of independent groups. From y, use the first row of each of its first
    `first_groups` groups. From x, use the first row of each group: every third group determines scale and bandwidth,
    the others are compared. The test is then exact for independent groups; the groups of a few sessions on different
    scanners are not independent. `reference` must be left out, and the features must fit into memory. 0, the default,
    compares all rows.
    """


class MeasureResult(ApiMessage):
    """Value of a measure other than MMD²."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.MeasureResult

    measure: Measure
    """The measure."""
    value: Estimate
    """Its value, without an interval; absent with the reason."""
    dimension: int = 0
    """Dimension of the space it was computed in: the number of channels or, for MEASURE_FRECHET, of principal axes; 0
    if the value is absent.
    """


class ShiftResult(ApiMessage):
    """MMD² of the raw or of the standardised features."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ShiftResult

    mmd2: Estimate
    """The estimate of MMD², with its interval. Unbiased estimates may be negative."""
    sigma: float
    """Bandwidth σ that was used, in units of the (scaled) features."""
    p_value: Estimate = Estimate()
    """p-value of the test; absent with the reason. It only shows whether a change is detectable."""
    p_value_max_t: Estimate = Estimate()
    """p-value adjusted over layers by max-T; absent with the reason."""
    permutations: int = 0
    """Number of permutations for the p-value; if all were enumerated, it includes the observed one."""
    enumerated: bool = False
    """True if all swaps were enumerated."""
    error_bound: float = 0.0
    """Absolute error bound of the estimate at the precision of the computation."""
    below_error_bound: bool = False
    """True if |MMD²| is below its rounding error (`error_bound`)."""
    aggregated_p_value: Estimate = Estimate()
    """p-value of the test aggregated over a grid of bandwidths; absent with the reason, also if it was not requested.
    """
    approximation_error: float = 0.0
    """Half-width of the 99 % interval of an approximating estimator around the exact value, over its random
    frequencies, in units of MMD²; 0 if the estimator is exact. Rounding (`error_bound`) adds to it.
    """
    precision: str = ""
    """Precision of the rows for this value: `bfloat16`, `float32` or `float64`."""


class TopChannels(ApiMessage):
    """The channels that move most between paired samples, and MMD² without these channels. A kernel of distances adds
    up all channels, so a few channels that move far can dominate MMD².
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.TopChannels

    count: int = 0
    """Number of these channels: the ⌈d/100⌉ channels with the largest mean squared displacement, of the d = `channels`
    − `channels_excluded` standardised channels. 0 if `displacement_share` is absent, else 1 to d.
    """
    displacement_share: Estimate
    """Their share of the mean over the pairs of ‖y_i − x_i‖² of the standardised features, unitless, in [0, 1], without
    an interval. Absent with the reason if the samples are not paired, the estimator is ESTIMATOR_RANDOM_FOURIER, the
    reference has one row, or no channel moves.
    """
    shift_without: ShiftResult
    """MMD² of the standardised features without these channels, without an interval or test. The rule of the request
    computes σ from the remaining channels; a fixed σ does not change. Absent with the reason if the share is absent, no
    channel remains, or the remaining channels give no bandwidth.
    """
    caution: str = ""
    """Caution for the reader if the share exceeds 1/2 and d is at least 100, in one or two sentences; else empty."""


class ExcludedMovement(ApiMessage):
    """Channels that move although they do not vary in the reference, such as a dead channel that becomes active. The
    standardised features exclude such channels, so MMD² of the standardised features does not include their movement.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ExcludedMovement

    count: int = 0
    """Number of excluded channels that move between x and y by at least 1e-6 of the median SD of the other channels; 0
    to `channels_excluded`.
    """
    displacement: Estimate
    """Root mean square of their displacement, in units of the median SD of the other channels in the reference, at
    least 1e-6, without an interval. For paired samples: root mean square of y_i − x_i over the pairs and these
    channels. For independent samples: root mean square over these channels of the distance of mean and SD, √((x̄ − ȳ)²
    + (s_x − s_y)²). Absent with the reason if no channel moves, the reference has one row, or the value is beyond the
    range of a double.
    """
    caution: str = ""
    """Caution for the reader if together they move by 0.1 median SDs or more, √`count` · `displacement` ≥ 0.1, in two
    sentences; else empty.
    """


class LayerResult(ApiMessage):
    """Result of one layer."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.LayerResult

    layer: str
    """Layer name."""
    channels: int
    """Dimension of a feature."""
    channels_excluded: int = 0
    """Number of channels excluded from the standardised features: they are constant in the reference, or have an SD
    there below 1e-6 of the median SD of the other channels.
    """
    raw: ShiftResult
    """On the unscaled features."""
    standardised: ShiftResult | None = None
    """On features centred and scaled per channel by the reference; absent without a reference. A channel's scale is its
    SD in the reference, but at least 0.1 of the median SD of the channels that are not excluded.
    """
    measures: tuple[MeasureResult, ...] = ()
    """Measures other than MMD², in the requested order."""
    channels_at_floor: int = 0
    """Number of channels scaled by 0.1 of the median SD because their own SD is smaller; 0 to `channels`, 0 without a
    reference.
    """
    top_channels: TopChannels | None = None
    """Channels that move most; absent without a reference."""
    excluded_movement: ExcludedMovement | None = None
    """Excluded channels that move; absent without a reference."""


class ProjectionPoint(ApiMessage):
    """Position of a row in a 2-D projection, for figures."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ProjectionPoint

    u: float
    """First principal coordinate, unitless."""
    v: float
    """Second principal coordinate, unitless."""


class Projection(ApiMessage):
    """Principal-component projection of the primary layer. The axes are fitted on the reference or, without a
    reference, on x.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.Projection

    x: tuple[ProjectionPoint, ...] = ()
    """Rows of x, in row order."""
    y: tuple[ProjectionPoint, ...] = ()
    """Rows of y, in row order."""
    explained_variance: tuple[float, ...] = ()
    """Share of the fitted sample's variance on the two axes, in [0, 1]."""


class ComputeResponse(ComputeResponseMethods):
    """Response of Compute."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeResponse

    layers: tuple[LayerResult, ...]
    """One result per layer, the primary layer first."""
    primary_layer: str
    """Name of the primary layer."""
    estimator: Estimator
    """Estimator that was used."""
    rows_x: int
    """Rows of x."""
    rows_y: int
    """Rows of y."""
    groups: int
    """Distinct groups over both samples."""
    precision: str
    """Lowest precision of any layer's values: `bfloat16`, `float32` or `float64`; sums are always float64."""
    projection: Projection | None = None
    """Projection, if requested."""
    cost: Cost = Cost()
    """Cost of the call."""
    backend: str = ""
    """Backend that summed the kernel matrix: `torch` or `triton`."""
    backend_note: str = ""
    """Reason, in one sentence, for using a backend other than the configured one; empty otherwise."""
    reference_caution: str = ""
    """Caution for the reader, in two sentences, if the reference shares named cases or groups with x or y; else empty.
    """


class PairError(ApiMessage):
    """A pair that failed."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.PairError

    code: int
    """gRPC status code."""
    reason: str
    """`ErrorInfo.reason`."""
    message: str
    """Cause and remedy."""


class CreateUploadRequest(ApiMessage):
    """Request of CreateUpload."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.CreateUploadRequest

    file: FileContent
    """A safetensors file as described in `UploadedFeatures`, at most as large as the service's memory limit for one
    comparison.
    """


class CreateUploadResponse(ApiMessage):
    """Response of CreateUpload."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.CreateUploadResponse

    upload: FileUpload
    """Destination of the upload."""
    object: ObjectRef
    """Reference to the uploaded file, for `UploadedFeatures`."""
    expire_time: Time
    """When the URL expires. An upload that has begun continues."""
