"""Messages as JSON, and nouns beside numbers."""

from __future__ import annotations

from vfmalign.core.formats.documents import pluralise, to_json_dict
from vfmalign.v1 import common_pb2, features_pb2


def test_absent_values_stay_absent_and_zeros_are_there() -> None:
    assert to_json_dict(common_pb2.Estimate(absent_reason="too few")) == {"absent_reason": "too few"}
    assert to_json_dict(common_pb2.Estimate(value=0.0))["value"] == 0.0
    assert to_json_dict(features_pb2.FeatureSet())["rows"] == 0


def test_one_takes_no_s() -> None:
    assert [pluralise(count, "test patient") for count in (0, 1, 2)] == [
        "0 test patients",
        "1 test patient",
        "2 test patients",
    ]
