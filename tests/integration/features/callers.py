"""Who imports, and the settings of a service that admits them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.token_issuer import TokenIssuer

from vfmalign.client.messages.imports import PublishModelRequest
from vfmalign.core.runtime.auth_settings import LOCAL_ISSUER

ISSUER = TokenIssuer(LOCAL_ISSUER)
ADA, BOB = ISSUER.sign("curator", sub="ada"), ISSUER.sign("curator", sub="bob")
VIEWER = ISSUER.sign("viewer", "researcher", sub="eve")


def get_settings(folder: Path) -> dict[str, str]:
    """Variables of a service that admits tokens of the issuer alone."""
    return {"VFMALIGN_AUTH__MODE": "local", "VFMALIGN_AUTH__JWKS_FILE": str(ISSUER.write_jwks(folder / "jwks.json"))}


def describe_model(weights: bytes, **changes: Any) -> PublishModelRequest:
    """A valid request of PublishModel with some fields replaced."""
    fields: dict[str, Any] = {
        "import_id": "i1",
        "model_id": "imported",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "architecture": "profound_conv_micro",
        "objective": "contrastive",
        "source": "from the tests",
    }
    return PublishModelRequest(**{**fields, **changes})
