"""Every record of the API against its protobuf message: the same fields, and equal after a round trip."""

import importlib
import json
import pkgutil
from datetime import UTC, datetime
from typing import get_args

import pytest
from annotated_types import Ge, Le, MaxLen
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

import vfmalign.client.messages
from vfmalign.client.messages.base import ApiMessage, enum_labels
from vfmalign.client.messages.checks import Check, CheckSpec, VerdictLabel
from vfmalign.client.messages.common import JOB_STATES, STATES, Estimate, FileUpload
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.features import PacsReference
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.messages.monitors import MonitorSpec
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import JobKind, Network
from vfmalign.core.domain.models import Objective
from vfmalign.core.formats.bounds import INTEGERS, get_bounds, is_secret
from vfmalign.core.formats.documents import to_json_dict
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, features_pb2, finetuning_pb2

for module in pkgutil.iter_modules(vfmalign.client.messages.__path__):
    importlib.import_module(f"vfmalign.client.messages.{module.name}")


def test_a_record_does_not_print_secrets():
    fields = {"sha256": "a" * 64, "url": "https://s3/key?X-Amz-Signature=1", "headers": {"x-secret": "2"}}
    message = common_pb2.FileUpload(**fields)
    secrets = {field.name for field in message.DESCRIPTOR.fields if is_secret(field)}
    assert secrets == {"url", "headers"}
    record = FileUpload.from_response(message)
    assert (record.url, record.headers) == (fields["url"], fields["headers"])
    for text in (repr(record), str(record), f"{[record]}"):
        assert "a" * 64 in text
        assert "Signature" not in text
        assert "x-secret" not in text


def test_an_error_does_not_quote_what_may_name_a_patient():
    with pytest.raises(ValidationError, match="study_uid") as caught:
        PacsReference(server="main", study_uid="1.2.840.4711 ")
    assert "4711" not in str(caught.value) + repr(caught.value)
    with pytest.raises(BadOption, match="study_uid: not a valid DICOM UID") as named:
        PacsReference.from_fields(server="main", study_uid="1.2.840.4711 ")
    assert "4711" not in str(named.value)


def list_records(record=ApiMessage):
    """Every record of a message."""
    for subclass in record.__subclasses__():
        if "PROTO" in vars(subclass):
            yield subclass
        yield from list_records(subclass)


RECORDS = sorted(list_records(), key=lambda record: record.__name__)
PERMUTATIONS = int(CheckSpec.get_bounds("permutations").max)

# Ids of a declaration differ from each other, unlike the generated values.
DECLARATION = common_pb2.DatasetDeclaration(
    name="a",
    modalities=["b", "c"],
    labels=[
        {"name": "d", "values": {1: "e", 255: "f"}, "may_be_empty": True, "weight": 0.1 + 0.2, "within": "i"},
        {"name": "i", "values": {1: "i"}, "weight": 1.0},
    ],
    classes=[{"name": "g", "label": "d", "at_least": 3}],
    defaults={
        "h": common_pb2.TaskParameters(
            labels=["d"], structures=["e", "f"], class_name="g", inputs=["b"], target="c", modalities=["b", "c"]
        )
    },
)
PREPROCESSING = features_pb2.Preprocessing(
    modalities=["b", "c"],
    spacing_mm=[0.1 + 0.2, 1.0, 2.0],
    shape_dhw=[8, 16, 32],
    normalisation="quantile_range",
    quantiles=[0.1 + 0.2, 0.9],
    reference="d",
)
VALID = {message.DESCRIPTOR.full_name: message for message in (DECLARATION, PREPROCESSING)}
"""Messages whose fields must fit together."""


