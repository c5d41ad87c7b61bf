"""Records of `mmd.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import Cost, Estimate, FileContent, FileUpload, ObjectRef
from vfmalign.client.messages.methods import ComputeResponseMethods
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
"""How the two samples relate."""
Estimator = Literal["biased", "unbiased_paired", "unbiased_independent", "random_fourier"]
"""Estimator of MMD²."""
KernelFamily = Literal[
    "gaussian", "gaussian_mixture", "laplacian", "rational_quadratic", "inverse_multiquadric", "polynomial", "linear"
]
"""Kernel family."""
BandwidthRule = Literal["fixed", "reference_median", "pooled_median"]
"""Where the bandwidth comes from."""
TestMethod = Literal["permutation", "wild_bootstrap"]
"""How the null distribution of a test is generated."""
Precision = Literal["fast", "high", "exact"]
"""Minimum precision of kernel values and distances; sums are always float64. The response gives the precision used,
which may be higher.
"""
Measure = Literal["cka", "frechet", "energy"]
"""A measure of shift beside MMD², of the standardised features where there is a reference, else of the raw ones."""


class UploadedFeatures(ApiMessage):
    """Arrays that a client uploaded to the deployment's bucket (CreateUpload) because they are too large for a message.
    They are not a feature set, which records the model and the data of its rows.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.UploadedFeatures

    object: ObjectRef
    """A safetensors file of float16, float32 or float64 tensors of shape [rows, channels], all with the same number of
    rows; each is a layer by its name, in the order of names. It has at most 256 layers with printable names of at most
    128 characters. Its size counts against the service's memory for one comparison.
    """
    groups: tuple[str, ...] = ()
    """Group (patient) of each row, in row order; empty means that every row is a group of its own. At most 128
    characters each.
    """
    case_ids: tuple[str, ...] = ()
    """Case of each row, in row order; empty where unknown. Paired samples that both name cases must name the same ones.
    Several rows of one case, such as patches, must be in one group.
    """


class Kernel(ApiMessage):
    """Kernel and bandwidth."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.Kernel

    family: KernelFamily = "gaussian"
    """Family."""
    bandwidth_rule: BandwidthRule | None = None
    """Rule; unspecified means `fixed_sigma` where it is set, else the reference median where there is a reference. A
    request with neither is refused, as is a median rule with `fixed_sigma`. Kernels without a bandwidth ignore it.
    """
    fixed_sigma: float = Field(default=0.0, ge=0.0, le=1e100, allow_inf_nan=False)
    """σ in feature units (after scaling where features are standardised), 1e-100 to 1e100; 0 where the rule takes a
    median.
    """


class TestOptions(ApiMessage):
    """Hypothesis test."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.TestOptions

    permutations: int = Field(default=0, ge=0, le=100000)
    """Random permutations B; 0 disables the test. Paired samples swap within groups (all 2^n swaps up to 12 groups),
    independent ones are permuted by groups.
    """
    seed: int = Field(default=0, ge=0, le=18446744073709551615)
    """Seed of the permutations, of wild bootstrap signs, of random frequencies and of rows sampled for a pooled median.
    """
    method: TestMethod = "permutation"
    """How the null distribution is generated. A wild bootstrap needs permutations."""
    aggregated: bool = False
    """Whether to test over a grid of bandwidths as well, which avoids choosing one (`aggregated_p_value`). A request
    for it without permutations is refused.
    """


