"""Every record of the API against its protobuf message: the same fields, and equal after a round trip."""

import importlib
import pkgutil
from datetime import UTC, datetime

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

import vfmalign.client.messages
from vfmalign.client.messages.base import ApiMessage, enum_labels
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import common_pb2, finetuning_pb2

for module in pkgutil.iter_modules(vfmalign.client.messages.__path__):
    importlib.import_module(f"vfmalign.client.messages.{module.name}")
RECORDS = sorted(ApiMessage.__subclasses__(), key=lambda record: record.__name__)


def field_value(field):
    """A value of the field's type that is not its default."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return filled(field.message_type._concrete_class)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number
    if field.full_name == "vfmalign.v1.Metric.of_set":  # a string in the message, a choice in the record
        return "auroc"
    return {
        FieldDescriptor.TYPE_STRING: "a" * 64 if "sha256" in field.name or "digest" in field.name else "a",
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
        assert not result.HasField(name)
        message.ClearField(name)
    assert result == message


def test_absent_values_stay_absent_and_zero_stays_zero():
    assert not Estimate.from_proto(common_pb2.Estimate()).to_proto().HasField("value")
    assert Estimate(value=0.0).to_proto().HasField("value")
    assert Estimate.from_proto(common_pb2.Estimate(value=-0.0)).value == 0.0


def test_enum_labels_are_the_proto_s_without_prefix():
    assert enum_labels(finetuning_pb2.Network.DESCRIPTOR) == ("pretrained", "scratch", "specialised")


def test_a_wrong_field_is_named_by_its_path_in_the_request():
    with pytest.raises(BadOption) as caught:
        Estimate.from_proto(common_pb2.Progress(), "spec")
    assert caught.value.field.startswith("spec.")