def field_value(field):
    """A value of the field's type that is not its default."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        valid = VALID.get(field.message_type.full_name)
        return filled(field.message_type._concrete_class) if valid is None else valid
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number
    if field.full_name == "vfmalign.v1.Metric.of_set":  # a string in the message, a choice in the record
        return "auroc"
    if field.cpp_type in INTEGERS and (bounds := get_bounds(field)).HasField("max"):
        return min(200, int(bounds.max))
    return {
        FieldDescriptor.TYPE_STRING: "a" * 64
        if "sha256" in field.name or "digest" in field.name or field.containing_type.name == "PatientDigest"
        else "1"
        if "uid" in field.name
        else "a",
        FieldDescriptor.TYPE_BOOL: True,
        FieldDescriptor.TYPE_DOUBLE: 0.1 + 0.2,
        FieldDescriptor.TYPE_BYTES: b"\x00\xff",
    }.get(field.type, 200)


def filled(message_class) -> Message:
    """A message with every field set; of a oneof, its first field."""
    message = message_class()
    if isinstance(message, Timestamp):
        message.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC))
        return message
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1 and oneof.fields[0] is not field:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            is_text = field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING
            getattr(message, field.name)["t1w"] = "input" if is_text else 3
            continue
        value = field_value(field)
        if field.is_repeated:
            getattr(message, field.name).extend([value] * 3)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_has_exactly_the_fields_of_its_message(record):
    fields = {field.name for field in record.PROTO.DESCRIPTOR.fields}
    assert fields >= record.OMITTED
    assert set(record.model_fields) == fields - record.OMITTED


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_message_survives_a_round_trip(record):
    message = filled(record.PROTO)
    result = record.from_proto(message).to_proto()
    for name in record.OMITTED:
        assert name not in {field.name for field, _ in result.ListFields()}
        message.ClearField(name)
    assert result == message


@pytest.mark.parametrize("record", [r for r in RECORDS if not r.OMITTED], ids=lambda record: record.__name__)
def test_a_record_as_json_is_its_message_as_json(record):
    message = filled(record.PROTO)
    content = record.from_proto(message).to_json_dict()
    assert content == to_json_dict(message)
    assert record.from_json(json.dumps(content)) == record.from_proto(message)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_json_has_numbers_for_64_bit_integers_and_the_proto_s_enum_names_and_times():
    check = alignment_pb2.Check(
        check_id="c1",
        spec={"model_id": "m", "dataset_id": "d", "task": {"name": "t"}, "seed": 2**40},
        state=alignment_pb2.CHECK_STATE_QUEUED,
        create_time={"seconds": 1_700_000_000, "nanos": 120_000_000},
    )
    content = Check.from_proto(check).to_json_dict()
    assert content["spec"]["seed"] == 2**40
    assert content["state"] == "CHECK_STATE_QUEUED"
    assert content["create_time"] == "2023-11-14T22:13:20.120Z"
    assert {"end_time", "failure", "result"}.isdisjoint(content)


def test_absent_values_stay_absent_and_zero_stays_zero():
    assert not Estimate.from_proto(common_pb2.Estimate()).to_proto().HasField("value")
    assert Estimate(value=0.0).to_proto().HasField("value")
    assert Estimate.from_proto(common_pb2.Estimate(value=-0.0)).value == 0.0


@pytest.mark.parametrize(
    ("enum", "labels"),
    [
        (finetuning_pb2.JobState, JOB_STATES),
        (alignment_pb2.CheckState, STATES),
        (experiment_pb2.ExperimentState, STATES),
        (finetuning_pb2.JobKind, get_args(JobKind)),
        (finetuning_pb2.Network, get_args(Network)),
        (features_pb2.Objective, get_args(Objective)),
        (alignment_pb2.Verdict, get_args(VerdictLabel)),
    ],
)
def test_enum_labels_are_the_proto_s_without_prefix(enum, labels):
    assert enum_labels(enum.DESCRIPTOR) == labels


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("seed", 2**63, "choose a value of at most 9223372036854775807"),
        ("bootstrap_resamples", 99, "choose a value of at least 100"),
        ("permutations", PERMUTATIONS + 1, f"choose a value of at most {PERMUTATIONS}"),
        ("interval_level", -0.5, "choose a value above 0.0"),
        ("smallest_difference", -0.01, "choose a value of at least 0.0"),
        ("smallest_difference", 1.1e15, "choose a value of at most 1000000000000000.0"),
    ],
)
def test_a_number_out_of_range_comes_with_its_limit(field, value, remedy):
    with pytest.raises(BadOption, match=f"{field}: out of range") as caught:
        CheckSpec.from_fields(model_id="m", dataset_id="d", task="segmentation", **{field: value})
    assert caught.value.remedy == remedy


@pytest.mark.parametrize("field", ["run_length", "patient_window_days", "first_patients", "max_silence_hours"])
def test_a_number_that_is_not_set_has_no_range(field):
    spec = MonitorSpec.from_fields(reference={"feature_set_id": "a"})
    assert MonitorSpec.from_proto(spec.to_proto()) == spec
    assert getattr(MonitorSpec.from_json(json.dumps(spec.to_json_dict())), field) == 0
    with pytest.raises(BadOption, match=f"{field}: out of range"):
        MonitorSpec.from_fields(reference={"feature_set_id": "a"}, **{field: -1})


def test_fields_of_a_caller_are_named_where_they_are_wrong():
    fields = {"model_id": "m", "dataset_id": "d", "task": "segmentation"}
    assert CheckSpec.from_fields(**fields) == CheckSpec(**fields)
    for change, field in (({"seed": -1}, "seed"), ({"recipe": {"epochs": 0}}, "recipe.epochs"), ({"tusk": 1}, "tusk")):
        with pytest.raises(BadOption) as caught:
            CheckSpec.from_fields(**fields | change)
        assert caught.value.field == field


def test_a_wrong_field_is_named_by_its_path_in_the_request():
    with pytest.raises(BadOption) as caught:
        Estimate.from_proto(common_pb2.Progress(), "spec")
    assert caught.value.field.startswith("spec.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_smallest_difference_is_finite(value):
    check = alignment_pb2.CheckSpec(
        model_id="m", dataset_id="d", task={"name": "segmentation"}, smallest_difference=value
    )
    with pytest.raises(BadOption, match=r"spec.smallest_difference: not a finite number"):
        CheckSpec.from_proto(check, "spec")
    difference = experiment_pb2.SmallestDifference(metric="lesion_dice", value=value)
    experiment = experiment_pb2.ExperimentSpec(dataset_id="d", smallest_differences=[difference])
    with pytest.raises(BadOption, match=r"spec.smallest_differences\[0\].value: not a finite number"):
        ExperimentSpec.from_proto(experiment, "spec")


def test_ranges_of_records_lie_within_the_bounds_of_their_messages():
    """A record may be stricter, as where 0 stands for a default, but never accept what servers refuse."""
    compared = 0
    for record in RECORDS:
        for name, field in record.model_fields.items():
            bounds = get_bounds(record.PROTO.DESCRIPTOR.fields_by_name[name])
            for rule in field.metadata:
                for kind, limit, within in (
                    (Ge, bounds.min, lambda value, bound: value >= bound),
                    (Le, bounds.max, lambda value, bound: value <= bound),
                    (MaxLen, bounds.max_count, lambda value, bound: value <= bound),
                ):
                    if isinstance(rule, kind) and bounds.ByteSize():
                        value = getattr(rule, {Ge: "ge", Le: "le", MaxLen: "max_length"}[kind])
                        assert within(value, limit), f"{record.__name__}.{name}: {rule}, {bounds}"
                        compared += 1
    assert compared > 20


def test_a_specification_without_later_fields_keeps_the_digest_that_it_had_before_them():
    """With another digest, the request of a stored check or job would be refused as a different one."""
    check = CheckSpec(model_id="m", dataset_id="d", task="segmentation", seeds=1)
    job = JobSpec(kind="finetune", dataset_id="d", task="segmentation")
    assert [check.digest(), job.digest()] == [
        "01dbdedfe983a851a91128824753cc48db08764408d299f15ffe95f1c590bea4",
        "b140fea1a9ca1c217916cd1538aba43c38cea419b10c81fbf8f3ae2934a0ba16",
    ]
    for spec, later in (
        (check, {"random_seeds": 6}),
        (check, {"random_weights": True}),
        (check, {"train_cases": 8}),
        (job, {"initial_seed": 0}),
    ):
        changed = spec.model_copy(update=later)
        assert changed.digest() != spec.digest()
        assert type(spec).model_validate_json(changed.to_json()) == changed
