"""What the keys of a service allow: on a real S3 server, and as a policy document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfmalign.cli.local import s3_configuration, s3_server
from vfmalign.core.domain.errors import NotFound, StoreRefused
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.access import STORE_ACCESS
from vfmalign.core.storage.store.object_store import ObjectStore

DOCUMENTED = Path(__file__).parents[5] / "docs" / "operations.md"
PREFIXES = (
    "cells/",
    "checks/",
    "datasets/",
    "experiments/",
    "features/",
    "incoming/",
    "jobs/",
    "models/",
    "uploads/",
    "volumes/",
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ObjectStore]]:
    """By identity, the bucket as its keys show it."""
    process, server = s3_server.start(tmp_path_factory.mktemp("s3"))
    keys = {"owner": (server.access_key, server.secret_key), **server.service_keys}
    found = {
        name: ObjectStore(
            StoreSettings.model_validate(
                {
                    "bucket": s3_configuration.BUCKET,
                    "endpoint": server.endpoint,
                    "access_key": access_key,
                    "secret_key": secret_key,
                    "region": "us-east-1",
                }
            )
        )
        for name, (access_key, secret_key) in keys.items()
    }
    found["owner"].ensure_bucket()
    for prefix in PREFIXES:
        found["owner"].put(f"{prefix}object", b"content")
    yield found
    s3_server.stop(process.pid)
    process.wait()


def is_allowed(action: Callable[[], object]) -> bool:
    try:
        action()
    except StoreRefused:
        return False
    return True


@pytest.mark.parametrize("service", list(s3_configuration.SERVICE_ACCESS))
def test_every_service_reads_and_writes_what_the_table_says_and_nothing_else(
    service: str, stores: dict[str, ObjectStore]
) -> None:
    access, store = s3_configuration.SERVICE_ACCESS[service], stores[service]
    for prefix in PREFIXES:
        read, write = (store.name(prefix) in prefixes for prefixes in (access.read, access.write))
        assert is_allowed(lambda key=f"{prefix}object": store.get(key)) == read, prefix
        assert is_allowed(lambda key=f"{prefix}{service}": store.put(key, b"new")) == write, prefix
        assert is_allowed(lambda key=f"{prefix}{service}-once": store.put_if_absent(key, b"new")) == write, prefix
        assert is_allowed(lambda key=f"{prefix}{service}": store.delete(key)) == write, prefix
        assert list(store.list(prefix))
    assert not is_allowed(lambda: store.get("featuresque/object"))
    with pytest.raises(NotFound):
        store.get("features/absent")
    foreign = store.of_tenant("ward-7")
    assert not is_allowed(lambda: foreign.get("features/object")), "the keys are those of the local stack's tenant"
    assert not is_allowed(lambda: foreign.put("features/new", b"new"))


def test_keys_of_one_service_are_not_those_of_another(stores: dict[str, ObjectStore], tmp_path: Path) -> None:
    first = s3_configuration.load_or_create(tmp_path)
    keys = [first["owner"], *first["services"].values()]
    assert len({pair["access_key"] for pair in keys}) == len({pair["secret_key"] for pair in keys}) == 5
    assert s3_configuration.load_or_create(tmp_path) == first, "a restart keeps them"
    for name in ("server.json", "identities.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("service", list(STORE_ACCESS))
def test_a_policy_document_names_every_prefix(service: str) -> None:
    access = STORE_ACCESS[service].of_tenants(["default", "ward-7"])
    assert {prefix.partition("/")[0] for prefix in access.read} == {"default", "ward-7"}
    policy = json.loads(json.dumps(access.to_policy("hospital")))
    listing, reading, *writing = policy["Statement"]
    assert listing["Resource"] == ["arn:aws:s3:::hospital"]
    assert reading["Action"] == ["s3:GetObject"]
    assert reading["Resource"] == [f"arn:aws:s3:::hospital/{prefix}*" for prefix in access.read]
    assert [statement["Resource"] for statement in writing] == (
        [[f"arn:aws:s3:::hospital/{prefix}*" for prefix in access.write]] if access.write else []
    )
    assert all(statement["Effect"] == "Allow" and "*" not in statement["Action"] for statement in policy["Statement"])


@pytest.mark.parametrize("service", list(STORE_ACCESS))
def test_the_table_of_the_documentation_is_this_one(service: str) -> None:
    access = STORE_ACCESS[service]
    cells = [", ".join(f"`{prefix}`" for prefix in prefixes) or "nothing" for prefixes in (access.read, access.write)]
    assert f"| `{service}` | {cells[0]} | {cells[1]} |" in DOCUMENTED.read_text()
