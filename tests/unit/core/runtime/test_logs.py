"""Logs: JSON lines that carry the service and the request's id."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests import log_guard

from vfmalign.core.domain.errors import BadVolume, DataLoss, StoreUnavailable
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.runtime.settings import LogSettings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_service_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    log = logs.get("kitchen.oven")  # before it is configured, as modules do
    logs.configure("kitchen", LogSettings(level="info"))
    token = logs.request_id.set("request-1")
    log.info("baked", loaves=3)
    logs.request_id.reset(token)
    log.debug("not shown")
    log.warning("outside")
    first, second = lines(capsys)
    assert first["event"] == "baked"
    assert first["loaves"] == 3
    assert first["service"] == "kitchen"
    assert first["module"] == "kitchen.oven"
    assert first["level"] == "info"
    assert first["request_id"] == "request-1"
    assert first["timestamp"].endswith("Z")
    assert "request_id" not in second


def test_a_trace_is_part_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings())
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logs.get("x").exception("failed")
    (line,) = lines(capsys)
    assert "ZeroDivisionError" in line["exception"]


def test_libraries_log_in_the_same_form_and_never_a_signed_url(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings(level="debug"))
    logging.getLogger("alembic").info("migrated %s", "it")
    logging.getLogger("urllib3.connectionpool").debug("PUT /b/k?X-Amz-Signature=abc")
    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["service"]) == ("migrated it", "alembic", "kitchen")


@pytest.mark.parametrize(
    "offered", [None, "", "short", "a b c d e f g", 'x"},{"event":"forged', "x" * 65, "né-à-ü-ö-ê"]
)
def test_an_id_that_could_break_a_line_is_replaced(offered: str | None) -> None:
    made = logs.accept_request_id(offered)
    assert made != offered
    assert logs.accept_request_id(made) == made


async def test_requests_at_once_keep_their_ids_apart() -> None:
    async def serve(identity: str) -> str:
        logs.request_id.set(identity)
        await asyncio.sleep(0.01)
        return await asyncio.to_thread(logs.request_id.get)

    assert await asyncio.gather(serve("request-a"), serve("request-b")) == ["request-a", "request-b"]
    assert logs.request_id.get() == ""


def test_a_line_has_a_bounded_size(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings())
    fields = {f"field_{number}": "x" for number in range(100)}
    logs.get("x").info("call", error="e" * 2**20, stages={"s" * 5000: 1}, many=["n"] * 2**18)
    logs.get("x").info("call", **fields)
    logging.getLogger("library").warning("w" * 2**20)
    found = capsys.readouterr().err.splitlines()
    assert max(map(len, found)) < 20_000
    assert [json.loads(line)["event"][:5] for line in found] == ["call", "call", "wwwww"]


def test_of_a_long_traceback_the_error_stays(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings())
    try:
        raise RuntimeError("a" * 2**20 + "the end")
    except RuntimeError:
        logs.get("x").exception("failed", number=3)
    (line,) = lines(capsys)
    assert line["exception"].endswith("the end")
    assert len(line["exception"]) < 20_000
    assert line["number"] == 3


def test_no_line_contains_the_text_of_an_error_that_may_name_a_patient(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings())
    name = "-".join(("case", "7"))
    wrong = BadVolume(f"{name} has no t2w", subject=name)
    for error in (wrong, KeyError(name)):
        try:
            raise error from ValueError(name)
        except Exception:
            logs.get("x").exception("crashed", error=error)
    logs.get("x").warning("lost", error=DataLoss("it is missing", kind="volume", owner=name, subject=name))
    found = lines(capsys)
    assert name not in json.dumps(found)
    assert [line["error"] for line in found] == ["BAD_VOLUME", "KeyError", "DATA_LOSS volume"]
    assert [line["exception"].splitlines()[-1] for line in found[:2]] == ["BAD_VOLUME", "KeyError"]
    assert found[0]["exception"].startswith("ValueError\n\n")


def test_a_line_contains_the_whole_text_of_an_error_about_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("kitchen", LogSettings())
    away = StoreUnavailable("the object store does not answer", subject="s3://bucket", remedy="check that it runs")
    logs.get("x").warning("waits", error=away)
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("not written") from error
    except RuntimeError:
        logs.get("x").exception("crashed")
    waits, crashed = lines(capsys)
    assert waits["error"] == str(away)
    assert "OSError: [Errno 28] No space left on device" in crashed["exception"]
    assert crashed["exception"].endswith("RuntimeError: not written")


def test_the_guard_of_logs_finds_ids_in_lines_of_services_only(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "mapping.csv").write_text("dataset,case,group,folder,patient\nhip,0123456789abcdef,,,\n")
    clean = ['{"service": "features", "id": "0123456789abcde0"}', "case-1 of a command", '{"no": "patient-1"}']
    (tmp_path / "clean.log").write_text("\n".join(clean))
    assert log_guard.find_patient_lines(tmp_path) == []
    bad = ['{"service": "features", "error": "case-1"}', '{"service": "mmd", "error": "0123456789abcdef: lost"}']
    (tmp_path / "bad.log").write_text("\n".join(bad))
    assert len(log_guard.find_patient_lines(tmp_path)) == 2


def test_lines_that_cannot_be_written_are_counted_and_raise_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def count() -> float:
        return metrics.REGISTRY.get_sample_value("vfmalign_log_lines_lost_total") or 0.0

    logs.configure("kitchen", LogSettings())
    before = count()
    # Without a buffer, which would keep lines and fail again when it is closed.
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)  # type: ignore[type-var]
    with full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        logs.get("x").warning("lost", loaves=3)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logs.get("x").exception("lost_too")
        logging.getLogger("library").warning("lost as well")
    assert count() == before + 3
    logs.get("x").warning("written")
    assert [line["event"] for line in lines(capsys)] == ["written"]
