"""Settings of the feature service: the PACS that requests may name."""

from __future__ import annotations

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.rpc.channels import CALL_TIMEOUT_S
from vfmalign.core.runtime.settings import parse
from vfmalign.core.runtime.settings_listing import list_variables
from vfmalign.features.dicom.reader import ATTEMPTS
from vfmalign.features.settings import FeaturesSettings
from vfmalign.imaging.dicom.pacs.client import PacsLimits

URL = "https://pacs.example/dicom-web"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("VFMALIGN_DICOMWEB__MAIN__URL", f"{URL}/")


def test_a_pacs_has_the_name_of_its_variables() -> None:
    (server,) = parse(FeaturesSettings).get_servers("default").values()
    assert (server.name, server.url) == ("main", URL)
    names = [variable.name for variable in list_variables(FeaturesSettings)]
    assert "VFMALIGN_DICOMWEB__<NAME>__TOKEN_FILE" in names
    assert "VFMALIGN_DICOMWEB__<NAME>__NAME" not in names


def test_the_attempts_at_a_pacs_that_hangs_fit_into_a_call() -> None:
    (server,) = parse(FeaturesSettings).get_servers("default").values()
    waits_s = sum(PacsLimits().first_wait_s * 2.0**attempt for attempt in range(ATTEMPTS - 1))
    assert ATTEMPTS * server.timeout_seconds + waits_s < CALL_TIMEOUT_S / 1.5


def test_a_pacs_of_a_deployment_of_several_tenants_names_those_that_may_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VFMALIGN_AUTH__TENANTS", '["ward-1", "ward-2"]')
    with pytest.raises(BadOption, match="VFMALIGN_DICOMWEB__MAIN__TENANTS"):
        parse(FeaturesSettings)
    monkeypatch.setenv("VFMALIGN_DICOMWEB__MAIN__TENANTS", '["ward-3"]')
    with pytest.raises(BadOption, match="ward-3, which this deployment does not serve"):
        parse(FeaturesSettings)
    for tenants in ("ward-2", '["ward-2"]'):
        monkeypatch.setenv("VFMALIGN_DICOMWEB__MAIN__TENANTS", tenants)
        settings = parse(FeaturesSettings)
        assert (settings.get_servers("ward-1"), list(settings.get_servers("ward-2"))) == ({}, ["main"])
    monkeypatch.setenv("VFMALIGN_DICOMWEB__MAIN__TENANTS", "ward-1,ward-2")
    assert all(parse(FeaturesSettings).get_servers(tenant) for tenant in ("ward-1", "ward-2"))


@pytest.mark.parametrize(
    ("name", "value", "variable"),
    [
        ("MAIN__URL", "http://pacs.example/dicom-web", "VFMALIGN_DICOMWEB__MAIN__URL"),
        ("MAIN__TENANTS", "[ward-1", "VFMALIGN_DICOMWEB__MAIN__TENANTS"),
        ("MAIN__PASSWORD", "secret", "VFMALIGN_DICOMWEB__MAIN__PASSWORD"),
        ("OTHER__TOKEN_FILE", "/t", "VFMALIGN_DICOMWEB__OTHER__URL"),
        ("A-B__URL", URL, "VFMALIGN_DICOMWEB__A-B"),
    ],
)
def test_a_wrong_setting_of_a_pacs_is_named(
    name: str, value: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VFMALIGN_DICOMWEB__{name}", value)
    with pytest.raises(BadOption, match=variable) as caught:
        parse(FeaturesSettings)
    assert value not in str(caught.value)
