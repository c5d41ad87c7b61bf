"""The list of erasures, from which they are repeated after a restore."""

import stat

import pytest

from vfmalign.cli.erasure_log import ErasureLog, LoggedErasure
from vfmalign.client.erasure import digest_identifier
from vfmalign.client.messages.erasure import PatientDigest
from vfmalign.core.domain.errors import BadOption


def make(group: str, *, erasure_id: str = "e1", models: str = "keep", key: str = "ab" * 32) -> LoggedErasure:
    patient = PatientDigest(key=key, hmac=digest_identifier(key, group))
    return LoggedErasure(erasure_id=erasure_id, service="features", patient=patient, models=models)


def test_a_repeated_command_finds_its_erasure(tmp_path):
    log = ErasureLog(tmp_path / "private")
    assert log.find("g-1", "keep") == ""
    for one in (make("g-1"), make("g-2", erasure_id="e2", key="cd" * 32), make("g-1")):
        log.add(one)
    assert [log.find(group, "keep") for group in ("g-1", "g-2", "g-3", "")] == ["e1", "e2", "", ""]
    assert log.find("g-1", "delete") == ""
    path = tmp_path / "private" / "erasures.jsonl"
    assert ErasureLog.read(path) == [make("g-1"), make("g-2", erasure_id="e2", key="cd" * 32)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"g-1" not in path.read_bytes()
    found = make("g-1").patient.model_copy(update={"identifiers": ("0" * 64,)})
    log.add(make("g-1").model_copy(update={"patient": found}))
    log.add(make("g-1").model_copy(update={"service": "monitoring"}))
    assert [(one.erasure_id, one.service) for one in ErasureLog.read(path)] == [
        ("e2", "features"),
        ("e1", "features"),
        ("e1", "monitoring"),
    ]
    assert ErasureLog.read(path)[1].patient == found


@pytest.mark.parametrize("content", [b"no json\n", b"{}\n", b'{"erasure_id": "../x"}\n'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "erasures.jsonl"
    with pytest.raises(BadOption, match="cannot be read"):
        ErasureLog.read(path)
    path.write_bytes(content)
    with pytest.raises(BadOption, match="not a list of erasures"):
        ErasureLog.read(path)
