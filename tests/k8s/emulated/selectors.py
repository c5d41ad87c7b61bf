"""Label and field selectors of list requests."""

from __future__ import annotations

import re
from typing import Any

from tests.k8s.rendering import Object

# Commas separate terms, except between the parentheses of a set.
_TERMS = re.compile(r",(?![^(]*\))")


def is_selected(item: Object, query: dict[str, str]) -> bool:
    """Returns whether the selectors of a list request match an object."""
    labels = item["metadata"].get("labels") or {}
    terms = [term.strip() for term in _TERMS.split(query.get("labelSelector", "")) if term]
    fields = [term for term in query.get("fieldSelector", "").split(",") if term]
    return all(_matches_label(term, labels) for term in terms) and all(_matches_field(term, item) for term in fields)


def _matches_label(term: str, labels: dict[str, str]) -> bool:
    if " in " in term:
        name, _, values = term.partition(" in ")
        return labels.get(name) in [value.strip() for value in values.strip(" ()").split(",")]
    name, operator, value = (part.strip() for part in re.match(r"([^=!]+)(!?=?=?)(.*)", term).groups())  # type: ignore[union-attr]
    if operator == "!=":
        return labels.get(name) != value
    return name in labels and (not operator or labels[name] == value)


def _matches_field(term: str, item: Object) -> bool:
    path, operator, value = re.match(r"([^=!]+)(!?=?=)(.*)", term).groups()  # type: ignore[union-attr]
    node: Any = item
    for part in path.split("."):
        node = node.get(part, "") if isinstance(node, dict) else ""
    return (node == value) is (operator != "!=")
