"""The few calls of the Kubernetes API that the launcher makes, through the official client.

Knows paths, verbs and answers, and makes errors of ours of theirs. Objects are plain JSON: the client's models would
drop fields that are newer than they are. Knows nothing of what a Job is for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import kubernetes.watch
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config.incluster_config import InClusterConfigLoader

from vfmalign.core.domain.errors import BadOption, Unavailable

Json = dict[str, Any]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = (5.0, 20.0)  # to connect, and to wait for an answer
_WATCH_S = 300  # the server ends a watch then; we begin the next one
_RETRY_S = 0.5

_REMEDIES = {
    401: "renew the token of this service's account, or the credentials in KUBECONFIG",
    403: "bind Role vfmalign-finetuning (k8s/base) to this service's account",
    404: "look at VFMALIGN_LAUNCHER__NAMESPACE, and apply what is missing",
    400: "mend the PodTemplate: the message names the field",
    422: "mend the PodTemplate: the message names the field",
}
_QUOTA = "raise the ResourceQuota, or wait until less runs"


class Refused(Unavailable):
    """The API answered, and with an error.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, *, subject: str, remedy: str, status: int, retry_after_s: float) -> None:
        super().__init__(message, subject=subject, remedy=remedy)
        self.status = status
        self.retry_after_s = retry_after_s


class Unanswered(Unavailable):
    """The request was sent and its answer did not come: it may have been done."""

    retry_after_s = _RETRY_S


