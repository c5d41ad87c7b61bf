"""Commands that need an extra name it, and end with code 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vfmalign import __version__
from vfmalign.cli import exits, extras
from vfmalign.core.domain.errors import PreconditionFailed


@pytest.mark.parametrize(
    ("arguments", "module", "purpose"),
    [
        (("dataset", "import", "inbox"), "vfmalign.imaging.datasets.importer", "importing a dataset"),
        (("dataset", "phantoms"), "vfmalign.imaging.phantoms.dataset", "generating phantoms"),
        (("models", "import", "a.pth"), "vfmalign.models.importer", "importing a model"),
    ],
)
def test_a_command_without_its_packages_names_the_extra(
    invoke, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], module: str, purpose: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = invoke(*arguments)
    assert code == exits.BAD_INPUT
    assert out == ""
    assert f"{purpose} needs {module}, which is not installed" in err
    assert extras.get_install_command("local") in err
    assert len(err.strip().splitlines()) == 2


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_local_stack_without_its_packages_names_the_extra_and_leaves_no_folder(
    invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    code, _, err = invoke(command)
    assert code == exits.BAD_INPUT
    assert "a local stack needs torch, which is not installed" in err
    assert extras.get_install_command("local") in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_block_that_is_no_missing_module_is_not_changed() -> None:
    with pytest.raises(ZeroDivisionError), extras.needs_extra("local", "dividing"):
        raise ZeroDivisionError
    with pytest.raises(PreconditionFailed) as caught, extras.needs_extra("mmd", "a local comparison"):
        import no_such_package  # noqa: F401
    assert caught.value.remedy == extras.get_install_command("mmd")


def record_source(monkeypatch: pytest.MonkeyPatch, source: object) -> None:
    """Lets the package be installed from a source, as pip records it; from an index for None."""
    content = None if source is None else json.dumps(source)
    monkeypatch.setattr(extras, "distribution", lambda name: SimpleNamespace(read_text=lambda file: content))


def test_the_command_that_adds_an_extra_names_what_was_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = tmp_path / "a folder" / "vfmalign-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    commands = {}
    sources: dict[str, object] = {
        "clone": {"url": tmp_path.as_uri(), "dir_info": {"editable": True}},
        "folder": {"url": tmp_path.as_uri(), "dir_info": {}},
        "wheel": {"url": wheel.as_uri(), "archive_info": {}},
        "deleted wheel": {"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}},
        "address": {"url": "https://wheels.example/v.whl", "archive_info": {}},
        "index": None,
    }
    for name, source in sources.items():
        record_source(monkeypatch, source)
        commands[name] = extras.get_install_command("local")
    assert commands == {
        "clone": f"pip install -e '{tmp_path}[local]'",
        "folder": f"pip install '{tmp_path}[local]'",
        "wheel": f"pip install '{wheel}[local]'",
        "deleted wheel": f"pip install 'PATH[local]', where PATH is a clone or the wheel of vfmalign {__version__}",
        "address": "pip install 'vfmalign[local] @ https://wheels.example/v.whl'",
        "index": f"pip install 'vfmalign[local]=={__version__}', from the index that vfmalign came from",
    }
