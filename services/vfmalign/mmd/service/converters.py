"""Between protobuf messages and the room's records. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.rpc.tensors import to_array
from vfmalign.mmd.comparison.options import Bandwidth, LayerComparison, Options, Shift
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.precision import LeastPrecision
from vfmalign.mmd.service.comparison_job import Outcome
from vfmalign.mmd.service.feature_reader import Source, Stored, Uploaded
from vfmalign.mmd.statistics.estimators import EstimatorName, Pairing, TestMethod
from vfmalign.mmd.statistics.projection import Projection
from vfmalign.mmd.statistics.similarity import MeasureValue
from vfmalign.mmd.statistics.uncertainty import Estimate
from vfmalign.v1 import common_pb2, mmd_pb2

INLINE_LAYER = "features"
MAX_LABEL = 128
DEFAULT_LEVEL = 0.95

_PAIRINGS: Mapping[int, Pairing] = {
    mmd_pb2.PAIRING_PAIRED: "paired",
    mmd_pb2.PAIRING_INDEPENDENT: "independent",
}
_ESTIMATORS: Mapping[int, EstimatorName | None] = {
    mmd_pb2.ESTIMATOR_UNSPECIFIED: None,
    mmd_pb2.ESTIMATOR_BIASED: "biased",
    mmd_pb2.ESTIMATOR_UNBIASED_PAIRED: "unbiased_paired",
    mmd_pb2.ESTIMATOR_UNBIASED_INDEPENDENT: "unbiased_independent",
    mmd_pb2.ESTIMATOR_LINEAR: "linear",
    mmd_pb2.ESTIMATOR_BLOCK: "block",
    mmd_pb2.ESTIMATOR_RANDOM_FOURIER: "random_fourier",
}
_ESTIMATOR_NUMBERS = {name: mmd_pb2.Estimator.Name(value) for value, name in _ESTIMATORS.items() if name is not None}
_KERNELS: Mapping[int, str] = {
    mmd_pb2.KERNEL_FAMILY_UNSPECIFIED: "gaussian",
    mmd_pb2.KERNEL_FAMILY_GAUSSIAN: "gaussian",
    mmd_pb2.KERNEL_FAMILY_GAUSSIAN_MIXTURE: "gaussian_mixture",
    mmd_pb2.KERNEL_FAMILY_LAPLACIAN: "laplacian",
    mmd_pb2.KERNEL_FAMILY_RATIONAL_QUADRATIC: "rational_quadratic",
    mmd_pb2.KERNEL_FAMILY_INVERSE_MULTIQUADRIC: "inverse_multiquadric",
    mmd_pb2.KERNEL_FAMILY_POLYNOMIAL: "polynomial",
    mmd_pb2.KERNEL_FAMILY_LINEAR: "linear",
}
_BANDWIDTHS: Mapping[int, Bandwidth | None] = {
    mmd_pb2.BANDWIDTH_RULE_UNSPECIFIED: None,
    mmd_pb2.BANDWIDTH_RULE_FIXED: "fixed",
    mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN: "reference_median",
    mmd_pb2.BANDWIDTH_RULE_POOLED_MEDIAN: "pooled_median",
}
_PRECISIONS: Mapping[int, LeastPrecision | None] = {
    mmd_pb2.PRECISION_UNSPECIFIED: None,
    mmd_pb2.PRECISION_FAST: "fast",
    mmd_pb2.PRECISION_HIGH: "high",
    mmd_pb2.PRECISION_EXACT: "exact",
}
_METHODS: Mapping[int, TestMethod] = {
    mmd_pb2.TEST_METHOD_UNSPECIFIED: "permutation",
    mmd_pb2.TEST_METHOD_PERMUTATION: "permutation",
    mmd_pb2.TEST_METHOD_WILD_BOOTSTRAP: "wild_bootstrap",
}
_MEASURES: Mapping[int, str] = {
    mmd_pb2.MEASURE_CKA: "cka",
    mmd_pb2.MEASURE_FRECHET: "frechet",
    mmd_pb2.MEASURE_ENERGY: "energy",
}
_MEASURE_NUMBERS = {name: mmd_pb2.Measure.Name(value) for value, name in _MEASURES.items()}
_NO_INTERVAL = "measures beside MMD² are values alone, without an interval"


def options_of(request: mmd_pb2.ComputeRequest) -> Options:
    """The request's options.

    Raises:
        BadOption: an enum value that is missing or unknown, or a bandwidth rule without what it needs.
    """
    if request.pairing not in _PAIRINGS:
        raise BadOption(
            "says not how x and y relate", field="pairing", remedy="set PAIRING_PAIRED or PAIRING_INDEPENDENT"
        )
    for value, known, field in (
        (request.estimator, _ESTIMATORS, "estimator"),
        (request.kernel.family, _KERNELS, "kernel.family"),
        (request.kernel.bandwidth_rule, _BANDWIDTHS, "kernel.bandwidth_rule"),
        (request.precision, _PRECISIONS, "precision"),
        (request.test.method, _METHODS, "test.method"),
        *((measure, _MEASURES, "measures") for measure in request.measures),
    ):
        if value not in known:
            raise BadOption(f"unknown value {value}", field=field, remedy="use a value of the enum")
    bandwidth = _bandwidth(request)
    return Options(
        pairing=_PAIRINGS[request.pairing],
        estimator=_ESTIMATORS[request.estimator],
        kernel=_KERNELS[request.kernel.family],
        fixed_sigma=float(request.kernel.fixed_sigma) if bandwidth == "fixed" else None,
        bandwidth=bandwidth,
        layers=tuple(request.layers),
        primary_layer=request.primary_layer,
        permutations=request.test.permutations if request.HasField("test") else 0,
        seed=request.test.seed,
        interval_level=request.interval_level or DEFAULT_LEVEL,
        projection=request.projection,
        precision=_PRECISIONS[request.precision],
        method=_METHODS[request.test.method],
        aggregated=request.test.aggregated,
        block_rows=request.block_rows,
        frequencies=request.frequencies,
        measures=tuple(dict.fromkeys(_MEASURES[measure] for measure in request.measures)),
    )


def _bandwidth(request: mmd_pb2.ComputeRequest) -> Bandwidth | None:
    """Where the bandwidth comes from; None where nothing says it."""
    rule, sigma_given = _BANDWIDTHS[request.kernel.bandwidth_rule], request.kernel.fixed_sigma != 0.0
    has_reference = request.HasField("reference")
    if rule is None:
        if has_reference and sigma_given:
            raise BadOption(
                "σ is given and a reference as well, so that the bandwidth could come from either",
                field="kernel.bandwidth_rule",
                remedy="set BANDWIDTH_RULE_FIXED or BANDWIDTH_RULE_REFERENCE_MEDIAN",
            )
        return "fixed" if sigma_given else "reference_median" if has_reference else None
    if rule != "fixed" and sigma_given:
        raise BadOption(
            "σ is given, but the rule takes a median",
            field="kernel.fixed_sigma",
            remedy="set BANDWIDTH_RULE_FIXED, or leave σ out",
        )
    return rule


def source_of(message: mmd_pb2.FeatureSource, field: str) -> Source:
    """A stored feature set's id, an uploaded object, or the features that were sent inline.

    Raises:
        BadOption: neither is set.
        BadTensor: a tensor or label that is wrong.
    """
    which = message.WhichOneof("source")
    if which == "feature_set_id":
        return Stored(field, message.feature_set_id)
    if which == "uploaded":
        ref = message.uploaded.object
        labels = _labels(message.uploaded, f"{field}.uploaded")
        return Uploaded(field, ref.uri, ref.sha256, *labels)
    if which != "inline":
        raise BadOption("holds no features", field=field, remedy="set feature_set_id, inline or uploaded")
    layers = {}
    for index, layer in enumerate(message.inline.layers):
        name = layer.layer or INLINE_LAYER
        if name in layers:
            raise BadTensor(f"layer `{name}` is sent twice", field=f"{field}.inline.layers[{index}].layer")
        layers[name] = to_array(layer.features, field=f"{field}.inline.layers[{index}].features")
    return Sample(field, layers, *_labels(message.inline, f"{field}.inline"))


def _labels(
    message: mmd_pb2.InlineFeatures | mmd_pb2.UploadedFeatures, field: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Groups and cases of the rows.

    Raises:
        BadTensor: a label that is empty or too long.
    """
    groups, case_ids = tuple(message.groups), tuple(message.case_ids)
    for labels, what in ((groups, "groups"), (case_ids, "case_ids")):
        for row, label in enumerate(labels):
            if not 0 < len(label) <= MAX_LABEL:
                raise BadTensor(
                    f"expected 1 to {MAX_LABEL} characters, got {len(label)}",
                    field=f"{field}.{what}[{row}]",
                    remedy="use short generated ids",
                )
    return groups, case_ids


