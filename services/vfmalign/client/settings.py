"""Settings of the client: which deployment to call."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from vfmalign.client.messages.base import to_bad_option
from vfmalign.core.runtime.settings import ServiceClientSettings


class ClientSettings(ServiceClientSettings):
    """Addresses of a deployment (`VFMALIGN_FEATURES_ADDRESS` …) and the authorities that sign its certificates."""

    features_address: str = Field(default="", description="host:port of the feature service")
    mmd_address: str = Field(default="", description="host:port of the MMD service")
    finetuning_address: str = Field(default="", description="host:port of the finetuning service")


def load_client_settings(**arguments: Any) -> ClientSettings:
    """Reads the environment; arguments that are not None take precedence.

    Raises:
        BadOption: a setting is wrong, such as a `ca_file` that does not exist.
    """
    try:
        return ClientSettings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        raise to_bad_option(error) from None
