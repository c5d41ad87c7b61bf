"""Evaluate NetworkPolicies as a network plugin would: which pods can reach which others.

Covers the semantics of networking.k8s.io/v1 for pods of any namespace and for addresses outside the cluster, without
service meshes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.k8s.rendering import NAMESPACE, Object, Pod


@dataclass(frozen=True)
class Caller:
    """A pod with some labels.

    Attributes:
        labels: its labels.
        namespace: its namespace, which need not be one of the manifests.
    """

    labels: dict[str, str]
    namespace: str = NAMESPACE


def to_caller(pod: Pod) -> Caller:
    """Returns the pods of a template as callers."""
    return Caller(pod.labels, pod.namespace)


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Returns whether a label selector matches labels. An empty selector matches everything."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def isolated(objects: Sequence[Object], pod: Pod) -> set[str]:
    """Returns the directions in which policies restrict this pod."""
    return {kind for policy in _selecting(objects, to_caller(pod)) for kind in policy["spec"]["policyTypes"]}


def may_call(objects: Sequence[Object], caller: Caller, called: Pod, port: int) -> bool:
    """Returns whether a pod can reach a TCP port of another pod."""
    return _passes(objects, caller, "egress", to_caller(called), port, {}) and _passes(
        objects, to_caller(called), "ingress", caller, port, _port_names(called)
    )


def may_leave(objects: Sequence[Object], caller: Caller, address: str, port: int) -> bool:
    """Returns whether a pod can reach a TCP port of an address outside the cluster."""
    return _passes(objects, caller, "egress", address, port, {})


def may_be_reached(objects: Sequence[Object], called: Pod, address: str, port: int) -> bool:
    """Returns whether an address outside the cluster can reach a TCP port of a pod."""
    return _passes(objects, to_caller(called), "ingress", address, port, _port_names(called))


def _selecting(objects: Sequence[Object], pod: Caller) -> list[Object]:
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    own = [item for item in policies if item["metadata"].get("namespace") == pod.namespace]
    return [item for item in own if matches(item["spec"]["podSelector"], pod.labels)]


def _passes(
    objects: Sequence[Object], subject: Caller, direction: str, other: Caller | str, port: int, names: dict[str, int]
) -> bool:
    policies = [one for one in _selecting(objects, subject) if direction.capitalize() in one["spec"]["policyTypes"]]
    peers = "to" if direction == "egress" else "from"
    return not policies or any(
        any(_is_peer(objects, peer, subject, other) for peer in rule[peers]) and _has_port(rule, port, names)
        for policy in policies
        for rule in policy["spec"].get(direction, ())
    )


def _is_peer(objects: Sequence[Object], peer: dict[str, Any], subject: Caller, other: Caller | str) -> bool:
    """Returns whether a peer of a policy in the subject's namespace is the other pod or address."""
    if isinstance(other, str):
        block = peer.get("ipBlock")
        address = ipaddress.ip_address(other)
        return bool(
            block
            and address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(hole) for hole in block.get("except", ()))
        )
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        in_namespace = matches(peer["namespaceSelector"], _namespace_labels(objects, other.namespace))
    else:
        in_namespace = other.namespace == subject.namespace
    return in_namespace and matches(peer.get("podSelector", {}), other.labels)


def _namespace_labels(objects: Sequence[Object], name: str) -> dict[str, str]:
    own = [item for item in objects if (item["kind"], item["metadata"]["name"]) == ("Namespace", name)]
    labels = own[0]["metadata"].get("labels", {}) if own else {}
    return {"kubernetes.io/metadata.name": name, **labels}


def _has_port(rule: dict[str, Any], port: int, names: dict[str, int]) -> bool:
    if "ports" not in rule:
        return True
    return any(
        names.get(one["port"], one["port"]) == port for one in rule["ports"] if one.get("protocol", "TCP") == "TCP"
    )


def _port_names(pod: Pod) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for container in pod.containers for port in container.get("ports", ())}
