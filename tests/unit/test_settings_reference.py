"""docs/settings-reference.md is what `make docs` writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from vfmalign.core.runtime.settings import Settings
from vfmalign.core.runtime.settings_listing import list_variables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_reference", ROOT / "docs/generate_settings_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generator: ModuleType) -> str:
    return generator.render()


def test_the_page_is_up_to_date(page: str) -> None:
    assert (ROOT / "docs/settings-reference.md").read_text() == page, "run `make docs`"


def test_it_states_type_default_and_meaning(page: str) -> None:
    for row in (
        "| `VFMALIGN_SERVER__GRPC_PORT` | integer, 0 to 65,535 | `8001` | port of the API; 0 selects a free port |",
        "| `VFMALIGN_SERVER__DRAIN_S` | number, 0 to 3,600 | `30.0` | seconds for running calls after SIGTERM |",
        "| `AWS_ENDPOINT_URL_S3` | text | required | URL of the S3 endpoint |",
        "| `AWS_SECRET_ACCESS_KEY` | secret |  | secret key that belongs to the access key |",
        "| `VFMALIGN_LAUNCHER__KIND` | one of `local`, `kubernetes` | `local` | where jobs run: ",
    ):
        assert row in page


def test_a_service_lists_what_differs_from_the_others(page: str) -> None:
    finetuning = page.split("## finetuning")[1].split("\n## ", maxsplit=1)[0]
    assert "| `VFMALIGN_SERVER__MAX_MESSAGE_BYTES` | integer, 65,536 to 1,073,741,824 | `262144` |" in finetuning
    assert "VFMALIGN_SERVER__GRPC_PORT" not in finetuning


def test_every_settings_class_is_on_the_page(page: str, generator: ModuleType) -> None:
    """Classes of all packages, which the generator imports or shares groups with."""
    missing = {
        f"{settings.__name__}: {variable.name}"
        for settings in _list_subclasses(Settings)
        if settings.__module__.startswith("vfmalign.")
        for variable in list_variables(settings)
        if f"| `{variable.name}` |" not in page
    }
    assert not missing
    assert [title for title, (settings, _) in generator.SECTIONS.items() if f"## {title}\n" not in page] == []


def _list_subclasses(parent: type[Settings]) -> list[type[Settings]]:
    children = parent.__subclasses__()
    return [*children, *(one for child in children for one in _list_subclasses(child))]
