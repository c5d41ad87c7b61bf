"""Calls the Kubernetes API through the official Python client. Errors are converted to vfmalign's errors.

Objects are passed as plain JSON, because the client's model classes drop fields that are newer than the client.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import kubernetes.client
import kubernetes.config
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config.incluster_config import InClusterConfigLoader

from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.finetuning.launchers.kubernetes.manifest import Json

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = (5.0, 20.0)  # to connect, and to wait for an answer
_RETRY_S = 0.5

_REMEDIES = {
    401: "renew the token of this service's account, or the credentials in KUBECONFIG",
    403: "bind Role vfmalign-finetuning (k8s/base/training) to this service's account, in that namespace",
    404: "check VFMALIGN_LAUNCHER__NAMESPACE, and apply the missing resources",
    400: "fix the PodTemplate: the message names the field",
    422: "fix the PodTemplate: the message names the field",
}
_QUOTA = "raise the ResourceQuota, or wait for running pods to end"


class Refused(Unavailable):
    """The Kubernetes API answered with an error.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, *, subject: str, remedy: str, status: int, retry_after_s: float) -> None:
        super().__init__(message, subject=subject, remedy=remedy)
        self.status = status
        self.retry_after_s = retry_after_s


class Unanswered(Unavailable):
    """The Kubernetes API did not answer a request. The API server may have executed the request."""

    retry_after_s = _RETRY_S


class Cluster:
    """One namespace of one cluster.

    Args:
        client: configured client of the official library.
        namespace: namespace of all calls.
    """

    def __init__(self, client: kubernetes.client.ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    def connect(cls, namespace: str = "", account: Path = _ACCOUNT) -> Cluster:
        """Returns the cluster in which this process runs. Outside a cluster, returns the cluster that KUBECONFIG names.

        Args:
            namespace: namespace for Jobs. If `namespace` is empty, the namespace of the pod or of the kubeconfig
                context is used.
            account: folder that contains the token of the service account in a pod.

        Raises:
            BadOption: the process does not run in a cluster, and KUBECONFIG does not name a cluster.
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
                "kubernetes is selected, but this process does not run in a cluster, and KUBECONFIG names none",
                subject="VFMALIGN_LAUNCHER__KIND",
                remedy="run the service in the cluster, or set KUBECONFIG to a complete file",
            ) from error
        # Callers retry in their next round; urllib3 would sleep within the round and delay all other jobs.
        configuration.retries = False
        return cls(kubernetes.client.ApiClient(configuration), namespace)

    def pod_template(self, name: str) -> Json:
        """Returns a core/v1 PodTemplate."""
        return self._json("GET", self._core("podtemplates", name))

    def create_job(self, manifest: Json) -> Json:
        """Creates a Job and returns it as stored."""
        return self._json("POST", self._batch("jobs"), body=manifest)

    def job(self, name: str) -> Json | None:
        """Returns a Job, or None if it does not exist."""
        try:
            return self._json("GET", self._batch("jobs", name))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def jobs(self, selector: str) -> list[Json]:
        """Returns all Jobs that match a label selector."""
        return self._json("GET", self._batch("jobs"), query={"labelSelector": selector}).get("items") or []

    def patch_job(self, name: str, patch: Json) -> Json:
        """Merges fields into a Job."""
        return self._json("PATCH", self._batch("jobs", name), body=patch)

    def delete_job(self, name: str, *, propagation: str) -> None:
        """Deletes a Job, and its pods after the Job (`Background`) or before the Job (`Foreground`)."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        self._json("DELETE", self._batch("jobs", name), body=body)

    def refused_pods(self, job: str) -> list[str]:
        """Returns the reasons why the Job controller could not create pods of a Job. The latest reason is last."""
        query = {"fieldSelector": f"regarding.kind=Job,regarding.name={job},reason=FailedCreate"}
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        events = self._json("GET", path, query=query).get("items") or []
        return [str(event.get("note") or "") for event in sorted(events, key=_last_seen)]

    def pods(self, selector: str) -> list[Json]:
        """Returns all pods that match a label selector."""
        return self._json("GET", self._core("pods"), query={"labelSelector": selector}).get("items") or []

    def log(self, pod: str, container: str, lines: int) -> str:
        """Returns the last lines of a container's log."""
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
            content: Json = json.loads(self._call(method, path, query=query, body=body).data)
        return content

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = self._client.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        answer = self._client.call_api(*request, _request_timeout=_TIMEOUT_S)
        response: urllib3.BaseHTTPResponse = answer.response
        if not 200 <= response.status <= 299:
            answer.read()
            raise ApiException(http_resp=answer)
        return response


def _last_seen(event: Json) -> str:
    """Returns when an Event was last seen, in RFC 3339. Controllers differ in the fields that they fill."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


@contextlib.contextmanager
def _translated(method: str, path: str) -> Iterator[None]:
    """Converts errors of the client."""
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
    result = kind(
        f"the Kubernetes API {what} ({type(error).__name__})",
        subject=subject,
        remedy="the call is retried; check the API server, the network policy and KUBECONFIG",
    )
    result.retry_after_s = _RETRY_S
    return result


def _refusal(error: ApiException, method: str, subject: str) -> Unavailable:
    if not error.status:  # a TLS error: no answer arrived
        return _unreachable(Unavailable, "cannot be reached over TLS", error, subject)
    message = _get_message(error)
    remedy = _REMEDIES.get(error.status, "the call is retried")
    if error.status == 403 and "exceeded quota" in message:
        remedy = _QUOTA
    return Refused(
        f"the Kubernetes API rejects {method} with {error.status} ({message})",
        subject=subject,
        remedy=remedy,
        status=error.status,
        retry_after_s=_retry_after(error),
    )


def _get_message(error: ApiException) -> str:
    """Returns the message of the Status object in the answer."""
    try:
        message = json.loads(error.body or "")["message"]
    except (ValueError, LookupError, TypeError):
        message = error.reason
    return " ".join(str(message).split())[:400]


def _retry_after(error: ApiException) -> float:
    try:
        return float((error.headers or {}).get("Retry-After", _RETRY_S))
    except ValueError:  # a date
        return _RETRY_S