def response_of(outcome: Outcome) -> mmd_pb2.ComputeResponse:
    """The message of a comparison."""
    result = outcome.comparison
    return mmd_pb2.ComputeResponse(
        layers=[_layer(one) for one in result.layers],
        primary_layer=result.primary_layer,
        estimator=_ESTIMATOR_NUMBERS[result.estimator],
        rows_x=result.rows_x,
        rows_y=result.rows_y,
        groups=result.groups,
        precision=result.precision,
        projection=_projection(result.projection) if result.projection else None,
        cost=common_pb2.Cost(
            stages=[common_pb2.StageTiming(stage=stage, seconds=s) for stage, s in outcome.stages.seconds().items()],
            device=outcome.device,
            peak_device_memory_bytes=outcome.peak_device_memory_bytes,
        ),
        backend=result.backend,
        backend_note=result.backend_note,
    )


def _layer(one: LayerComparison) -> mmd_pb2.LayerResult:
    return mmd_pb2.LayerResult(
        layer=one.layer,
        channels=one.channels,
        channels_excluded=one.channels_excluded,
        raw=_shift(one.raw),
        standardised=_shift(one.standardised) if one.standardised else None,
        measures=[_measure(name, value) for name, value in one.measures.items()],
    )


def _measure(name: str, one: MeasureValue) -> mmd_pb2.MeasureResult:
    value = common_pb2.Estimate(value=one.value, absent_reason=one.absent_reason or _NO_INTERVAL)
    return mmd_pb2.MeasureResult(measure=_MEASURE_NUMBERS[name], value=value, dimension=one.dimension)


