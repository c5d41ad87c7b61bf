"""The patches that kubectl sends: strategic merge, JSON merge, JSON patch, and server-side apply as a merge."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
import yaml
from tests.k8s.rendering import Object


def apply_patch(item: Object, body: bytes, content_type: str) -> Object:
    """Returns the patched object."""
    if content_type.startswith("application/json-patch"):
        patched: Object = jsonpatch.apply_patch(item, json.loads(body))
        return patched
    patch = yaml.safe_load(body)
    return _merge(copy.deepcopy(item), patch, strategic=not content_type.startswith("application/merge-patch"))


def _merge(old: Any, new: Any, *, strategic: bool) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in new.items():
            if name.startswith("$"):  # directives about order and retained keys; deletions are handled in lists
                continue
            if value is None:
                old.pop(name, None)
            else:
                old[name] = _merge(old.get(name), value, strategic=strategic)
        return old
    if strategic and isinstance(old, list) and isinstance(new, list) and all(_is_named(one) for one in (*old, *new)):
        return _merge_lists(old, new)
    return new


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and "name" in item


def _merge_lists(old: list[Object], new: list[Object]) -> list[Object]:
    """Merges elements by their name, which is the merge key of containers, variables, volumes and ports."""
    merged = {item["name"]: item for item in old}
    for item in new:
        if item.get("$patch") == "delete":
            merged.pop(item["name"], None)
        else:
            merged[item["name"]] = _merge(merged.get(item["name"]), item, strategic=True)
    return list(merged.values())