class ComputeOptions(ApiMessage):
    """What to compare and how, with the samples."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ComputeRequest
    OMITTED: ClassVar[frozenset[str]] = frozenset(("reference", "x", "y"))

    pairing: Pairing
    """How x and y relate; required. A pair of a batch that lacks it fails alone."""
    estimator: Estimator | None = None
    """Estimator; unspecified means unbiased, of the form that fits the pairing."""
    kernel: Kernel = Kernel()
    """Kernel."""
    layers: tuple[str, ...] = ()
    """Layers to compare; empty means all that both samples have."""
    primary_layer: str = ""
    """The layer declared in advance; its result comes first. Empty means the first layer."""
    test: TestOptions = TestOptions()
    """Test; one without permutations is none."""
    interval_level: Annotated[float, unset_means(0.95)] = Field(default=0.95, gt=0.0, lt=1.0, allow_inf_nan=False)
    """Coverage of intervals."""
    projection: bool = False
    """Whether to return 2-D projection coordinates of the primary layer."""
    precision: Precision | None = None
    """Minimum precision; unspecified means the service's setting."""
    frequencies: int = Field(default=0, ge=0, le=1048576)
    """Random frequencies of ESTIMATOR_RANDOM_FOURIER, 256 to 1,048,576; 0 means 1,024. Refused with another estimator.
    """
    measures: tuple[Measure, ...] = ()
    """Measures of shift beside MMD²; empty means none. They accept at most 8,192 rows per sample, and features that fit
    into memory.
    """
    first_groups: int = Field(default=0, ge=0, le=100000)
    """Whether a new site looks like a reference of independent groups: of y, compare the first row of each of its first
    so many groups; of x, the first row of each group, where every third group fixes scale and bandwidth and the others
    are compared, so that the test is exact for independent groups, which those of a few sessions of different scanners
    are not. 0, the default, compares all rows. `reference` is then left out, and the features fit into memory.
    """


class MeasureResult(ApiMessage):
    """Value of a measure beside MMD²."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.MeasureResult

    measure: Measure
    """The measure."""
    value: Estimate
    """Its value, without an interval; absent with the reason."""
    dimension: int = 0
    """Dimension of the space it was computed in: the channels used or, for MEASURE_FRECHET, the principal axes; 0 where
    the value is absent.
    """


class ShiftResult(ApiMessage):
    """MMD² in one scaling of the features."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ShiftResult

    mmd2: Estimate
    """The estimate of MMD², with its interval. Unbiased estimates may be negative."""
    sigma: float
    """Bandwidth σ that was used, in units of the (scaled) features."""
    p_value: Estimate = Estimate()
    """p-value of the test; absent with the reason. It says only that a change is detectable."""
    p_value_max_t: Estimate = Estimate()
    """p adjusted over layers by max-T; absent with the reason."""
    permutations: int = 0
    """Permutations behind the p-value, including the observed one where all were enumerated."""
    enumerated: bool = False
    """True where all swaps were enumerated."""
    error_bound: float = 0.0
    """Absolute error bound of the estimate at the precision it was computed in."""
    below_error_bound: bool = False
    """True where |MMD²| is below its rounding error (`error_bound`)."""
    aggregated_p_value: Estimate = Estimate()
    """p-value of the test aggregated over a grid of bandwidths; absent with the reason, also where it was not
    requested.
    """
    approximation_error: float = 0.0
    """Half-width of the 99 % interval of an approximating estimator around the exact value, over its random
    frequencies, in units of MMD²; 0 where the estimator is exact. Rounding (`error_bound`) adds to it.
    """
    precision: str = ""
    """Precision of the rows behind this value: `bfloat16`, `float32` or `float64`."""


