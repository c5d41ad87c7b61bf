"""The listing of settings names each variable as pydantic reads it, with its type and default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, FilePath, SecretStr
from pydantic_settings import NoDecode

from vfmalign.core.runtime.settings import Settings, StoreSettings
from vfmalign.core.runtime.settings_listing import list_variables


class Oven(BaseModel, frozen=True):
    size: Literal["small", "large"] = Field(default="small", description="how many loaves fit")
    heat_s: float = Field(default=0.5, gt=0, le=60)
    trays: int = Field(default=2, ge=1)
    names: Annotated[tuple[str, ...], NoDecode] = Field(default=(), max_length=4)
    owners: dict[str, str] = {}
    manual: FilePath | None = None
    door: bool | None = None


class Bakery(Settings):
    store: StoreSettings = Field(default_factory=StoreSettings)
    oven: Oven = Oven()
    folder: Path = Path("bread")
    key: SecretStr
    open: bool = Field(default=False, validation_alias="BAKERY_IS_OPEN")


LISTED = {variable.name: variable for variable in list_variables(Bakery)}


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("VFMALIGN_OVEN__SIZE", "one of `small`, `large`", "small"),
        ("VFMALIGN_OVEN__HEAT_S", "number, above 0, at most 60", "0.5"),
        ("VFMALIGN_OVEN__TRAYS", "integer, at least 1", "2"),
        ("VFMALIGN_OVEN__NAMES", "JSON list", ""),
        ("VFMALIGN_OVEN__OWNERS", "JSON object", ""),
        ("VFMALIGN_OVEN__MANUAL", "path", ""),
        ("VFMALIGN_OVEN__DOOR", "boolean", ""),
        ("VFMALIGN_FOLDER", "path", "bread"),
        ("VFMALIGN_KEY", "secret", None),
        ("BAKERY_IS_OPEN", "boolean", "false"),
        ("VFMALIGN_BUCKET", "text", "vfmalign"),
        ("AWS_ENDPOINT_URL_S3", "text", None),
    ],
)
def test_a_variable_has_name_type_and_default(name: str, kind: str, default: str | None) -> None:
    assert (LISTED[name].type, LISTED[name].default) == (kind, default)


def test_the_names_are_those_that_pydantic_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "VFMALIGN_OVEN__SIZE": "large",
        "VFMALIGN_KEY": "k",
        "BAKERY_IS_OPEN": "true",
        "VFMALIGN_BUCKET": "flour",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
    }.items():
        assert name in LISTED
        monkeypatch.setenv(name, value)
    settings = Bakery()
    assert (settings.oven.size, settings.open, settings.store.bucket) == ("large", True, "flour")


def test_a_variable_knows_its_group_and_meaning() -> None:
    assert LISTED["VFMALIGN_OVEN__SIZE"].group is Oven
    assert LISTED["VFMALIGN_OVEN__SIZE"].description == "how many loaves fit"
    assert LISTED["VFMALIGN_FOLDER"].group is Bakery
