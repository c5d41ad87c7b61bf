"""Files and arguments of the local S3 server: its ports, keys, certificates and options."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from vfmalign.cli.extras import needs_extra
from vfmalign.cli.local.ports import free_ports
from vfmalign.cli.private_files import write_private
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.core.storage.store.access import STORE_ACCESS, StoreAccess, combine

BUCKET = "vfmalign"
SERVICE_ACCESS = {
    "features": STORE_ACCESS["features"].of_tenants([DEFAULT_TENANT]),
    "mmd": STORE_ACCESS["mmd"].of_tenants([DEFAULT_TENANT]),
    # Training processes of a local stack are children of the orchestrator, and inherit its keys.
    "finetuning": combine("finetuning", "training").of_tenants([DEFAULT_TENANT]),
    "monitoring": STORE_ACCESS["monitoring"].of_tenants([DEFAULT_TENANT]),
}
"""Access by service of a local stack, which has one tenant."""
MIN_FREE_BYTES = 1 << 30
"""Free space on its disk below which SeaweedFS refuses all writes; by default that follows from the disk's size."""
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "tls/ca.pem", "tls/certificate.pem", "tls/key.pem"
SECURITY_FILE = "security.toml"
"""SeaweedFS reads it in its working directory."""
_PORT_NAMES = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")


def get_arguments(directory: Path, ports: dict[str, int]) -> list[str]:
    """Returns the options of `weed server`.

    Run the server in `directory`, because some paths, such as the TLS paths, are relative.
    """
    return [
        f"-dir={directory / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",  # a restart waits for the election, although there is one master
        "-master.volumeSizeLimitMB=256",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master_grpc']}",
        # Volume files grow on demand. The default limit follows from the free space: too few buckets on a small disk.
        "-volume.max=2000",
        f"-volume.minFreeSpace={MIN_FREE_BYTES >> 20}MiB",
        "-volume.preStopSeconds=0",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume_grpc']}",
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer_grpc']}",
        "-filer.localSocket=filer.sock",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3_grpc']}",
        "-s3.localSocket=s3.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",  # a misspelt bucket must be an error, as with other S3 servers
        f"-s3.config={directory / 'identities.json'}",
    ]


def load_or_create(directory: Path) -> dict[str, Any]:
    """Returns the server's ports and keys.

    The first start generates the ports and keys, and stores them in files of mode 0600.
    """
    path = directory / "server.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    config: dict[str, Any] = {
        "ports": stored.get("ports") or dict(zip(_PORT_NAMES, free_ports(len(_PORT_NAMES)), strict=True)),
        "owner": stored.get("owner") or draw_keys(),
        "services": {name: stored.get("services", {}).get(name) or draw_keys() for name in SERVICE_ACCESS},
    }
    if config != stored:
        write_private(path, json.dumps(config).encode())
    write_identities(directory, config["owner"], config["services"])
    return config


def write_identities(directory: Path, owner: dict[str, str], services: dict[str, dict[str, str]]) -> None:
    """Writes the identities of the server to `identities.json` (mode 0600).

    Args:
        directory: folder of the server.
        owner: `access_key` and `secret_key` of the identity with all permissions.
        services: maps each service to its keys; `SERVICE_ACCESS` defines their permissions.
    """
    identities = [_describe("vfmalign", owner, ["Admin", "Read", "Write", "List", "Tagging"])]
    for name, access in SERVICE_ACCESS.items():
        identities.append(_describe(name, services[name], _list_actions(access)))
    write_private(directory / "identities.json", json.dumps({"identities": identities}).encode())


def draw_keys() -> dict[str, str]:
    """Returns a new `access_key` and `secret_key`."""
    return {"access_key": secrets.token_hex(10), "secret_key": secrets.token_urlsafe(30)}


def _describe(name: str, keys: dict[str, str], actions: list[str]) -> dict[str, Any]:
    """Returns an identity as SeaweedFS reads it."""
    credentials = [{"accessKey": keys["access_key"], "secretKey": keys["secret_key"]}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _list_actions(access: StoreAccess) -> list[str]:
    """Returns the actions of SeaweedFS that an access allows; `Write` includes deletion."""
    reads = [f"Read:{BUCKET}/{prefix}*" for prefix in access.read]
    return [f"List:{BUCKET}", *reads, *(f"Write:{BUCKET}/{prefix}*" for prefix in access.write)]


def renew_certificates(directory: Path) -> None:
    """Writes new certificates. From the next start on, every port except the S3 port requires these certificates."""
    with needs_extra("local", "the local S3 server"):
        from vfmalign.cli.local import certificates
    identity = certificates.issue()
    (directory / CA_FILE).parent.mkdir(mode=0o700, exist_ok=True)
    for name, content in ((CA_FILE, identity.ca), (CERTIFICATE_FILE, identity.certificate), (KEY_FILE, identity.key)):
        write_private(directory / name, content)
    ca, pair = f'ca = "{CA_FILE}"\n', f'cert = "{CERTIFICATE_FILE}"\nkey = "{KEY_FILE}"\n'
    grpc = "".join(f"[grpc.{part}]\n{pair}" for part in ("master", "volume", "filer", "s3", "client"))
    https = "".join(f"[https.{part}]\n{pair}{ca}" for part in ("master", "volume", "filer"))
    client = f"[https.client]\nenabled = true\n{pair}{ca}"
    write_private(directory / SECURITY_FILE, f"[grpc]\n{ca}{grpc}{https}{client}".encode())
