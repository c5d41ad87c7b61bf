"""`vfmalign store`: prepare the object storage of a deployment."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from vfmalign.cli.local.probes import check_store
from vfmalign.cli.options import JsonOption
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import BadOption, StoreRefused, StoreUnavailable
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, MAX_TENANTS, AuthSettings, split_names
from vfmalign.core.runtime.settings import StoreSettings, parse
from vfmalign.core.storage.store.access import STORE_ACCESS
from vfmalign.core.storage.store.object_store import ObjectStore

_POLL_S = 2.0

app = typer.Typer()


@app.command()
def init(
    wait_s: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0, max=3600, help="Seconds to wait until the store answers."),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Create the bucket if it does not exist, and check it.

    The check covers all operations that the services use. The environment names endpoint, region, bucket and
    credentials as it does for the services: AWS_ENDPOINT_URL_S3, AWS_REGION, VFMALIGN_BUCKET (vfmalign by default), and
    AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or another source of credentials. The command can be repeated.
    `vfmalign up` creates the bucket of its own store.
    """
    output = Output.to_terminal(as_json=as_json)
    if not os.environ.get("AWS_ENDPOINT_URL_S3"):
        raise BadOption(
            "is not set",
            field="AWS_ENDPOINT_URL_S3",
            remedy="set it to the URL of the S3 endpoint; the store of `vfmalign up` needs no preparation",
        )
    settings = parse(StoreSettings)
    policy = Retrying(
        retry=retry_if_exception(_may_be_starting),
        stop=stop_after_delay(wait_s),
        wait=wait_fixed(_POLL_S),
        reraise=True,
    )
    created, checks = policy(_prepare, settings)
    bucket = f"s3://{settings.bucket}"
    output.emit(
        {"bucket": bucket, "region": settings.region, "created": created, "checks": checks},
        f"bucket {bucket} {'created' if created else 'exists'} in region {settings.region}",
        f"checked: {checks}",
    )


@app.command()
def policy(
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE", help="Service: features, mmd, finetuning, monitoring, or training (pods of jobs)."
        ),
    ],
    bucket: Annotated[
        str, typer.Option(metavar="NAME", envvar="VFMALIGN_BUCKET", help="The deployment's bucket.")
    ] = "vfmalign",
    tenants: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            envvar="VFMALIGN_AUTH__TENANTS",
            help="The tenants that the deployment serves, separated by commas.",
        ),
    ] = DEFAULT_TENANT,
) -> None:
    """Print the policy for a service's access to the bucket. AWS, MinIO, Ceph and others accept the policy.

    Attach the policy to credentials that only this service uses. `vfmalign up` gives its services such credentials. On
    Kubernetes, the Secret vfmalign-store-SERVICE contains the credentials (docs/operations.md).
    """
    if service not in STORE_ACCESS:
        raise BadOption(
            f"{service!r} has no policy", field="SERVICE", remedy=f"choose one of {', '.join(STORE_ACCESS)}"
        )
    typer.echo(json.dumps(STORE_ACCESS[service].of_tenants(_parse(tenants)).to_policy(bucket), indent=2))


def _parse(tenants: str) -> tuple[str, ...]:
    try:
        return AuthSettings(tenants=split_names(tenants)).tenants
    except ValueError as error:
        raise BadOption(
            "not a list of tenant names",
            field="--tenants",
            remedy=f"give at most {MAX_TENANTS}, of lower-case letters, digits and hyphens, separated by commas",
        ) from error


def _prepare(settings: StoreSettings) -> tuple[bool, str]:
    """Creates the bucket if it does not exist, and checks it; returns whether it was created, and a list of checks."""
    store = ObjectStore(settings)
    if "region" not in settings.model_fields_set and not store.has_bucket():
        raise BadOption(
            "is not set, but a bucket cannot change its region later",
            field="AWS_REGION",
            remedy="set it to the region of the bucket; stores without regions use us-east-1",
        )
    return store.ensure_bucket(), check_store(store)


def _may_be_starting(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused)
