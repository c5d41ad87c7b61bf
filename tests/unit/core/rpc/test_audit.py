"""Audit log: which lines each call has, what they name, and what happens if they cannot be written."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tests.unit.core.rpc.every_rpc import METHODS, Api, create_message, serve_every_rpc

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.rpc.audit.events import MAX_LINE_BYTES, CallAudit
from vfmalign.core.rpc.audit.objects import find_objects, is_changing, list_fields
from vfmalign.core.rpc.audit.trail import STRANGERS_PER_MINUTE, AuditTrail
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import AuditSettings
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, features_pb2

ROOT = Path(__file__).parents[4]
WITHOUT_OBJECTS = {
    "ListModels": "it has no filter",
    "ListDatasets": "it has no filter",
    "CreateStudyUpload": "the object gets its name from the answer, and no other call can read it",
    "CreateUpload": "as CreateStudyUpload: rows without an id",
}
NEVER = {"case", "case_id", "case_ids", "group", "groups", "store_group", "observation_id", "observation_ids"}
"""Fields that name patients, or studies of patients."""


def list_marked(descriptor: Descriptor) -> Iterator[FieldDescriptor]:
    for field, mark in list_fields(descriptor):
        if mark is not None:
            yield field
        elif field.message_type is not None:
            yield from list_marked(field.message_type)


def lost() -> float:
    return metrics.REGISTRY.get_sample_value("vfmalign_audit_lines_lost_total") or 0.0


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def wait_for_lines(file: Path, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while not file.exists() or len(file.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline, "the lines were not written"
        time.sleep(0.01)
    return read(file)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serve_every_rpc(tmp_path, audit=AuditSettings(file=tmp_path / "audit.log")) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_every_method_marks_its_objects_and_none_marks_a_patient() -> None:
    marked = {path.rsplit("/")[-1]: list(list_marked(method.input_type)) for path, method in METHODS.items()}
    assert {name for name, fields in marked.items() if not fields} == set(WITHOUT_OBJECTS)
    fields = [field for method in METHODS.values() for field in list_marked(method.output_type)]
    names = {field.name for field in (*fields, *(field for found in marked.values() for field in found))}
    assert names.isdisjoint(NEVER)
    assert {"dataset_id", "model_id", "model_ids", "store_as"} <= names


def test_the_reference_is_what_make_docs_writes() -> None:
    spec = importlib.util.spec_from_file_location("audit_reference", ROOT / "docs/generate_audit_reference.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert (ROOT / "docs/audit-reference.md").read_text() == generator.render(), "run `make docs`"
    assert {method.full_name for method in generator.list_methods()} == {m.full_name for m in METHODS.values()}


async def test_each_method_has_its_lines_for_success_denial_and_bad_argument(api: Api, file: Path) -> None:
    allowed = api.issuer.sign(
        "viewer", "researcher", "curator", "admin", "finetuning", "features", sub="ada", tenant="ward-7"
    )
    denied = api.issuer.sign("mmd", sub="eve", tenant="ward-7")
    for path, method in METHODS.items():
        assert await api.call(path, allowed) == ("OK", "")
        assert await api.call(path, denied) == ("PERMISSION_DENIED", "MISSING_ROLE")
        if any(field.name for field in method.input_type.fields):
            assert (await api.call(path, allowed, b"\xff"))[0] == "INVALID_ARGUMENT"
    count = sum(4 if is_changing(method.name) else 3 for method in METHODS.values())
    lines = wait_for_lines(file, count)
    assert len(lines) == count
    for path, method in METHODS.items():
        own = [line for line in lines if line["method"] == path[1:]]
        outcomes = ["OK", "PERMISSION_DENIED", "INVALID_ARGUMENT"]
        assert [line["outcome"] for line in own if line["phase"] == "end"] == outcomes
        begun = [line for line in own if line["phase"] == "begin"]
        assert len(begun) == is_changing(method.name)
        assert [line["subject"] for line in own if line["phase"] == "end"] == ["ada", "eve", "ada"]
        assert {line["tenant"] for line in own if line["subject"] == "ada"} == {"ward-7"}
        succeeded = next(line for line in own if line.get("outcome") == "OK")
        expected = find_objects(create_message(method.input_type))
        assert [(one["kind"], one["id"]) for one in succeeded["objects"]] == [one[:2] for one in expected]
        if begun:
            assert (begun[0]["id"], begun[0]["objects"]) == (succeeded["id"], succeeded["objects"])
        assert {line["reason"] for line in own if line.get("outcome") == "PERMISSION_DENIED"} == {"MISSING_ROLE"}


async def test_a_call_without_a_token_has_a_line_and_a_health_check_has_none(api: Api, file: Path) -> None:
    await api.call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", api.issuer.sign("viewer"))
    path = "/vfmalign.v1.MmdService/Compute"
    assert (await api.call(path))[0] == "UNAUTHENTICATED"
    (line,) = wait_for_lines(file, 1)
    assert (line["outcome"], line["reason"], line["subject"]) == ("UNAUTHENTICATED", "NO_TOKEN", "")


async def test_strangers_cannot_fill_the_log_and_do_not_hide_callers(api: Api, file: Path) -> None:
    path = "/vfmalign.v1.AlignmentService/GetCheck"
    for _ in range(STRANGERS_PER_MINUTE + 30):
        assert (await api.call(path))[0] == "UNAUTHENTICATED"
    for _ in range(STRANGERS_PER_MINUTE + 30):
        assert await api.call(path, api.issuer.sign("viewer")) == ("OK", "")
    lines = wait_for_lines(file, 2 * STRANGERS_PER_MINUTE + 30)
    assert Counter(line["outcome"] for line in lines) == {
        "UNAUTHENTICATED": STRANGERS_PER_MINUTE,
        "OK": STRANGERS_PER_MINUTE + 30,
    }


def test_the_next_minute_says_how_many_lines_were_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail, now = AuditTrail(tmp_path / "audit.log"), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    admitted = [trail.admit_stranger() for _ in range(STRANGERS_PER_MINUTE + 7)]
    assert admitted == [*[0] * STRANGERS_PER_MINUTE, *[None] * 7]
    now += 60.0
    assert [trail.admit_stranger(), trail.admit_stranger()] == [7, 0]
    monkeypatch.undo()
    trail.close()


async def test_a_probe_of_a_service_has_no_line_and_its_failure_has_one(api: Api, file: Path) -> None:
    probe = "/vfmalign.v1.FeatureService/ListModels"
    service, person = api.issuer.sign("finetuning", tenant="ward-7"), api.issuer.sign("viewer", sub="ada")
    assert await api.call(probe, service) == ("OK", "")
    assert (await api.call(probe, service, b"\xff"))[0] == "INVALID_ARGUMENT"
    assert await api.call(probe, person) == ("OK", "")
    lines = wait_for_lines(file, 2)
    assert [(line["outcome"], line["roles"]) for line in lines] == [
        ("INVALID_ARGUMENT", ["finetuning"]),
        ("OK", ["viewer"]),
    ]


async def test_a_cancelled_call_has_a_line_with_the_outcome(tmp_path: Path, file: Path) -> None:
    async with serve_every_rpc(tmp_path, delay_s=60.0, audit=AuditSettings(file=file)) as api:
        call = asyncio.create_task(api.call("/vfmalign.v1.FineTuningService/CancelJob", api.issuer.sign("researcher")))
        await asyncio.to_thread(wait_for_lines, file, 1)
        call.cancel()
        begun, ended = await asyncio.to_thread(wait_for_lines, file, 2)
    assert (begun["phase"], ended["phase"], ended["outcome"]) == ("begin", "end", "CANCELLED")
    assert (begun["id"], begun["objects"]) == (ended["id"], ended["objects"])


async def test_64_clients_leave_one_whole_line_end_for_each_answer(api: Api, file: Path) -> None:
    token = api.issuer.sign("researcher", "viewer", sub="ada")
    paths = ["/vfmalign.v1.FineTuningService/CancelJob", "/vfmalign.v1.AlignmentService/GetCheck"]

    async def call(client: int) -> list[tuple[str, str]]:
        return [await api.call(paths[(client + number) % 2], token) for number in range(20)]

    answers = [answer for found in await asyncio.gather(*map(call, range(64))) for answer in found]
    assert Counter(answers)["OK", ""] > 0
    changing = 64 * 10
    lines = wait_for_lines(file, len(answers) + changing)
    assert Counter(line["phase"] for line in lines) == {"end": len(answers), "begin": changing}
    assert Counter(line["outcome"] for line in lines if line["phase"] == "end") == Counter(code for code, _ in answers)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
async def test_the_documented_queries_find_their_lines_and_no_others(api: Api, file: Path) -> None:
    path, other = "/vfmalign.v1.FeatureService/DeleteDataset", "/vfmalign.v1.FineTuningService/CancelJob"
    assert await api.call(path, api.issuer.sign("curator", sub="ada")) == ("OK", "")
    assert (await api.call(path, api.issuer.sign("viewer", sub="eve")))[0] == "PERMISSION_DENIED"
    assert await api.call(other, api.issuer.sign("researcher", sub="kim")) == ("OK", "")
    lines = wait_for_lines(file, 5)
    deleted, begun, denied = _run_documented_queries(file, lines[:-1])  # as after a kill
    expected = [
        [line["subject"], line["outcome"]] for line in lines if line["method"] == path[1:] and "outcome" in line
    ]
    assert (
        [json.loads(line)[1:3] for line in deleted.splitlines()]
        == expected
        == [["ada", "OK"], ["eve", "PERMISSION_DENIED"]]
    )
    assert json.loads(begun) == [lines[-2]]
    assert lines[-2]["subject"] == "kim"
    assert denied.split() == ["1", "eve"]


def _run_documented_queries(file: Path, lines: list[dict[str, Any]]) -> list[str]:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    section = (ROOT / "docs/audit.md").read_text().partition("## Search lines")[2]
    return [
        subprocess.run(["bash", "-c", query], cwd=file.parent, capture_output=True, text=True, check=True).stdout
        for query in re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    ]


async def test_while_no_line_can_be_written_only_reading_calls_are_served(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    path = "/vfmalign.v1.FineTuningService/CancelJob"
    async with serve_every_rpc(tmp_path, audit=AuditSettings(file=pipe)) as api:
        token = api.issuer.sign("researcher", "viewer", sub="ada")
        assert await api.call(path, token) == ("OK", "")
        answers = [await api.call("/vfmalign.v1.AlignmentService/GetCheck", token) for _ in range(400)]
        assert set(answers) == {("OK", "")}
        await asyncio.sleep(1.2)
        before = len(api.callers)
        assert await api.call(path, token) == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
        assert len(api.callers) == before, "the servicer did not run"
        assert await api.call("/vfmalign.v1.AlignmentService/GetCheck", token) == ("OK", "")
        threading.Thread(target=_drain, args=(reader,), daemon=True).start()
        deadline = time.monotonic() + 30
        while await api.call(path, token) != ("OK", ""):
            assert time.monotonic() < deadline


def _drain(descriptor: int) -> None:
    os.set_blocking(descriptor, True)
    while os.read(descriptor, 65536):
        pass
    os.close(descriptor)


def test_a_full_queue_refuses_calls_and_counts_lost_lines(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "absent" / "audit.log", queue_lines=2)
    optional = AuditTrail(tmp_path / "absent" / "audit.log", queue_lines=2, required=False)
    before = lost()
    for _ in range(8):
        trail.write(b"line\n")
        optional.write(b"line\n")
        time.sleep(0.02)
    with pytest.raises(Unavailable) as caught:
        trail.check()
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    optional.check()
    assert lost() - before == 10, "5 of each 8 lines: 1 is being written and 2 wait"
    trail.close(0.1)
    optional.close(0.1)


def test_lines_go_on_after_rotation_and_after_a_missing_folder(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "audit.log"
    trail = AuditTrail(file)
    trail.write(b'{"n":1}\n')
    file.parent.mkdir()
    wait_for_lines(file, 1)
    file.rename(tmp_path / "audit.log.1")
    trail.write(b'{"n":2}\n')
    assert wait_for_lines(file, 1) == [{"n": 2}]
    assert read(tmp_path / "audit.log.1") == [{"n": 1}]
    assert file.stat().st_mode & 0o777 == 0o600
    trail.check()
    trail.close()


def test_a_full_disk_tears_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, space = os.write, [12]

    def write_until_full(descriptor: int, data: bytes) -> int:
        if not data.startswith(b'{"n":'):
            return write(descriptor, data)
        fits = data[: space[0]]
        space[0] -= len(fits)
        if not fits:
            raise OSError(28, "No space left on device")
        return write(descriptor, fits)

    monkeypatch.setattr(os, "write", write_until_full)
    trail = AuditTrail(tmp_path / "audit.log")
    for number in range(3):
        trail.write(b'{"n":%d}\n' % number)
    assert wait_for_lines(tmp_path / "audit.log", 1) == [{"n": 0}]
    time.sleep(1.2)
    assert read(tmp_path / "audit.log") == [{"n": 0}], "the part of the second line was taken back"
    with pytest.raises(Unavailable):
        trail.check()
    space[0] = 1000
    assert wait_for_lines(tmp_path / "audit.log", 3) == [{"n": number} for number in range(3)]
    trail.close()


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Any]:
    """Returns a function that writes the line of a call with a request and a response, and returns it."""
    trail = AuditTrail(tmp_path / "audit.log")
    count = 0

    def get(method: str, request: Any, response: Any = None) -> dict[str, Any]:
        nonlocal count
        audit = CallAudit(trail, "vfmalign.v1.Service", method, "ipv4:10.0.0.1:4711")
        audit.begin(request)
        if response is not None:
            audit.add_response(response)
        audit.end("OK", "")
        count += 1 + is_changing(method)
        return wait_for_lines(tmp_path / "audit.log", count)[-1]

    token = current_identity.set(Identity("ada", "https://idp.example", frozenset(), frozenset({"researcher"})))
    yield get
    current_identity.reset(token)
    trail.close()


def test_a_digest_comes_from_the_request_or_the_response(lines: Any) -> None:
    spec = alignment_pb2.CheckSpec(model_id="m", model_sha256="a" * 64, dataset_id="d")
    request = alignment_pb2.CreateCheckRequest(check_id="c", spec=spec)
    assert lines("CreateCheck", request)["objects"] == [
        {"kind": "check", "id": "c"},
        {"kind": "model", "id": "m", "digest": "a" * 64},
        {"kind": "dataset", "id": "d"},
    ]
    response = features_pb2.GetDatasetResponse(dataset=features_pb2.Dataset(dataset_id="d", dataset_digest="b" * 64))
    found = lines("GetDataset", features_pb2.GetDatasetRequest(dataset_id="d"), response)
    assert found["objects"] == [{"kind": "dataset", "id": "d", "digest": "b" * 64}]
    assert lines("ListDatasets", features_pb2.ListDatasetsRequest(), response)["objects"] == []


def test_no_line_names_a_patient_or_repeats_an_error(lines: Any) -> None:
    study = common_pb2.ObservedStudy(observation_id="order-1", group="patient-1")
    observed = features_pb2.StudyObservation(monitor_id="m", study=study)
    request = features_pb2.ExtractRequest(model_id="x", store_as="kept", store_group="patient-1", observation=observed)
    line = lines("Extract", request)
    assert {one["id"] for one in line["objects"]} == {"x", "kept", "m"}
    assert "patient-1" not in json.dumps(line)
    assert "order-1" not in json.dumps(line)
    assert line["peer"] == "ipv4:10.0.0.1"


def test_a_long_line_is_cut_and_counts_what_it_leaves_out(lines: Any) -> None:
    names = [f"model-{number}" for number in range(500)]
    request = experiment_pb2.CreateExperimentRequest(
        experiment_id="e", spec=experiment_pb2.ExperimentSpec(model_ids=names, dataset_id="d")
    )
    line = lines("CreateExperiment", request)
    assert len(json.dumps(line, separators=(",", ":"))) < MAX_LINE_BYTES
    assert len(line["objects"]) + line["objects_left_out"] == 502
    assert len(line["objects"]) > 50
