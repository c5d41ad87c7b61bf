"""Messages as JSON documents, and enums as words."""

from __future__ import annotations

import json

import pytest

from vfmalign.cli.messages import CHECK_STATES, SPLITS, parse, word
from vfmalign.core.documents import document
from vfmalign.core.errors import BadOption
from vfmalign.v1 import alignment_pb2, common_pb2, features_pb2


def test_a_document_has_numbers_for_64_bit_integers(finished_check: alignment_pb2.Check) -> None:
    content = document(finished_check)
    assert content["spec"]["seed"] == 2**40
    assert content["result"]["test_groups"] == 16
    assert content["result"]["convergence"]["steps"] == 120
    assert content["result"]["curves"][0]["selected_step"] == 96
    assert content["stages"][0]["end_time"] == "2023-11-14T22:13:20Z"
    assert json.loads(json.dumps(content)) == content


def test_a_document_keeps_absent_values_absent_and_zeros_there() -> None:
    content = document(common_pb2.Estimate(absent_reason="too few"))
    assert content == {"absent_reason": "too few"}
    assert document(common_pb2.Estimate(value=0.0))["value"] == 0.0
    assert document(features_pb2.FeatureSet())["rows"] == 0


def test_words_and_values_are_each_others_inverse() -> None:
    for name, value in CHECK_STATES.items():
        assert word(CHECK_STATES, value) == name
    assert word(CHECK_STATES, 99) == "unknown"
    assert parse(SPLITS, "val", "--split") == common_pb2.SPLIT_VAL
    with pytest.raises(BadOption, match="choose one of pretrain, train, val, test"):
        parse(SPLITS, "validation", "--split")
