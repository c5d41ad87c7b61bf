"""Commands that need an extra name it, and end with code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
    assert "pip install 'vfmalign[local]'" in err
    assert len(err.strip().splitlines()) == 2


@pytest.mark.parametrize("command", ["up", "demo", "rehearse"])
def test_a_local_stack_without_its_packages_names_the_extra_and_leaves_no_folder(
    invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    code, _, err = invoke(command)
    assert code == exits.BAD_INPUT
    assert "a local stack needs torch, which is not installed" in err
    assert "pip install 'vfmalign[local]'" in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_block_that_is_no_missing_module_is_not_changed() -> None:
    with pytest.raises(ZeroDivisionError), extras.needs_extra("local", "dividing"):
        raise ZeroDivisionError
    with pytest.raises(PreconditionFailed) as caught, extras.needs_extra("mmd", "a local comparison"):
        import no_such_package  # noqa: F401
    assert caught.value.remedy == "pip install 'vfmalign[mmd]'"
