"""Converts a `ComputeRequest` to options and samples.

Options are converted through the message's record (`client.messages.mmd`). Samples are converted without a record,
because tensors are too large for one.
"""

from __future__ import annotations

from vfmalign.client.messages.mmd import UNNAMED_LAYER, ComputeOptions
from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.rpc.tensors import to_array
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.service.feature_reader import Source, Stored, Uploaded
from vfmalign.v1 import mmd_pb2


def to_options(request: mmd_pb2.ComputeRequest) -> ComputeOptions:
    """Converts the options of a request. Ignores repeated measures.

    Raises:
        BadOption: a field is missing, unknown or out of range.
    """
    if request.pairing == mmd_pb2.PAIRING_UNSPECIFIED:
        raise BadOption(
            "this field is required",
            field="pairing",
            remedy="set PAIRING_PAIRED if row i of x and row i of y come from the same case, else PAIRING_INDEPENDENT",
        )
    options = ComputeOptions.from_proto(request)
    return options.model_copy(update={"measures": tuple(dict.fromkeys(options.measures))})


def to_source(message: mmd_pb2.FeatureSource, field: str) -> Source:
    """Converts a source: a stored feature set, an uploaded object or inline features.

    Raises:
        BadOption: the request does not set a source.
        BadTensor: a tensor or label is malformed.
    """
    which = message.WhichOneof("source")
    if which == "feature_set_id":
        return Stored(field, message.feature_set_id, message.manifest_sha256)
    if which == "uploaded":
        ref = message.uploaded.object
        _check_labels(message.uploaded, f"{field}.uploaded")
        labels = tuple(message.uploaded.groups), tuple(message.uploaded.case_ids)
        return Uploaded(field, ref.uri, ref.sha256, *labels, size_bytes=ref.size_bytes)
    if which != "inline":
        raise BadOption("has no features", field=field, remedy="set feature_set_id, inline or uploaded")
    layers = {}
    for index, layer in enumerate(message.inline.layers):
        name = layer.layer or UNNAMED_LAYER
        if name in layers:
            raise BadTensor(
                f"layer `{name}` occurs twice",
                field=f"{field}.inline.layers[{index}].layer",
                remedy="send each layer once",
            )
        layers[name] = to_array(layer.features, field=f"{field}.inline.layers[{index}].features")
    _check_labels(message.inline, f"{field}.inline")
    return Sample(field, layers, tuple(message.inline.groups), tuple(message.inline.case_ids), source="inline")


def _check_labels(message: mmd_pb2.InlineFeatures | mmd_pb2.UploadedFeatures, field: str) -> None:
    """Checks the group and case labels of the rows.

    Raises:
        BadTensor: a label is empty.
    """
    for name in ("groups", "case_ids"):
        labels = getattr(message, name)
        if "" in labels:
            row = next(row for row, label in enumerate(labels) if not label)
            raise BadTensor("is empty", field=f"{field}.{name}[{row}]", remedy="use short generated ids")
