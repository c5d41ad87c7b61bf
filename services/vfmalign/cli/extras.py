"""The package's extras, for commands that need more than `pip install vfmalign` brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

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
)
"""Modules without which the services of a local stack do not start."""

MMD_MODULES = ("torch", "scipy", "cryptography", "jwt", "vfmalign.mmd")
"""Modules without which the MMD service does not start."""


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Wrap the imports of optional packages: a missing one becomes an error that names the extra.

    Args:
        extra: the extra that installs them.
        purpose: what they are needed for, such as `importing a dataset`.

    Raises:
        PreconditionFailed: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(extra, purpose, error.name or "a package") from None


def require_modules(extra: str, purpose: str, modules: tuple[str, ...]) -> None:
    """Check that modules are installed, without importing them.

    Raises:
        PreconditionFailed: one of them is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise missing_extra(extra, purpose, module)


def missing_extra(extra: str, purpose: str, package: str) -> PreconditionFailed:
    """The error for a package of an extra that is not installed."""
    return PreconditionFailed(
        f"{purpose} needs {package}, which is not installed",
        remedy=f"pip install 'vfmalign[{extra}]'",
        reason="MISSING_EXTRA",
    )
