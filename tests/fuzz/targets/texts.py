"""Texts in requests: ids, URIs, page tokens, tasks and input transforms."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

from sqlalchemy.dialects import postgresql, sqlite
from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import VfmalignError
from vfmalign.core.domain.record import check_key, is_id
from vfmalign.core.rpc.limits.bounds import check_request
from vfmalign.core.runtime.logs import accept_request_id
from vfmalign.database.pagination import PageRequest
from vfmalign.features.extraction.study_store import check_study_id
from vfmalign.features.listing import PageQuery, read_page
from vfmalign.finetuning.jobs.tables import JobRow
from vfmalign.imaging.input_transforms import get_input_transform
from vfmalign.v1 import features_pb2

_STORE = MemoryStore({})


def run(data: bytes) -> None:
    """Reads a text in every meaning that it may have."""
    text = data.decode(errors="replace")
    checks: tuple[Callable[[], object], ...] = (
        lambda: _list(text),
        lambda: _list(base64.urlsafe_b64encode(data).decode()),
        lambda: read_page(["a", "b"], str, len, PageQuery.parse(features_pb2.ListModelsRequest(page_token=text))),
        lambda: _address(text),
        lambda: _identify(text),
        lambda: check_study_id(text),
        lambda: str(Task.parse(text)),
        lambda: get_input_transform(text),
        lambda: accept_request_id(text),
    )
    for check in checks:
        with suppress(VfmalignError):
            check()


def _list(token: str) -> None:
    """Compiles the query of a page, with its values, for both databases."""
    query = PageRequest(10, token).select(JobRow)
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        query.compile(dialect=dialect)


def _address(uri: str) -> None:
    """A key that is accepted has one form."""
    key = _STORE.key(uri)
    assert check_key(key) == key
    assert _STORE.key(_STORE.uri(key)) == key
    assert "\0" not in key
    assert {"", ".", ".."}.isdisjoint(key.split("/"))


def _identify(text: str) -> None:
    """An id that is accepted is a segment of a key."""
    check_request(features_pb2.GetModelRequest(model_id=text))
    assert is_id(text)
    assert check_key(text) == text


def make_seeds() -> Mapping[str, bytes]:
    """Valid texts, and their hostile relatives."""
    token = json.dumps(["2026-01-01T00:00:00+00:00", "a", "4f53cda18c2baa0c"]).encode()
    return {
        "token": base64.urlsafe_b64encode(token),
        "position": token,
        "year-1": token.replace(b"2026", b"0001").replace(b"+00:00", b"+14:00"),
        "nested": b"[" * 400,
        "id": b"check-1.a_b",
        "uri": b"s3://fuzz/default/volumes/d/c/t2w.nii.gz",
        "uri-alias": b"s3://fuzz/default/volumes//d/./c/../t2w",
        "nul": b"s3://fuzz/default/a\0b",
        "task": b"segmentation:label=gland,structure=zone",
        "transform": b"hidden:t2w+adc",
    }


TARGET = Target(run, make_seeds, words=("s3://fuzz/default/", "hidden:", "label=", "segmentation:", "0001-"))
