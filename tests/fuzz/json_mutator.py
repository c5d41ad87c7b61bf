"""Mutate JSON value by value, so that most inputs still parse and reach the code behind the parser."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63, -(2**63), 10**30,
    0.0, -0.0, 0.5, 1e-300, 1e300, float("inf"), float("nan"), "", "a", "A" * 300, "\0", "é", "../x", "/etc/passwd",
    "inf", "nan", [], {}, [[]], [0], [1, 1, 1], [2**31, 2**31, 2**31], ["a"],
)  # fmt: skip
_WIDEST = 64
"""Elements to which a list may be multiplied."""

Slot = tuple[Any, Any]
"""A container and the key or index of one of its values."""


def make_json_mutator(words: Sequence[str], mutate_bytes: Callable[[bytes, int], bytes]) -> Callable[..., bytes]:
    """Makes a mutator with the signature that libFuzzer expects.

    Args:
        words: strings that values are replaced by.
        mutate_bytes: libFuzzer's own mutation, used for one input in ten and for those that are not JSON.
    """

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        generator = random.Random(seed)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return mutate_bytes(data, max_bytes)
        if generator.random() < 0.1:
            return mutate_bytes(data, max_bytes)
        root = [document]
        for _ in range(generator.choice((1, 1, 1, 2, 3, 5))):
            _mutate_value(root, words, generator)
        mutated = json.dumps(root[0]).encode() if root else b"null"
        return mutated if len(mutated) <= max_bytes else data

    return mutate


def _mutate_value(root: list[Any], words: Sequence[str], generator: random.Random) -> None:
    slots = _list_slots(root)
    if not slots:
        return
    container, key = generator.choice(slots)
    action = generator.choice(("value", "value", "word", "copy", "copy", "near", "delete", "repeat", "rename"))
    if action == "value" or (action == "word" and not words):
        container[key] = copy.deepcopy(generator.choice(_VALUES))
    elif action == "word":
        container[key] = generator.choice(words)
    elif action == "copy":
        other, place = generator.choice(slots)
        container[key] = copy.deepcopy(other[place])
    elif action == "near" and isinstance(container[key], int | float):
        container[key] = _change_number(container[key], generator)
    elif action == "delete":
        del container[key]
    elif action == "repeat" and isinstance(container, list):
        container[key:key] = [copy.deepcopy(container[key]) for _ in range(generator.choice((1, 2, _WIDEST)))]
    elif action == "rename" and isinstance(container, dict):
        container[generator.choice([*container, *words[:64], "x"])] = container.pop(key)


def _change_number(number: float, generator: random.Random) -> float:
    try:
        return generator.choice((number + 1, number - 1, -number, number * 2, number * 1000, number / 2))
    except OverflowError:
        return 0


def _list_slots(root: list[Any]) -> list[Slot]:
    slots: list[Slot] = []
    containers: list[Any] = [root]
    while containers:
        container = containers.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            slots.append((container, key))
            if isinstance(value, dict | list):
                containers.append(value)
    return slots
