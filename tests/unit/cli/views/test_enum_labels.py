"""Messages as JSON documents, and enums as words."""

from __future__ import annotations

import json

import pytest

from vfmalign.cli.views.enum_labels import CHECK_STATES, SPLITS, parse, word
from vfmalign.core.domain.documents import to_json_dict
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import alignment_pb2, common_pb2


def test_a_document_has_numbers_for_64_bit_integers(finished_check: alignment_pb2.Check) -> None:
    content = to_json_dict(finished_check)
    assert content["spec"]["seed"] == 2**40
    assert content["result"]["test_groups"] == 16
    assert content["result"]["convergence"]["steps"] == 120
    assert content["result"]["curves"][0]["selected_step"] == 96
    assert content["stages"][0]["end_time"] == "2023-11-14T22:13:20Z"
    assert json.loads(json.dumps(content)) == content


def test_words_and_values_are_each_others_inverse() -> None:
    for name, value in CHECK_STATES.items():
        assert word(CHECK_STATES, value) == name
    assert word(CHECK_STATES, 99) == "unknown"
    assert parse(SPLITS, "val", "--split") == common_pb2.SPLIT_VAL
    with pytest.raises(BadOption, match="choose one of pretrain, train, val, test"):
        parse(SPLITS, "validation", "--split")