def _shift(one: Shift) -> mmd_pb2.ShiftResult:
    return mmd_pb2.ShiftResult(
        mmd2=_estimate(one.mmd2),
        sigma=one.sigma,
        p_value=_estimate(one.p_value),
        p_value_max_t=_estimate(one.p_value_max_t),
        permutations=one.permutations,
        enumerated=one.enumerated,
        error_bound=one.error_bound,
        below_error_bound=one.below_error_bound,
        aggregated_p_value=_estimate(one.aggregated_p_value),
        approximation_error=one.approximation_error,
        precision=one.precision,
    )


def _estimate(one: Estimate) -> common_pb2.Estimate:
    interval = None
    if one.interval is not None:
        interval = common_pb2.Interval(
            lower=one.interval.lower,
            upper=one.interval.upper,
            level=one.interval.level,
            method=one.interval.method,
            degenerate=one.interval.degenerate,
        )
    return common_pb2.Estimate(value=one.value, interval=interval, absent_reason=one.absent_reason)


def _projection(one: Projection) -> mmd_pb2.Projection:
    x, y = ([mmd_pb2.ProjectionPoint(u=u, v=v) for u, v in part.tolist()] for part in (one.x_N2, one.y_M2))
    return mmd_pb2.Projection(x=x, y=y, explained_variance=one.explained_variance)
