"""Typed Python client of the public API: numpy arrays in, records out, without torch.

    from vfmalign.client import Client

    with Client(mmd_address="localhost:8001") as client:
        response = client.mmd.compute(before, after, reference=train, pairing="paired")
        print(response.layers[0].standardised.mmd2)

`AsyncClient` offers the same methods as coroutines. Failed calls raise the errors of `vfmalign.core.domain.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfmalign.client.async_client import AsyncClient
    from vfmalign.client.samples import LabelledFeatures
    from vfmalign.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "LabelledFeatures"]

_MODULES = {
    "AsyncClient": "vfmalign.client.async_client",
    "Client": "vfmalign.client.sync_client",
    "LabelledFeatures": "vfmalign.client.samples",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line imports `client.messages` and must start without gRPC.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
