"""Every field of every request has a bound, and a request beyond it is refused by the name of the field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from vfmalign.core.domain.errors import BadOption, InvalidInput
from vfmalign.core.formats.bounds import INTEGERS, REALS, get_bounds
from vfmalign.core.rpc.limits.bounds import check_request, is_map, parse_request
from vfmalign.v1 import (
    alignment_pb2,
    bounds_pb2,
    experiment_pb2,
    features_pb2,
    finetuning_pb2,
    imports_pb2,
    mmd_pb2,
    monitoring_pb2,
)

MODULES = (features_pb2, imports_pb2, mmd_pb2, finetuning_pb2, alignment_pb2, experiment_pb2, monitoring_pb2)
REQUESTS = sorted(
    {
        method.input_type
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    },
    key=lambda descriptor: descriptor.name,
)
Path = tuple[FieldDescriptor, ...]


def list_fields(descriptor: Descriptor, above: Path = ()) -> Iterator[Path]:
    """Every field of a message and of the messages in it, as the path to it."""
    for field in descriptor.fields:
        yield (*above, field)
        if field.message_type not in {None, Timestamp.DESCRIPTOR} and not is_map(field):
            yield from list_fields(field.message_type, (*above, field))


def show(path: Path) -> str:
    """The path as errors name it, with the first entry of every list."""
    parts = [f"{field.name}[0]" if field.is_repeated and not is_map(field) else field.name for field in path]
    return ".".join(parts)


def needs_length(field: FieldDescriptor) -> bool:
    if is_map(field):
        entry = field.message_type.fields_by_name
        return any(entry[name].cpp_type == FieldDescriptor.CPPTYPE_STRING for name in ("key", "value"))
    return bool(field.cpp_type == FieldDescriptor.CPPTYPE_STRING)


def test_there_are_requests() -> None:
    assert len(REQUESTS) == 56
    assert sum(1 for request in REQUESTS for _ in list_fields(request)) > 200


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda descriptor: descriptor.name)
def test_every_field_states_its_bound(request_type: Descriptor) -> None:
    unbounded = []
    for path in list_fields(request_type):
        field, bounds = path[-1], get_bounds(path[-1])
        needed = {
            "max_count": field.is_repeated,
            "max_length": needs_length(field),
            "min": field.cpp_type in INTEGERS | REALS,
            "max": field.cpp_type in INTEGERS | REALS,
        }
        unbounded += [
            f"{show(path)}: {name}" for name, is_needed in needed.items() if is_needed != bounds.HasField(name)
        ]
    assert unbounded == [], "state them in the proto, as `[(bounds) = {…}]`"


def list_excesses(field: FieldDescriptor) -> Iterator[Any]:
    """Values beyond a field's bound; of a list the whole value."""
    bounds = get_bounds(field)
    if field.message_type is Timestamp.DESCRIPTOR:
        seconds = (2**62, -(2**62), 253_402_300_800, -62_135_596_801)
        yield from (*(Timestamp(seconds=one) for one in seconds), Timestamp(nanos=-1), Timestamp(nanos=10**9))
        return
    if is_map(field):
        keys = [f"k{index}" for index in range(bounds.max_count + 1)]
        long = "k" * (bounds.max_length + 1)
        yield from (dict.fromkeys(keys, "v"), {long: "v"}, {"k": long}, {"k\0": "v"}, {"k": "\0"})
        return
    entries: list[Any] = [0] if bounds.above_min and field.has_presence else []
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = field.type == FieldDescriptor.TYPE_STRING
        entries = ["x" * (bounds.max_length + 1), "a\0b", "a\nb"] if text else [bytes(bounds.max_length + 1)]
        entries += _OTHER_FORMS.get(bounds.format, [])
    elif field.cpp_type in INTEGERS:
        lowest, highest = int(bounds.min), int(bounds.max)
        bits = 64 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64} else 32
        signed = field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
        limit = 2 ** (bits - 1) if signed else 2**bits
        entries = [value for value in (lowest - 1, highest + 1) if (-limit if signed else 0) <= value < limit]
        entries = [value for value in entries if value or field.has_presence or field.is_repeated]  # 0 is not set
    elif field.cpp_type in REALS:
        entries += [float("nan"), float("inf"), bounds.min - 1, bounds.max * 1.01 + 1, *[bounds.max] * bounds.below_max]
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        entries = [77, -1]
    if not field.is_repeated:
        yield from entries
        return
    yield from ([entry] for entry in entries)
    yield [_least(field)] * (bounds.max_count + 1)


_OTHER_FORMS = {
    bounds_pb2.FORMAT_ID: ["UPPER", "a/b", "..", "-a", "a\n", "SURNAME^GIVEN"],
    bounds_pb2.FORMAT_SHA256: ["a", "A" * 64, "a" * 63],
    bounds_pb2.FORMAT_VOLUME_KIND: ["T1w", "1a", "a-b", "SURNAME^GIVEN"],
    bounds_pb2.FORMAT_UID: ["x", ".1", "1.", "1..2", "1.2\n", "SURNAME^GIVEN"],
}


