"""Settings: one sentence that names the variable, and a help that lists every one."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field, ValidationError

from vfmalign.core.runtime.settings import ServiceSettings, load, parse_args

REQUIRED = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
    "AWS_ACCESS_KEY_ID": "the-access-key",
    "AWS_SECRET_ACCESS_KEY": "the-secret-key",
}


class KitchenOptions(BaseModel, frozen=True):
    ovens: int = Field(default=2, ge=1, description="ovens that bake at once")


class KitchenSettings(ServiceSettings):
    kitchen: KitchenOptions = KitchenOptions()
    cook: str = Field(description="who cooks")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("AWS_REGION", "VFMALIGN_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**REQUIRED, "VFMALIGN_COOK": "Ada"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_groups_come_from_the_environment_and_are_frozen(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VFMALIGN_KITCHEN__OVENS", "5")
    environment.setenv("VFMALIGN_BUCKET", "pantry")
    environment.setenv("VFMALIGN_SERVER__GRPC_PORT", "0")
    settings = load(KitchenSettings)
    assert (settings.kitchen.ovens, settings.store.bucket, settings.server.grpc_port) == (5, "pantry", 0)
    assert settings.store.secret_key.get_secret_value() == "the-secret-key"
    assert "the-secret-key" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.cook = "Bob"
    with pytest.raises(ValidationError):
        settings.kitchen.ovens = 1


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("AWS_SECRET_ACCESS_KEY", None, "is not set"),
        ("VFMALIGN_COOK", None, "is not set"),
        ("AWS_ENDPOINT_URL_S3", "127.0.0.1:9000", "must be http://HOST:PORT"),
        ("AWS_ENDPOINT_URL_S3", "http://key:word@host", "must be http://HOST:PORT"),
        ("VFMALIGN_SERVER__GRPC_PORT", "many", "valid integer"),
        ("VFMALIGN_SERVER__DRAIN_S", "-1", "greater than or equal to 0"),
        ("VFMALIGN_KITCHEN__OVENS", "0", "greater than or equal to 1"),
        ("VFMALIGN_LOG__LEVEL", "loud", "'debug'"),
        ("VFMALIGN_SERVER", "port 8001", "set its parts"),
        ("VFMALIGN_SERVER", "8001", "dictionary"),
        ("VFMALIGN_BUCKET", "Not A Bucket", "pattern"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_one_sentence_that_names_it(
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str | None,
    problem: str,
) -> None:
    if value is None:
        environment.delenv(variable)
    else:
        environment.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load(KitchenSettings)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{variable} ")
    assert problem in said
    assert said.count("\n") == 1
    for secret in ("the-access-key", "the-secret-key", "key:word"):
        assert secret not in said


def test_help_lists_every_setting_with_meaning_and_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in REQUIRED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as caught:
        parse_args("kitchen", KitchenSettings, ["--help"])
    assert caught.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for variable, meaning in {
        "AWS_ENDPOINT_URL_S3": "(required)",
        "AWS_SECRET_ACCESS_KEY": "secret key that belongs to the access key (none)",
        "AWS_REGION": "(default us-east-1)",
        "VFMALIGN_BUCKET": "(default vfmalign)",
        "VFMALIGN_SERVER__HEALTH_PORT": "(default 8003)",
        "VFMALIGN_LOG__LEVEL": "(default info)",
        "VFMALIGN_KITCHEN__OVENS": "ovens that bake at once (default 2)",
        "VFMALIGN_COOK": "who cooks (required)",
    }.items():
        assert [line for line in lines if line.startswith(f"{variable} ") and line.endswith(meaning)], variable


def test_version_is_told_without_any_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args("kitchen", KitchenSettings, ["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("vfmalign 0.")
