"""Optional dependencies (extras) that some commands need."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vfmalign import __version__
from vfmalign.core.domain.errors import PreconditionFailed

LOCAL_MODULES = (
    "torch",
    "monai",
    "nibabel",
    "sqlalchemy",
    "cryptography",
    "jwt",
    "vfmalign.features",
    "vfmalign.mmd",
    "vfmalign.finetuning",
    "vfmalign.monitoring",
)
"""Modules that the services of a local stack need to start."""

COMPARISON_MODULES = ("torch", "scipy", "vfmalign.mmd")
"""Modules that a comparison in this process needs."""

MMD_MODULES = ("torch", "scipy", "cryptography", "jwt", "vfmalign.mmd")
"""Modules that the MMD service needs to start."""


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Wraps the imports of optional packages. If a package is missing, raises an error that names the extra.

    Args:
        extra: the extra that installs the packages.
        purpose: what needs the packages, such as `importing a dataset`.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(extra, purpose, error.name or "a package") from None


def require_modules(extra: str, purpose: str, modules: tuple[str, ...]) -> None:
    """Checks that modules are installed, without importing them.

    Raises:
        PreconditionFailed: a module is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise missing_extra(extra, purpose, module)


def missing_extra(extra: str, purpose: str, package: str) -> PreconditionFailed:
    """Returns the error for a package that is not installed, with the extra that contains it as the remedy."""
    return PreconditionFailed(
        f"{purpose} needs {package}, which is not installed",
        remedy=get_install_command(extra),
        reason="MISSING_EXTRA",
    )


def get_install_command(extra: str) -> str:
    """Returns the command that adds an extra to this installation, from the same clone, wheel or index.

    Installing by name alone would be unsafe: no public index has this package yet, so anybody could publish a package
    under its name (SECURITY.md).
    """
    source = _read_source()
    url = str(source.get("url", ""))
    path = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
    if path is not None and path.exists():
        editable = "-e " if source.get("dir_info", {}).get("editable") else ""
        return f"pip install {editable}{shlex.quote(f'{path}[{extra}]')}"
    if url and path is None and "archive_info" in source:
        return f"pip install {shlex.quote(f'vfmalign[{extra}] @ {url}')}"
    if url:
        return f"pip install 'PATH[{extra}]', where PATH is a clone or the wheel of vfmalign {__version__}"
    return f"pip install 'vfmalign[{extra}]=={__version__}', from the index that vfmalign came from"


def _read_source() -> dict[str, Any]:
    """Returns pip's record of the installation's source (PEP 610); empty for an index."""
    try:
        record = distribution("vfmalign").read_text("direct_url.json")
    except PackageNotFoundError:
        return {"url": "unknown:"}
    source: dict[str, Any] = json.loads(record) if record else {}
    return source