def _least(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return GetMessageClass(field.message_type)()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "x" if field.type == FieldDescriptor.TYPE_STRING else b"x"
    return 1


def build(descriptor: Descriptor, path: Path, value: Any) -> Any:
    """A request in which the last field of a path has a value, and everything else is empty."""
    message = GetMessageClass(descriptor)()
    target: Any = message
    for field in path[:-1]:
        target = getattr(target, field.name).add() if field.is_repeated else getattr(target, field.name)
    field = path[-1]
    if is_map(field):
        getattr(target, field.name).update(value)
    elif field.is_repeated:
        getattr(target, field.name).extend(value)
    elif field.message_type is not None:
        getattr(target, field.name).CopyFrom(value)
    else:
        setattr(target, field.name, value)
    return message


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda descriptor: descriptor.name)
def test_what_is_beyond_a_bound_is_refused_by_name(request_type: Descriptor) -> None:
    for path in list_fields(request_type):
        for value in list_excesses(path[-1]):
            message = build(request_type, path, value)
            with pytest.raises(BadOption) as caught:
                parse_request(type(message).FromString, message.SerializeToString())
            assert caught.value.field in {show(path), show(path).removesuffix("[0]")}
            assert caught.value.remedy
            assert "SURNAME" not in str(caught.value)


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda descriptor: descriptor.name)
def test_a_required_field_that_is_missing_is_refused_by_name(request_type: Descriptor) -> None:
    for path in list_fields(request_type):
        if not get_bounds(path[-1]).required:
            continue
        message = GetMessageClass(request_type)()
        target: Any = message
        for field in path[:-1]:
            target = getattr(target, field.name)
            target = target.add() if field.is_repeated else target
            if not field.is_repeated:
                target.SetInParent()
        with pytest.raises(BadOption) as caught:
            parse_request(type(message).FromString, message.SerializeToString())
        # The message may lack several; the error names one that is as deep.
        above, _, _ = show(path).rpartition(".")
        assert caught.value.field.rpartition(".")[0] == above
        assert caught.value.remedy


def test_a_missing_choice_names_the_choices() -> None:
    request = finetuning_pb2.CreateJobRequest(job_id="a", spec={"dataset_id": "d"})
    with pytest.raises(BadOption) as caught:
        check_request(request)
    assert (caught.value.field, caught.value.message) == ("spec.kind", "this field is required")
    assert caught.value.remedy == "choose one of JOB_KIND_PRETRAIN, JOB_KIND_FINETUNE"


def test_a_required_number_is_in_its_range_where_it_is_not_set() -> None:
    with pytest.raises(BadOption, match=r"weights.size_bytes: out of range; choose a value from 1 to 5,368,709,120"):
        check_request(imports_pb2.CreateModelUploadsRequest(import_id="a", weights={"sha256": "a" * 64}))


def test_what_a_field_means_where_it_is_not_set_is_a_value_of_the_field() -> None:
    fields = {path[-1] for request in REQUESTS for path in list_fields(request)}
    stated = {field: bounds.unset_means for field in fields if (bounds := get_bounds(field)).unset_means}
    assert stated
    for field, text in stated.items():
        if field.enum_type is not None:
            assert text in field.enum_type.values_by_name
        else:
            values = text.split(", ") if field.is_repeated else [text]
            assert all(get_bounds(field).min <= float(value) <= get_bounds(field).max for value in values)


def test_bytes_that_are_no_message_are_invalid() -> None:
    for data in (b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x0b" * 5000):
        with pytest.raises(InvalidInput) as caught:
            parse_request(finetuning_pb2.GetJobRequest.FromString, data)
        assert caught.value.reason == "MALFORMED_MESSAGE"


def test_what_is_not_set_is_not_checked_unless_it_is_required() -> None:
    empty = [request for request in REQUESTS if not any(get_bounds(field).required for field in request.fields)]
    assert len(empty) > 5
    for request in empty:
        parse_request(GetMessageClass(request).FromString, b"")


def test_a_negative_zero_is_not_set() -> None:
    check_request(mmd_pb2.ComputeRequest(interval_level=-0.0))


def test_the_remedy_of_a_malformed_id_names_no_other_limit_than_that_of_the_field() -> None:
    with pytest.raises(BadOption, match="check_id: not a valid id") as caught:
        check_request(alignment_pb2.CreateCheckRequest(check_id="A"))
    assert not re.search(r"\d", caught.value.remedy)
    with pytest.raises(BadOption, match="check_id: 81 characters, at most 80"):
        check_request(alignment_pb2.CreateCheckRequest(check_id="a" * 81))


def test_many_labels_are_refused_before_they_are_read() -> None:
    inline = mmd_pb2.InlineFeatures(groups=["\0"] * 200_001)
    request = mmd_pb2.ComputeRequest(x=mmd_pb2.FeatureSource(inline=inline))
    with pytest.raises(BadOption, match="200,001 entries, at most 200,000"):
        parse_request(lambda _: request, b"")
