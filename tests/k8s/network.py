"""Evaluate NetworkPolicies as a network plugin would: which pods of a namespace can reach which others.

Covers the semantics of networking.k8s.io/v1 for pods of one namespace and for addresses outside the cluster, without
service meshes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from tests.k8s.rendering import Object, Pod


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a label selector matches labels. An empty selector matches everything."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def isolated(objects: Sequence[Object], pod: Pod) -> set[str]:
    """Return the directions in which policies restrict this pod."""
    return {kind for policy in _selecting(objects, pod.labels) for kind in policy["spec"]["policyTypes"]}


def may_call(objects: Sequence[Object], caller: dict[str, str], called: Pod, port: int) -> bool:
    """Return whether a pod with these labels can reach a TCP port of another pod in the namespace."""
    return _passes(objects, caller, "egress", called.labels, port, {}) and _passes(
        objects, called.labels, "ingress", caller, port, _port_names(called)
    )


def may_leave(objects: Sequence[Object], caller: dict[str, str], address: str, port: int) -> bool:
    """Return whether a pod with these labels can reach a TCP port of an address outside the cluster."""
    return _passes(objects, caller, "egress", address, port, {})


def _selecting(objects: Sequence[Object], labels: dict[str, str]) -> list[Object]:
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    return [item for item in policies if matches(item["spec"]["podSelector"], labels)]


def _passes(
    objects: Sequence[Object],
    subject: dict[str, str],
    direction: str,
    other: dict[str, str] | str,
    port: int,
    names: dict[str, int],
) -> bool:
    policies = [one for one in _selecting(objects, subject) if direction.capitalize() in one["spec"]["policyTypes"]]
    peers = "to" if direction == "egress" else "from"
    return not policies or any(
        any(_is_peer(peer, other) for peer in rule[peers]) and _has_port(rule, port, names)
        for policy in policies
        for rule in policy["spec"].get(direction, ())
    )


def _is_peer(peer: dict[str, Any], other: dict[str, str] | str) -> bool:
    if isinstance(other, str):
        block = peer.get("ipBlock")
        address = ipaddress.ip_address(other)
        return bool(
            block
            and address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(hole) for hole in block.get("except", ()))
        )
    return "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], other)


def _has_port(rule: dict[str, Any], port: int, names: dict[str, int]) -> bool:
    if "ports" not in rule:
        return True
    return any(
        names.get(one["port"], one["port"]) == port for one in rule["ports"] if one.get("protocol", "TCP") == "TCP"
    )


def _port_names(pod: Pod) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for container in pod.containers for port in container.get("ports", ())}