class Cluster:
    """One namespace of one cluster.

    Args:
        client: of the official library, set up.
        namespace: where everything happens.
    """

    def __init__(self, client: kubernetes.client.ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str = "", account: Path = _ACCOUNT) -> Cluster:
        """The cluster that this process runs in, else the one of KUBECONFIG; sends nothing yet.

        Args:
            namespace: empty takes the pod's own, or the kubeconfig context's.
            account: folder that holds a service account's token in a pod.

        Raises:
            BadOption: there is neither.
        """
        configuration = kubernetes.client.Configuration()
        try:
            if (account / "token").is_file():
                InClusterConfigLoader(str(account / "token"), str(account / "ca.crt")).load_and_set(configuration)
                namespace = namespace or (account / "namespace").read_text().strip()
            else:
                file = os.environ.get("KUBECONFIG")  # the library reads it once, when it is imported
                kubernetes.config.load_kube_config(config_file=file, client_configuration=configuration)
                context = kubernetes.config.list_kube_config_contexts(config_file=file)[1]["context"]
                namespace = namespace or context.get("namespace", "default")
        except kubernetes.config.ConfigException as error:
            raise BadOption(
                "kubernetes, but this process is in no cluster and KUBECONFIG names none",
                subject="VFMALIGN_LAUNCHER__KIND",
                remedy="run the service in the cluster, or set KUBECONFIG to a file that is complete",
            ) from error
        configuration.retries = (
            False  # who calls knows when to come back; urllib3 would sleep in the supervisor's round
        )
        configuration.keep_alive = True  # a watch that a load balancer forgot would hang for ever
        return cls(kubernetes.client.ApiClient(configuration), namespace)

    def pod_template(self, name: str) -> Json:
        """A core/v1 PodTemplate."""
        return self._json("GET", self._core("podtemplates", name))

    def create_job(self, manifest: Json) -> Json:
        """Creates a Job and returns it as it lies there."""
        return self._json("POST", self._batch("jobs"), body=manifest)

    def job(self, name: str) -> Json | None:
        """A Job as it is now, None where there is none."""
        try:
            return self._json("GET", self._batch("jobs", name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def jobs(self, selector: str) -> tuple[list[Json], str]:
        """All Jobs of a label selector, and the resource version from which to watch them."""
        found = self._json("GET", self._batch("jobs"), query={"labelSelector": selector})
        return found.get("items") or [], (found.get("metadata") or {}).get("resourceVersion", "")

    def watch_jobs(self, selector: str, version: str, watch: kubernetes.watch.Watch) -> Iterator[tuple[str, Json]]:
        """Changes of these Jobs from a resource version on, as (type, object), until the server ends the watch.

        Raises:
            Refused: status 410 where the version is too old.
        """
        path = self._batch("jobs")

        def begin(*, resource_version: str, timeout_seconds: int, **flags: Any) -> urllib3.BaseHTTPResponse:
            query = {
                "labelSelector": selector,
                "resourceVersion": resource_version,
                "timeoutSeconds": str(timeout_seconds),
                "allowWatchBookmarks": "true",
                "watch": "true",
            }
            return self._call("GET", path, query=query, timeout_s=(_TIMEOUT_S[0], timeout_seconds + 30.0))

        with _translated("GET", path):
            for event in watch.stream(begin, resource_version=version, timeout_seconds=_WATCH_S):
                yield event["type"], event["raw_object"]

    def patch_job(self, name: str, patch: Json) -> Json:
        """Merges fields into a Job."""
        return self._json("PATCH", self._batch("jobs", name), body=patch)

    def delete_job(self, name: str, *, propagation: str) -> None:
        """Deletes a Job; its pods follow (`Background`), or go first (`Foreground`)."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        self._json("DELETE", self._batch("jobs", name), body=body)

    def pods(self, selector: str) -> list[Json]:
        """All pods of a label selector."""
        return self._json("GET", self._core("pods"), query={"labelSelector": selector}).get("items") or []

    def log(self, pod: str, container: str, lines: int) -> str:
        """The last lines that a container wrote."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": "65536"}
        with _translated("GET", pod):
            response = self._call("GET", f"{self._core('pods', pod)}/log", query=query)
            return response.data.decode(errors="replace")

    def close(self) -> None:
        """Closes idle connections."""
        self._client.close()

    def _core(self, *parts: str) -> str:
        return "/".join(("/api/v1/namespaces", self.namespace, *parts))

    def _batch(self, *parts: str) -> str:
        return "/".join(("/apis/batch/v1/namespaces", self.namespace, *parts))

    def _json(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Json | None = None
    ) -> Json:
        with _translated(method, path):
            found: Json = json.loads(self._call(method, path, query=query, body=body).data)
        return found

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        timeout_s: tuple[float, float] = _TIMEOUT_S,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = self._client.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        answer = self._client.call_api(*request, _request_timeout=timeout_s)
        response: urllib3.BaseHTTPResponse = answer.response
        if not 200 <= response.status <= 299:
            answer.read()
            raise ApiException(http_resp=answer)
        return response


@contextlib.contextmanager
def _translated(method: str, path: str) -> Iterator[None]:
    """Makes errors of ours of the client's."""
    subject = path.partition("/namespaces/")[2] or path
    try:
        yield
    except ApiException as error:
        raise _refusal(error, method, subject) from error
    except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
        raise _unreachable(Unavailable, "cannot be reached", error, subject) from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _unreachable(Unanswered, "did not answer", error, subject) from error


def _unreachable(kind: type[Unavailable], what: str, error: Exception, subject: str) -> Unavailable:
    found = kind(
        f"the Kubernetes API {what} ({type(error).__name__})",
        subject=subject,
        remedy="nothing is lost: it is asked again; look at the API server, the network policy and KUBECONFIG",
    )
    found.retry_after_s = _RETRY_S
    return found


def _refusal(error: ApiException, method: str, subject: str) -> Unavailable:
    if not error.status:  # of TLS: nobody has answered
        return _unreachable(Unavailable, "cannot be trusted or spoken to", error, subject)
    said = _message_of(error)
    remedy = _REMEDIES.get(error.status, "it is asked again")
    if error.status == 403 and "exceeded quota" in said:
        remedy = _QUOTA
    return Refused(
        f"the Kubernetes API refuses {method} with {error.status} ({said})",
        subject=subject,
        remedy=remedy,
        status=error.status,
        retry_after_s=_retry_after(error),
    )


def _message_of(error: ApiException) -> str:
    """What the Status that the API answered with says."""
    try:
        said = json.loads(error.body or "")["message"]
    except (ValueError, LookupError, TypeError):
        said = error.reason
    return " ".join(str(said).split())[:400]


def _retry_after(error: ApiException) -> float:
    try:
        return float((error.headers or {}).get("Retry-After", _RETRY_S))
    except ValueError:  # a date
        return _RETRY_S
