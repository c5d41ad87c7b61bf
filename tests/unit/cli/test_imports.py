"""Import of datasets from the command line."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vfmalign.cli.imports import import_dataset
from vfmalign.cli.target import Target
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import Conflict

MANIFEST = DatasetManifest(id="ward")
ASIDE = "vfmalign {} --home 'my stack'"


class Deployment:
    """A deployment that has a dataset, in a state folder of its own."""

    def __init__(self, digest: str) -> None:
        self.features = self.datasets = self
        self.digest, self.uploads = digest, 0

    async def get_dataset(self, dataset_id: str) -> SimpleNamespace:
        return SimpleNamespace(dataset_digest=self.digest)

    async def upload(self, import_id: str, contents: list[bytes]) -> tuple[str, ...]:
        self.uploads += 1
        return ("0" * 64,)

    async def publish(self, request: object, on_progress: object) -> str:
        return "published"

    def run(self, work: Any) -> Any:
        return asyncio.run(work(self))

    def get_command(self, words: str) -> str:
        return f"`{ASIDE.format(words)}`"


def import_ward(digest: str) -> tuple[Any, Deployment]:
    """Imports a dataset where one with a digest is stored under its id."""
    deployment = Deployment(digest)
    checked: Any = SimpleNamespace(dataset=MANIFEST, discovered=SimpleNamespace(cases=()), encode_cases=lambda: ())
    return import_dataset(cast(Target, deployment), checked), deployment


def test_an_id_that_another_dataset_has_is_refused_with_the_command_that_shows_it() -> None:
    with pytest.raises(Conflict) as caught:
        import_ward("0" * 64)
    assert caught.value.message == "the dataset exists with different content"
    assert caught.value.subject == "dataset ward"
    assert caught.value.remedy == (
        "choose another dataset id, or see the stored one with `vfmalign dataset show ward --home 'my stack'`; "
        "the same id is accepted for equal cases, splits and declaration"
    )


def test_the_same_dataset_is_imported_again() -> None:
    dataset, deployment = import_ward(MANIFEST.digest())
    assert (dataset, deployment.uploads) == ("published", 1)