class TopChannels(ApiMessage):
    """The channels of paired samples that move most, and MMD² without them. A kernel of distances adds up the channels,
    so that a few that move far can determine MMD² alone.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.TopChannels

    count: int = 0
    """Number of these channels: ⌈d/100⌉ of the d = `channels` − `channels_excluded` standardised ones, those with the
    largest mean squared displacement. 0 where `displacement_share` is absent, else 1 to d.
    """
    displacement_share: Estimate
    """Their share of the mean over the pairs of ‖y_i − x_i‖² of the standardised features, unitless, in [0, 1], without
    an interval. Absent with the reason where the samples are not paired, where the estimator is
    ESTIMATOR_RANDOM_FOURIER, where the reference has one row, and where no channel moves.
    """
    shift_without: ShiftResult
    """MMD² of the standardised features without these channels, without an interval or test. σ follows the rule of the
    request on the remaining channels; a fixed σ stays as it is. Absent with the reason where the share is, where no
    channel remains, and where the remaining channels give no bandwidth.
    """
    caution: str = ""
    """Caution for the reader where the share exceeds 1/2 and d is at least 100, in one or two sentences; else empty."""


class ExcludedMovement(ApiMessage):
    """Channels that the standardised features exclude because they do not vary in the reference, and that move all the
    same, such as a dead channel that comes alive. MMD² of the standardised features does not include their movement.
    """

    PROTO: ClassVar[type[Message]] = mmd_pb2.ExcludedMovement

    count: int = 0
    """Number of excluded channels that move between x and y by at least 1e-6 of the median SD of the other channels; 0
    to `channels_excluded`.
    """
    displacement: Estimate
    """Root mean square of their displacement, in units of the median SD of the other channels in the reference, at
    least 1e-6, without an interval. Over the pairs and these channels, y_i − x_i where the samples are paired; over
    these channels, the distance of mean and SD of x from those of y, √((x̄ − ȳ)² + (s_x − s_y)²), where they are
    independent. Absent with the reason where none moves, where the reference has one row, and where it is beyond the
    range of a double.
    """
    caution: str = ""
    """Caution for the reader where together they move by 0.1 median SDs or more, √`count` · `displacement` ≥ 0.1, in
    two sentences; else empty.
    """


class LayerResult(ApiMessage):
    """Result of one layer."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.LayerResult

    layer: str
    """Layer name."""
    channels: int
    """Dimension of a feature."""
    channels_excluded: int = 0
    """Channels excluded from the standardised features: those that are constant in the reference, or whose SD there is
    under 1e-6 of the median SD of those that are not.
    """
    raw: ShiftResult
    """On the unscaled features."""
    standardised: ShiftResult | None = None
    """On features centred and scaled per channel by the reference; absent without a reference. A channel's scale is its
    SD in the reference, but at least 0.1 of the median SD of the channels that are not excluded.
    """
    measures: tuple[MeasureResult, ...] = ()
    """Measures beside MMD², in the requested order."""
    channels_at_floor: int = 0
    """Channels whose scale is 0.1 of the median SD because their own SD is smaller; 0 to `channels`, 0 without a
    reference.
    """
    top_channels: TopChannels | None = None
    """Channels that move most; absent without a reference."""
    excluded_movement: ExcludedMovement | None = None
    """Excluded channels that move; absent without a reference."""


class ProjectionPoint(ApiMessage):
    """A row's place in a 2-D projection for a picture."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.ProjectionPoint

    u: float
    """First principal coordinate, unitless."""
    v: float
    """Second principal coordinate, unitless."""


class Projection(ApiMessage):
    """Principal-component projection of the primary layer, axes fitted on the reference (or x)."""

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
    """Projection, where requested."""
    cost: Cost = Cost()
    """What it cost."""
    backend: str = ""
    """Backend that summed the kernel matrix: `torch` or `triton`."""
    backend_note: str = ""
    """Reason, in one sentence, why a backend other than the configured one was used; empty otherwise."""
    reference_caution: str = ""
    """Caution for the reader, in two sentences, where the reference names cases or groups that x or y name too; else
    empty.
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
    """A safetensors file, as UploadedFeatures describes it; no larger than what the service may use for one comparison.
    """


class CreateUploadResponse(ApiMessage):
    """Response of CreateUpload."""

    PROTO: ClassVar[type[Message]] = mmd_pb2.CreateUploadResponse

    upload: FileUpload
    """Where the file is uploaded."""
    object: ObjectRef
    """What UploadedFeatures refers to once the file is uploaded."""
    expire_time: Time
    """When the URL expires. An upload that has begun goes on."""
