"""What the orchestrator may do by k8s/base/training/rights.yaml, and which requests that does not cover."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

RIGHTS = Path(__file__).resolve().parents[4] / "k8s" / "base" / "training" / "rights.yaml"
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


def list_refused(requests: Iterable[Any], namespace: str) -> list[str]:
    """Returns method and path of every request that RBAC refuses; the Role is bound in one namespace.

    Names do not count: some tests configure another PodTemplate.
    """
    return [f"{one.method.value} {one.url.path}" for one in requests if not _is_allowed(one, namespace)]


def _is_allowed(request: Any, namespace: str) -> bool:
    where, _, rest = request.url.path.partition("/namespaces/")
    own, resource, *names = rest.split("/")
    verb = _VERBS.get(request.method.value, "get" if names else "list")
    group = where.split("/")[2] if where.startswith("/apis/") else ""
    return own == namespace and any(
        group in rule["apiGroups"] and "/".join((resource, *names[1:])) in rule["resources"] and verb in rule["verbs"]
        for rule in _read_rules()
    )


@functools.cache
def _read_rules() -> list[dict[str, Any]]:
    (role,) = (item for item in yaml.safe_load_all(RIGHTS.read_text()) if item["kind"] == "Role")
    return list(role["rules"])
