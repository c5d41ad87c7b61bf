"""`vfmalign store init` against a real S3 server."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vfmalign.cli import exits
from vfmalign.cli.commands.setup import store as command
from vfmalign.cli.local import s3_server
from vfmalign.cli.local.doctor import examine
from vfmalign.cli.local.ports import free_ports
from vfmalign.cli.local.s3_server import S3Server
from vfmalign.cli.local.state_directory import StateDirectory
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a bucket that does not exist; the environment names it and its server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"new-{secrets.token_hex(4)}"
    for name, value in (s3.environment() | {"VFMALIGN_BUCKET": bucket}).items():
        monkeypatch.setenv(name, value)
    return bucket


def test_it_creates_the_bucket_once_and_checks_it(bucket: str, invoke: Invoke) -> None:
    code, out, err = invoke("store", "init", "--json")
    assert code == exits.OK, err
    first = json.loads(out)
    assert (first["bucket"], first["region"], first["created"]) == (f"s3://{bucket}", "us-east-1", True)
    assert "concurrent conditional writes" in first["checks"]
    store = ObjectStore(StoreSettings())
    assert list(store.list("")) == [], "the check leaves nothing"
    store.put("results/kept", b"bytes")
    code, out, err = invoke("store", "init")
    assert code == exits.OK, err
    assert f"bucket s3://{bucket} exists in region us-east-1" in out
    assert store.get("results/kept") == b"bytes"


def test_it_does_not_guess_the_region_of_a_new_bucket(
    bucket: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    code, _, err = invoke("store", "init")
    assert code == exits.BAD_INPUT
    assert "AWS_REGION: is not set, but a bucket cannot change its region" in err
    store = ObjectStore(StoreSettings())
    assert not store.has_bucket()
    store.ensure_bucket()
    assert invoke("store", "init")[0] == exits.OK, "an existing bucket has its region"


def test_it_names_the_missing_endpoint(bucket: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    code, _, err = invoke("store", "init")
    assert code == exits.BAD_INPUT
    assert "AWS_ENDPOINT_URL_S3: is not set" in err
    assert "`vfmalign up` needs no preparation" in err


def test_wrong_credentials_are_refused(bucket: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    code, _, err = invoke("store", "init", "--wait", "60")
    assert code == exits.REFUSED
    assert "check AWS_ACCESS_KEY_ID" in err
    assert "not-the-secret" not in err


def test_a_store_without_atomic_conditional_writes_fails(
    bucket: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectStore, "put_if_absent", lambda self, key, data: bool(self.put(key, data)))
    code, _, err = invoke("store", "init")
    assert code == exits.BAD_INPUT
    assert "If-None-Match is atomic" in err


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Ends servers that a test starts."""
    with ExitStack() as stack:
        yield stack


def test_it_waits_for_a_store_that_starts_later(
    bucket: str, invoke: Invoke, servers: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, server = s3_server.start(tmp_path / "s3")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.stop(process.pid, grace_s=0)
    process.wait()
    code, _, err = invoke("store", "init")
    assert code == exits.UNAVAILABLE
    assert "the object store does not answer" in err

    failures = threading.Event()
    may_be_starting = command._may_be_starting
    monkeypatch.setattr(command, "_may_be_starting", lambda error: failures.set() or may_be_starting(error))

    def start() -> None:
        assert failures.wait(60)
        process, _ = s3_server.start(tmp_path / "s3")
        servers.callback(process.wait)
        servers.callback(s3_server.stop, process.pid, grace_s=0)

    thread = threading.Thread(target=start)
    thread.start()
    code, out, err = invoke("store", "init", "--wait", "600")
    thread.join()
    assert code == exits.OK, err
    assert f"bucket s3://{bucket} created" in out


def test_doctor_names_it_as_the_remedy_for_a_missing_bucket(
    bucket: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service, port in zip(("FEATURES", "MMD", "FINETUNING"), free_ports(3), strict=True):
        monkeypatch.setenv(f"VFMALIGN_{service}_ADDRESS", f"127.0.0.1:{port}")

    def check_s3() -> tuple[str, str]:
        (step,) = (step for step in examine(StateDirectory(tmp_path)) if step.name == "s3")
        return step.outcome, step.remedy

    assert check_s3() == ("failed", "create it with `vfmalign store init`, or set VFMALIGN_BUCKET")
    assert invoke("store", "init")[0] == exits.OK
    assert check_s3() == ("ok", "")


def test_a_policy_names_the_prefixes_of_every_tenant(invoke: Invoke) -> None:
    code, out, _ = invoke("store", "policy", "mmd", "--tenants", "default,ward-7", "--bucket", "b")
    assert code == exits.OK
    reading = json.loads(out)["Statement"][1]["Resource"]
    assert reading == [
        f"arn:aws:s3:::b/{tenant}/{prefix}/*" for tenant in ("default", "ward-7") for prefix in ("features", "uploads")
    ]
    for names in ("Ward 7", "", "a,a"):
        code, _, err = invoke("store", "policy", "mmd", "--tenants", names)
        assert (code, "--tenants" in err) == (exits.BAD_INPUT, True), names
