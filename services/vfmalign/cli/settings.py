"""Settings of the commands: where to find services that this machine's stack does not run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vfmalign.core.settings import PeerSettings

DEFAULT_HOME = Path(".vfmalign")


class ClientSettings(PeerSettings):
    """Addresses of a deployment elsewhere; with them the commands use it instead of the local stack."""

    features_address: str = Field(default="", description="host:port of the feature service")
    mmd_address: str = Field(default="", description="host:port of the MMD service")
    finetuning_address: str = Field(default="", description="host:port of the finetuning service")
