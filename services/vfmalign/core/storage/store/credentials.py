"""Credentials of the object store: static keys, a credentials file, a web identity or an IAM role."""

from __future__ import annotations

import os
import threading

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, IamAwsProvider, Provider, StaticProvider

from vfmalign.core.domain.errors import StoreRefused
from vfmalign.core.runtime.settings import StoreSettings

_TIMEOUT = urllib3.Timeout(connect=2.0, read=10.0)
_WEB_IDENTITY = "AWS_WEB_IDENTITY_TOKEN_FILE"


def get_credential_provider(settings: StoreSettings) -> Provider:
    """Returns the provider of the credentials that sign requests.

    Uses the first of these sources that is configured:

    1. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, with `AWS_SESSION_TOKEN` if they are temporary.
    2. The profile `AWS_PROFILE` of the file `AWS_SHARED_CREDENTIALS_FILE` (default `~/.aws/credentials`).
    3. A web identity: `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`, exchanged at `AWS_ENDPOINT_URL_STS`.
    4. The IAM role of the container (`AWS_CONTAINER_CREDENTIALS_FULL_URI` or `_RELATIVE_URI`) or of the EC2 instance.

    Credentials from sources 2 to 4 are renewed before they expire.
    """
    if settings.access_key:
        token = settings.session_token.get_secret_value()
        return StaticProvider(settings.access_key, settings.secret_key.get_secret_value(), token or None)
    # The role's provider would send requests for the container's or instance's role to the STS endpoint as well.
    sts_endpoint = settings.sts_endpoint if os.environ.get(_WEB_IDENTITY) else ""
    role = IamAwsProvider(
        custom_endpoint=sts_endpoint or None,
        region=settings.region,
        # Without a timeout, a process outside AWS would wait for the metadata address, where nothing answers.
        http_client=urllib3.PoolManager(timeout=_TIMEOUT, retries=False),
    )
    return _FirstAvailable((AWSConfigProvider(), role))


class _FirstAvailable(Provider):
    """The first provider that has credentials.

    minio's `ChainedProvider` keeps credentials without an expiry forever; this one notices a rewritten file.
    """

    def __init__(self, providers: tuple[Provider, ...]) -> None:
        self._providers = providers
        # Providers cache without a lock of their own; one thread renews while the others wait.
        self._lock = threading.Lock()

    def retrieve(self) -> Credentials:
        """Returns valid credentials.

        Raises:
            StoreRefused: no provider has credentials.
        """
        with self._lock:
            for provider in self._providers:
                try:
                    return provider.retrieve()
                except (ValueError, KeyError, OSError, urllib3.exceptions.HTTPError):
                    continue
        raise StoreRefused(
            "no credentials of the object store are available",
            subject="AWS_ACCESS_KEY_ID",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or provide a credentials file, a web identity or "
            "an IAM role",
        )
